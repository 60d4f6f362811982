"""Build data sets from observations. Extractors use these functions.

`node_dataset`, `container_dataset` and `divided_dataset` take the arrays of `Observations`, or arrays of the same
shapes that an extractor calculated from these arrays. They build the pandas frame of a `Dataset` without a Python
loop over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.dataset import CONTAINER_LEVELS, NODE_LEVELS, Dataset, RowNumbers, power_column
from kepler_core.grouping import Scalar, sum_by
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.observations import Observations, has_short_window
from kepler_core.vocabulary import main_feature

_MOST_RUNS = 1000
"""If more runs of rows remain, the rows are copied by their indices."""


def node_dataset(
    observations: Observations,
    node_features: Mapping[str, FloatArray],
    power: Mapping[str, FloatArray],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """Return a data set with one row per sample at which all features and all components are known.

    `node_features` (rates per second or gauges, by feature) and `power` (watts, by component) have shape
    (samples,). NaN stands for "not known".
    """
    columns = {**{name: _over_windows(observations, node_features[name], source) for name in features}, **power}
    block, kept = _known_block(columns)
    return _dataset(observations, block, features, source, kept, by_container=False)


def container_dataset(
    observations: Observations,
    container_features: Mapping[str, FloatArray],
    node_features: Mapping[str, FloatArray],
    power: Mapping[str, FloatArray],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """Return a data set with one row per container and sample, with the container's share of the power.

    `container_features` (rates per second, by feature) has shape (rows,). `node_features` and `power` (the
    node's watts, by component) have shape (samples,). A row is left out if a feature or a component is not
    known (NaN) for the container or its node.

    A container's share of a component's power equals its share of the component's main feature; Kepler
    attributes power in the same way. If the main feature is 0 for all containers of a sample, their shares are
    equal. Counters that exist only for the whole node, e.g. of an accelerator, are divided among the containers
    like package power. The values of a node's gauges are repeated in the row of each container.

    Raises `ValueError` if no feature has a counter of its own for each container.
    """
    row_sample = observations.row_sample
    own = [name for name in features if name in container_features]
    if not own:
        raise ValueError(f"none of {', '.join(features)} is counted per container")
    known_samples = np.logical_and.reduce(
        [np.isfinite(node_features[name]) for name in features] + [np.isfinite(watts) for watts in power.values()]
    )
    # Keep only samples whose power was measured since the previous sample. If the power covers a longer time,
    # containers may have started and ended in this time.
    known_samples &= has_short_window(observations, source)
    is_known = known_samples[row_sample]
    for name in own:
        is_known &= np.isfinite(container_features[name])
    kept = _KnownRows(is_known)
    sample = kept.of(row_sample)
    block = _Block([*features, *power], len(sample))
    for name in own:
        kept.of(container_features[name], block.column(name))

    def share(component: str) -> FloatArray:
        name = main_feature(own, component)
        # Do not use the column of `block` as the cache key: the cache would keep the whole block in memory.
        shares: FloatArray = _memoized(
            observations,
            "share",
            (container_features[name], kept.edges),
            lambda: _shares(block.column(name), sample, len(known_samples)),
        )
        return shares

    for name in features:
        if name not in own:
            column = block.fill(name, node_features[name], sample)
            if name not in observations.node_gauges:
                column *= share("package")
    for component, watts in power.items():
        column = block.fill(component, watts, sample)
        column *= share(component)
    return _dataset(observations, block, features, source, kept, by_container=True)


def divided_dataset(
    observations: Observations,
    row_features: Mapping[str, FloatArray],
    row_power: Mapping[str, FloatArray],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """Return a data set with one row per container, from features and power that are already divided among containers.

    `row_features` (by feature) and `row_power` (watts, by component) have the shape (rows,). Rows with an unknown
    value (NaN) are left out.
    """
    columns = {**{name: row_features[name] for name in features}, **row_power}
    block, kept = _known_block(columns)
    return _dataset(observations, block, features, source, kept, by_container=True)


def _over_windows(observations: Observations, values: FloatArray, source: str) -> FloatArray:
    """Return the mean of a feature over the time that each sample's power covers, shape (samples,).

    This time may be longer than one sample. `Observations.windows` tells when it begins. A mean that is not known is
    NaN.
    """
    begins = observations.windows.get(source)
    if begins is None:
        return values
    ends = np.arange(1, len(values) + 1)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    n_known = np.concatenate([[0], np.cumsum(known)])
    lengths = ends - begins - 1
    means = (sums[ends] - sums[begins + 1]) / np.maximum(lengths, 1)
    is_whole = (begins >= 0) & (n_known[ends] - n_known[begins + 1] == lengths)
    return np.where(is_whole, means, np.nan)


def _memoized(
    observations: Observations, name: str, arrays: tuple[NDArray[Any], ...], calculate: Callable[[], Any]
) -> Any:
    """Return the result of `calculate`, which depends on `arrays` only.

    The observations cache the result under `name`. A later call with equal `arrays` returns the cached result.
    """
    return observations.memos.setdefault(name, ArrayMemo()).get(arrays, calculate)


def _shares(usage: FloatArray, sample: IntArray, n: int) -> FloatArray:
    """Return each row's usage divided by the sum of the usage in the row's sample, shape (rows,)."""
    usage = np.maximum(usage, 0.0)  # values of gauges can be negative, but shares must not be
    total = sum_by(usage, sample, n)
    count = np.bincount(sample, minlength=n)
    busy = total > 0
    per_unit = np.divide(1.0, total, out=np.zeros(n), where=busy)
    equal = np.divide(1.0, count, out=np.zeros(n), where=count > 0)
    return np.where(busy[sample], usage * per_unit[sample], equal[sample])


class _Block:
    """The columns of a frame in one array. Columns are filled in place, and pandas uses the array without a copy.

    For a million rows, copying the columns would take longer than the calculations.
    """

    def __init__(self, names: Sequence[str], rows: int) -> None:
        self.names = tuple(names)
        self.array = np.empty((len(names), rows))
        self._at = {name: at for at, name in enumerate(names)}

    def column(self, name: str) -> FloatArray:
        """Return a column as a view of the array, so that writing into it fills the column."""
        view: FloatArray = self.array[self._at[name]]
        return view

    def fill(self, name: str, values: FloatArray, indices: IntArray) -> FloatArray:
        """Fill a column with `values[indices]` and return it."""
        # With the default mode="raise" of np.take, NumPy would write into a copy of `out` first, which is slower.
        return np.take(values, indices, out=self.column(name), mode="clip")


class _KnownRows:
    """The rows in which all values are known.

    Usually, a few timestamps have unknown values, so that a few long runs of rows remain. Copying runs takes half of
    the time of copying row by row.
    """

    def __init__(self, is_known: BoolArray) -> None:
        self.edges: IntArray = np.flatnonzero(np.diff(is_known, prepend=False, append=False))
        """First row of each run, and first row after it, alternately. Equal rows have equal edges."""
        runs = self.edges.reshape(-1, 2).tolist()
        self._slices = [slice(first, end) for first, end in runs] if len(runs) <= _MOST_RUNS else None
        self._indices = None if self._slices else np.flatnonzero(is_known)

    def of(self, values: NDArray[Scalar], out: NDArray[Scalar] | None = None) -> NDArray[Scalar]:
        """Return the values of these rows, which are also written to `out`."""
        if self._slices:
            return np.concatenate([values[rows] for rows in self._slices], out=out)
        assert self._indices is not None
        # See `_Block.fill` for mode="clip".
        return np.take(values, self._indices, out=out, mode="clip")


def _known_block(columns: Mapping[str, FloatArray]) -> tuple[_Block, _KnownRows]:
    """Return the rows in which all columns are known (not NaN)."""
    is_known = np.logical_and.reduce([np.isfinite(column) for column in columns.values()])
    kept = _KnownRows(is_known)
    block = _Block(list(columns), int(np.count_nonzero(is_known)))
    for name, column in columns.items():
        kept.of(column, block.column(name))
    return block, kept


def _dataset(
    observations: Observations,
    block: _Block,
    features: Sequence[str],
    source: str,
    kept: _KnownRows,
    *,
    by_container: bool,
) -> Dataset:
    """Return a data set whose features and powers are the columns of a block.

    With `by_container`, `kept` states which rows of the observations are the rows of the data set. Otherwise, it states
    which samples are.
    """
    name = "container index" if by_container else "node index"

    def numbers_of_rows() -> RowNumbers:
        if by_container:
            sample, container = kept.of(observations.row_sample), kept.of(observations.row_container)
            return RowNumbers(_index(observations, sample, container))
        return RowNumbers(_index(observations, kept.of(np.arange(len(observations.sample_time))), None))

    numbers: RowNumbers = _memoized(observations, name, (kept.edges,), numbers_of_rows)
    components = tuple(block.names[len(features) :])
    columns = [*features, *(power_column(component) for component in components)]
    frame = pd.DataFrame(block.array.T, columns=columns, index=numbers.index, copy=False)
    repeated = tuple(name for name in features if name in observations.node_gauges)
    return Dataset(frame, tuple(features), source, components, repeated=repeated, row_numbers=numbers)


def _index(observations: Observations, sample: IntArray, container: IntArray | None) -> pd.MultiIndex:
    # The index is built from integer codes for its labels. For a million rows, building it from the labels would take
    # longer than all other steps together.
    stream = observations.sample_stream[sample]
    recordings, recording = np.unique([s.recording for s in observations.streams], return_inverse=True)
    nodes, node = np.unique([s.node for s in observations.streams], return_inverse=True)
    times, time = np.unique(observations.sample_time, return_inverse=True)
    levels: list[Any] = [pd.Index(recordings), pd.Index(nodes), pd.Index(times)]
    codes: list[Any] = [recording[stream], node[stream], time[sample]]
    names = list(NODE_LEVELS)
    if container is not None:
        levels.append(pd.Index(list(observations.containers)))
        codes.append(container)
        names = list(CONTAINER_LEVELS)
    return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=False)
