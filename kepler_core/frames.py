"""Observations laid out as data-set frames: what extractors are made of.

`node_dataset` and `container_dataset` take the arrays of `Observations` (or smoothed copies of
them, of the same shapes) and build the frame of a `Dataset` without a loop over rows.
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
from kepler_core.recording.observations import Observations, Once
from kepler_core.vocabulary import main_feature


def node_dataset(
    observations: Observations,
    node_features: Mapping[str, FloatArray],
    power: Mapping[str, FloatArray],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """One row per instant at which all features and all components are known.

    `node_features` and `power` (by component) have shape (instants,).
    """
    columns = {**{name: node_features[name] for name in features}, **power}
    known = np.logical_and.reduce([np.isfinite(column) for column in columns.values()])
    kept = np.flatnonzero(known)
    block = _Block(list(columns), len(kept))
    for name, column in columns.items():
        block.take(name, column, kept)
    return _dataset(observations, block, features, source, kept, None)


def container_dataset(
    observations: Observations,
    container_features: Mapping[str, FloatArray],
    node_features: Mapping[str, FloatArray],
    power: Mapping[str, FloatArray],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """One row per instant and container; power is the container's share of the node's.

    A container's share of a component is its share of the component's main feature (equal shares
    where nothing is used at all), as Kepler attributes it. Counters that exist once per node
    (accelerators) are shared like package power; a node's gauges are repeated in every row.
    """
    row_instant = observations.row_instant
    own = [name for name in features if name in container_features]
    if not own:
        raise ValueError(f"none of {', '.join(features)} is counted by container")
    known_instant = np.logical_and.reduce(
        [np.isfinite(node_features[name]) for name in features] + [np.isfinite(watts) for watts in power.values()]
    )
    known = known_instant[row_instant]
    for name in own:
        known &= np.isfinite(container_features[name])
    kept = np.flatnonzero(known)
    instant = row_instant[kept]
    block = _Block([*features, *power], len(kept))
    for name in own:
        block.take(name, container_features[name], kept)

    def share(component: str) -> FloatArray:
        usage = block.column(main_feature(own, component))
        shares: FloatArray = _once(
            observations, "share", (usage, instant), lambda: _share(usage, instant, len(known_instant))
        )
        return shares

    for name in features:
        if name not in own:
            column = block.take(name, node_features[name], instant)
            if name not in observations.node_gauges:
                column *= share("package")
    for component, watts in power.items():
        column = block.take(component, watts, instant)
        column *= share(component)
    return _dataset(observations, block, features, source, instant, observations.row_container[kept])


def _once(observations: Observations, what: str, arrays: tuple[NDArray[Any], ...], work: Callable[[], Any]) -> Any:
    return observations.remembered.setdefault(what, Once()).of(arrays, work)


def _share(usage: FloatArray, instant: IntArray, n: int) -> FloatArray:
    usage = np.maximum(usage, 0.0)  # a gauge may be negative; a share may not
    total = sum_by(usage, instant, n)
    count = np.bincount(instant, minlength=n)
    busy = total > 0
    per_unit = np.divide(1.0, total, out=np.zeros(n), where=busy)
    equal = np.divide(1.0, count, out=np.zeros(n), where=count > 0)
    return np.where(busy[instant], usage * per_unit[instant], equal[instant])


class _Block:
    """Columns in the one array that pandas keeps them in, filled in place: memory for copies of a
    million rows costs more than the sums over them."""

    def __init__(self, names: Sequence[str], rows: int) -> None:
        self.names = tuple(names)
        self.array = np.empty((len(names), rows))
        self._at = {name: at for at, name in enumerate(names)}

    def column(self, name: str) -> FloatArray:
        """A view."""
        view: FloatArray = self.array[self._at[name]]
        return view

    def take(self, name: str, values: FloatArray, rows: IntArray) -> FloatArray:
        """Fill a column with some of the values; the column."""
        # without a mode, NumPy makes a copy first in case an index is out of range
        return np.take(values, rows, out=self.column(name), mode="clip")


def _dataset(
    observations: Observations,
    block: _Block,
    features: Sequence[str],
    source: str,
    instant: IntArray,
    container: IntArray | None,
) -> Dataset:
    key = (instant,) if container is None else (instant, container)
    what = "node index" if container is None else "container index"
    index = _once(observations, what, key, lambda: _index(observations, instant, container))
    components = tuple(block.names[len(features) :])
    columns = [*features, *(power_column(component) for component in components)]
    frame = pd.DataFrame(block.array.T, columns=columns, index=index, copy=False)
    repeated = tuple(name for name in features if name in observations.node_gauges)
    return Dataset(frame, tuple(features), source, components, repeated=repeated)


def _index(observations: Observations, instant: IntArray, container: IntArray | None) -> pd.MultiIndex:
    # Built from codes: making them from a million labels would cost more than all the rest.
    stream = observations.instant_stream[instant]
    recordings, recording = np.unique([s.recording for s in observations.streams], return_inverse=True)
    nodes, node = np.unique([s.node for s in observations.streams], return_inverse=True)
    times, time = np.unique(observations.instant_time, return_inverse=True)
    levels: list[Any] = [pd.Index(recordings), pd.Index(nodes), pd.Index(times)]
    codes: list[Any] = [recording[stream], node[stream], time[instant]]
    names = list(NODE_LEVELS)
    if container is not None:
        levels.append(pd.Index(list(observations.containers)))
        codes.append(container)
        names = list(CONTAINER_LEVELS)
    return pd.MultiIndex(levels=levels, codes=codes, names=names, verify_integrity=False)
