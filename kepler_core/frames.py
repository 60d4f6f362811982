"""Observations laid out as data-set frames: what extractors are made of.

`node_dataset` and `container_dataset` take the arrays of `Observations` (or smoothed copies of
them, of the same shapes) and build the frame of a `Dataset` without a loop over rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kepler_core.dataset import CONTAINER_LEVELS, NODE_LEVELS, Dataset, power_column
from kepler_core.grouping import sum_by
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import main_feature

Floats = NDArray[np.float64]


def node_dataset(
    observations: Observations,
    node_features: Mapping[str, Floats],
    power: Mapping[str, Floats],
    features: Sequence[str],
    source: str,
) -> Dataset:
    """One row per instant at which all features and all components are known.

    `node_features` and `power` (by component) have shape (instants,).
    """
    columns = [node_features[name] for name in features] + list(power.values())
    known = np.logical_and.reduce([np.isfinite(column) for column in columns])
    kept = np.flatnonzero(known)
    block = _Block(len(columns), len(kept))
    for column in columns:
        block.add(column[kept])
    return _dataset(observations, block, features, source, tuple(power), kept, None)


def container_dataset(
    observations: Observations,
    container_features: Mapping[str, Floats],
    node_features: Mapping[str, Floats],
    power: Mapping[str, Floats],
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
    values = {name: container_features[name][kept] for name in own}
    shares: dict[str, Floats] = {}

    def share(component: str) -> Floats:
        main = main_feature(own, component)
        if main not in shares:
            shares[main] = _share(values[main], instant, len(known_instant))
        return shares[main]

    block = _Block(len(features) + len(power), len(kept))
    for name in features:
        if name in values:
            block.add(values[name])
        elif name in observations.node_gauges:
            block.add(node_features[name][instant])
        else:
            block.add(node_features[name][instant] * share("package"))
    for component, watts in power.items():
        block.add(watts[instant] * share(component))
    return _dataset(observations, block, features, source, tuple(power), instant, observations.row_container[kept])


def _share(usage: Floats, instant: NDArray[np.int64], n: int) -> Floats:
    total = sum_by(usage, instant, n)
    count = np.bincount(instant, minlength=n)
    busy = total > 0
    per_unit = np.divide(1.0, total, out=np.zeros(n), where=busy)
    equal = np.divide(1.0, count, out=np.zeros(n), where=count > 0)
    return np.where(busy[instant], usage * per_unit[instant], equal[instant])


class _Block:
    """Columns in the one array that pandas keeps them in, so that it has nothing to copy."""

    def __init__(self, columns: int, rows: int) -> None:
        self.array = np.empty((columns, rows))
        self._filled = 0

    def add(self, column: Floats) -> None:
        self.array[self._filled] = column
        self._filled += 1


def _dataset(
    observations: Observations,
    block: _Block,
    features: Sequence[str],
    source: str,
    components: tuple[str, ...],
    instant: NDArray[np.int64],
    container: NDArray[np.int64] | None,
) -> Dataset:
    names = [*features, *(power_column(component) for component in components)]
    index = _index(observations, instant, container)
    frame = pd.DataFrame(block.array.T, columns=names, index=index, copy=False)
    repeated = tuple(name for name in features if name in observations.node_gauges)
    return Dataset(frame, tuple(features), source, components, repeated=repeated)


def _index(
    observations: Observations, instant: NDArray[np.int64], container: NDArray[np.int64] | None
) -> pd.MultiIndex:
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
