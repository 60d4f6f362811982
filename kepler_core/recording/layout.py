"""Lay out the metrics of a recording by node, time and container.

A *point* is here what Prometheus calls a sample: one value of one series at one time. A *sample* is a
node at a timestamp, and a *row* a container in a sample, as in `Observations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.meters import Meter
from kepler_core.recording.metric_mapping import MappedMetric, SeriesCodes
from kepler_core.recording.node_values import known_first, node_power, sum_of_containers, value_of_node
from kepler_core.recording.observations import Observations, Stream
from kepler_core.recording.points import Points, Position, points_of


@attrs.frozen(eq=False)
class _Samples:
    """The samples that have at least one point."""

    stream: IntArray
    """Index of each sample's stream, shape (samples,)."""
    node: IntArray
    """Number of each stream's node, shape (streams,)."""
    time: FloatArray
    """Unix seconds, shape (samples,)."""


@attrs.frozen(eq=False)
class _Rows:
    """The rows that have at least one point."""

    sample: IntArray
    """Index of each row's sample, shape (rows,), ascending."""
    unit: IntArray
    """Number of each row's container, shape (rows,)."""


def lay_out(
    recording: Recording,
    schema_name: str,
    mapped: list[MappedMetric],
    codes: SeriesCodes,
    meters: Mapping[str, Meter],
    step: float,
    counts: Counts,
) -> Observations:
    """Return the observations of one recording. `step` is the usual interval in seconds."""
    grid = _time_grid(mapped)
    positions: ArrayMemo[Position] = ArrayMemo()
    points = [points_of(item, grid, positions, counts) for item in mapped if item.metric.n_samples]
    samples = _number_samples(points, positions.results, grid, len(codes.nodes))
    by_container = [p for p in points if p.is_feature and p.mapping.level != "node"]
    rows = _number_rows(by_container, max(len(codes.units), 1))
    container_features, upcoming = _container_features(by_container, len(rows.sample), len(samples.time))
    node_features = {
        name: sum_of_containers(values, rows.sample, upcoming[name], name, counts)
        for name, values in container_features.items()
    }
    of_node = [p for p in points if p.is_feature and p.mapping.level == "node"]
    for p in of_node:
        values = value_of_node(p, len(samples.time))
        node_features[p.mapping.name] = known_first(node_features.get(p.mapping.name), values)
    power: dict[tuple[str, str], FloatArray] = {}
    for p in points:
        if not p.is_feature:
            for key, watts in node_power(p, samples.stream, meters, counts).items():
                power[key] = known_first(power.get(key), watts)
    used_units = np.unique(rows.unit)
    nodes, units = codes.nodes.words, codes.units.words
    containers = [units[code] for code in used_units]
    return Observations(
        streams=tuple(Stream(recording.name, nodes[code]) for code in samples.node),
        sample_stream=samples.stream,
        sample_time=samples.time,
        containers=tuple(containers),
        container_names=tuple(codes.unit_names.get(container) or container for container in containers),
        row_sample=rows.sample,
        row_container=np.searchsorted(used_units, rows.unit),
        container_features=container_features,
        node_features=node_features,
        node_gauges=frozenset(p.mapping.name for p in of_node if not p.mapping.counter),
        power=power,
        step=step,
        counts=counts,
        schemas=(schema_name,),
        digest=recording.digest,
    )


def _time_grid(mapped: list[MappedMetric]) -> FloatArray:
    """Return all timestamps, sorted.

    The metrics with the fewest samples come first: series of a range query have the same timestamps, so
    that the long metrics seldom add any.
    """
    grid = np.empty(0)
    seen: ArrayMemo[None] = ArrayMemo()
    for item in sorted(mapped, key=lambda item: item.metric.n_samples):

        def add(times: FloatArray = item.metric.timestamps) -> None:
            nonlocal grid
            if len(grid):
                at = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
                times = times[grid[at] != times]
            if len(times):
                grid = np.union1d(grid, times)

        seen.get((item.metric.timestamps,), add)
    return grid


def _number_samples(
    points: Sequence[Points], positions: Sequence[Position], grid: FloatArray, n_nodes: int
) -> _Samples:
    """Number the samples that have points, and write the numbers into the positions."""
    n_times = max(len(grid), 1)
    present: BoolArray = np.zeros(n_nodes * n_times, dtype=bool)
    for p in points:
        present[p.position.sample] = True
    cells = np.flatnonzero(present)
    number_of_cell = np.cumsum(present) - 1
    for position in positions:
        position.sample = number_of_cell[position.sample]
    node_of_sample, time_of_sample = np.divmod(cells, n_times)
    nodes, stream = np.unique(node_of_sample, return_inverse=True)
    time = grid[time_of_sample] if len(grid) else np.empty(0)
    return _Samples(stream, nodes, time)


def _number_rows(by_container: Sequence[Points], n_units: int) -> _Rows:
    """Number the rows that have points, and write the numbers into the positions."""
    positions = {id(p.position): p.position for p in by_container}.values()
    keys = [position.sample * n_units + position.unit for position in positions]
    rows = _union(keys)
    for position, key in zip(positions, keys, strict=True):
        position.row = np.searchsorted(rows, key)
    sample, unit = np.divmod(rows, n_units)
    return _Rows(sample, unit)


def _union(keys: Sequence[IntArray]) -> IntArray:
    rows = np.empty(0, dtype=np.int64)
    for key in keys:
        rows = np.sort(np.concatenate([rows, key])) if len(rows) else np.sort(key)
        repeated = rows[1:] == rows[:-1]
        if repeated.any():
            rows = rows[np.concatenate([[True], ~repeated])]
    return rows


def _container_features(
    by_container: Sequence[Points], n_rows: int, n_samples: int
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the features by row, and the sums of the upcoming rates (`Points.upcoming`) by sample."""
    features: dict[str, FloatArray] = {}
    upcoming: dict[str, FloatArray] = {}
    for p in by_container:
        name = p.mapping.name
        assert p.position.row is not None
        values = _spread(n_rows, p.position.row, p.values)
        features[name] = known_first(features.get(name), values)
        upcoming.setdefault(name, np.zeros(n_samples))
        if p.upcoming is not None:
            upcoming[name] += sum_by(p.upcoming, p.position.sample, n_samples)
    return features, upcoming


def _spread(n: int, at: IntArray, values: FloatArray) -> FloatArray:
    """Return an array of `n` values: `values` at the indices `at`, NaN elsewhere."""
    column = np.empty(n) if len(at) == n else np.full(n, np.nan)
    column[at] = values
    return column
