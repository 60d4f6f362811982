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

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.dataset import CONTAINER_LEVELS, NODE_LEVELS, Dataset, power_column
from kepler_core.grouping import sum_by
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.observations import Observations, has_short_window
from kepler_core.vocabulary import main_feature


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
    block, kept = _known_rows(columns)
    return _dataset(observations, block, features, source, kept, None)


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
    kept = np.flatnonzero(is_known)
    sample = row_sample[kept]
    block = _Block([*features, *power], len(kept))
    for name in own:
        block.fill(name, container_features[name], kept)

    def share(component: str) -> FloatArray:
        name = main_feature(own, component)
        # Do not use the column of `block` as the cache key: the cache would keep the whole block in memory.
        shares: FloatArray = _memoized(
            observations,
            "share",
            (container_features[name], kept),
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
    return _dataset(observations, block, features, source, sample, observations.row_container[kept])


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
    block, kept = _known_rows(columns)
    sample, container = observations.row_sample[kept], observations.row_container[kept]
    return _dataset(observations, block, features, source, sample, container)


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


def _known_rows(columns: Mapping[str, FloatArray]) -> tuple[_Block, IntArray]:
    """Return the rows in which all columns are known (not NaN), and the numbers of these rows."""
    kept = np.flatnonzero(np.logical_and.reduce([np.isfinite(column) for column in columns.values()]))
    block = _Block(list(columns), len(kept))
    for name, column in columns.items():
        block.fill(name, column, kept)
    return block, kept


def _dataset(
    observations: Observations,
    block: _Block,
    features: Sequence[str],
    source: str,
    sample: IntArray,
    container: IntArray | None,
) -> Dataset:
    """Return a data set whose features and powers are the columns of a block.

    `sample` and `container` hold the number of each row's sample and container, shape (rows,). `container` is None if
    each row is a whole node at a timestamp.
    """
    arrays = (sample,) if container is None else (sample, container)
    name = "node index" if container is None else "container index"
    index = _memoized(observations, name, arrays, lambda: _index(observations, sample, container))
    components = tuple(block.names[len(features) :])
    columns = [*features, *(power_column(component) for component in components)]
    frame = pd.DataFrame(block.array.T, columns=columns, index=index, copy=False)
    repeated = tuple(name for name in features if name in observations.node_gauges)
    return Dataset(frame, tuple(features), source, components, repeated=repeated)


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
