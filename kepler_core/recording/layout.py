"""Lay out the metrics of a recording by node, time and container.

In this module, a *point* is what Prometheus calls a sample: one value of one series at one time. As in
`Observations`, a *sample* is a node at a timestamp, and a *row* is a container in a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import MetricMapping
from kepler_core.grouping import distinct, sum_by
from kepler_core.messages import printable
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.frozen_meters import find_windows
from kepler_core.recording.laid_out import LaidOut
from kepler_core.recording.meters import Meter
from kepler_core.recording.metric_mapping import MappedMetric, SeriesCodes
from kepler_core.recording.node_values import (
    NEGLIGIBLE_FRACTION,
    combined,
    forget_uncounted,
    known_first,
    node_power,
    sum_of_containers,
    units_of_totals,
    value_of_node,
)
from kepler_core.recording.observations import Observations, Stream
from kepler_core.recording.points import Points, Position, Samples, points_of, position_of
from kepler_core.recording.screening import screen

_DENSE_CELLS = 2**22
_DENSE_FACTOR = 8
"""Maximum size of an array with a cell for each node and timestamp, as a multiple of the number of values.

If nodes have no timestamps in common, the array would be larger, and most of its cells would be empty. Then
`_number_samples` sorts the values instead.
"""


@attrs.frozen(eq=False)
class _Rows:
    """The rows of a recording: a row is a container in a sample in which the container has any value."""

    sample: IntArray
    """Index of each row's sample, shape (rows,), ascending."""
    unit: IntArray
    """Index of each row's container in `SeriesCodes.units`, shape (rows,)."""


def lay_out(
    recording: Recording,
    schemas: tuple[str, ...],
    mapped: list[MappedMetric],
    codes: SeriesCodes,
    meters: Mapping[str, Meter],
    step: float,
    cpus: int | None,
    counts: Counts,
) -> Observations:
    """Return the observations of one recording from its mapped metrics.

    `schemas` are the names of the metric schemas that the recording follows. `step` is the usual number of seconds
    between two samples of a node. `meters` maps source labels to meters. `cpus` is the number of CPUs of each node.
    """
    grid = _time_grid(mapped)
    positions: ArrayMemo[Position] = ArrayMemo()
    mapped = [item for item in mapped if item.metric.n_samples]
    position_of_item = [position_of(item, grid, positions) for item in mapped]
    samples = _number_samples(positions.results, grid, len(codes.nodes))
    of_containers = [at for at, item in zip(position_of_item, mapped, strict=True) if _is_of_containers(item)]
    rows = _number_rows(of_containers, max(len(codes.units), 1))
    by_container, points, values, upcoming = _points(mapped, position_of_item, samples, rows, counts)
    container_features = {name: combined(entries) for name, entries in _by_name(values).items()}
    _forget_totals(container_features, rows, codes, counts)
    node_features = _sums_of_containers(by_container, container_features, upcoming, rows, samples, counts)
    of_node = [p for p in points if p.is_feature and p.mapping.level == "node"]
    for name, entries in _by_name((p.mapping, value_of_node(p, len(samples.time))) for p in of_node).items():
        node_features[name] = known_first(node_features.get(name), combined(entries))
    power = _power([p for p in points if not p.is_feature], samples, meters, counts)
    gauges = frozenset(p.mapping.name for p in of_node if not p.mapping.counter)
    nodes, units = codes.nodes.words, codes.units.words
    labels = tuple(nodes[code] for code in samples.node)
    laid_out = LaidOut(
        labels, samples.stream, samples.time, rows.sample, container_features, node_features, power, gauges, counts
    )
    windows = find_windows(laid_out)
    screen(laid_out, cpus)
    used_units = np.unique(rows.unit)
    containers = [units[code] for code in used_units]
    return Observations(
        streams=tuple(Stream(recording.name, node) for node in labels),
        sample_stream=samples.stream,
        sample_time=samples.time,
        containers=tuple(containers),
        container_names=tuple(codes.unit_names.get(container) or container for container in containers),
        row_sample=rows.sample,
        row_container=np.searchsorted(used_units, rows.unit),
        container_features=laid_out.container_features,
        node_features=laid_out.node_features,
        node_gauges=gauges,
        power=laid_out.power,
        windows=windows,
        step=step,
        counts=counts,
        schemas=tuple(sorted(schemas)),
        digest=recording.digest,
    )


def _time_grid(mapped: list[MappedMetric]) -> FloatArray:
    """Return all distinct timestamps of the metrics, sorted.

    Metrics with few samples are processed first. They usually contain all timestamps, because all series of a range
    query have the same timestamps. In this case, the large metrics add no timestamp, so their timestamps are not
    sorted.
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
                grid = distinct(np.concatenate([grid, times]))

        seen.get((item.metric.timestamps,), add)
    return grid


def _is_of_containers(item: MappedMetric) -> bool:
    """Return whether a metric is a feature that is measured per container (or process or virtual machine)."""
    return item.mapping.kind == "feature" and item.mapping.level != "node"


def _number_samples(positions: Sequence[Position], grid: FloatArray, n_nodes: int) -> Samples:
    """Number all samples in which any series has a value, and write these numbers into `Position.sample`."""
    n_times = max(len(grid), 1)
    n_points = sum(len(position.sample) for position in positions)
    if n_nodes * n_times <= max(_DENSE_CELLS, _DENSE_FACTOR * n_points):
        present: BoolArray = np.zeros(n_nodes * n_times, dtype=bool)
        for position in positions:
            present[position.sample] = True
        cells = np.flatnonzero(present)
        number_of_cell = np.cumsum(present) - 1
        for position in positions:
            position.sample = number_of_cell[position.sample]
    else:
        cells = distinct(np.concatenate([position.sample for position in positions]))
        for position in positions:
            position.sample = np.searchsorted(cells, position.sample)
    node_of_sample, time_of_sample = np.divmod(cells, n_times)
    begins = np.diff(node_of_sample, prepend=-1) > 0  # `cells` are sorted by node
    nodes, stream = node_of_sample[begins], np.cumsum(begins) - 1
    time = grid[time_of_sample] if len(grid) else np.empty(0)
    return Samples(stream, nodes, time)


def _number_rows(of_containers: Sequence[Position], n_units: int) -> _Rows:
    """Number all rows in which any series has a value, and write these numbers into `Position.row`.

    `of_containers` are the positions of the metrics that are measured per container.
    """
    positions = {id(position): position for position in of_containers}.values()
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


def _by_name(values: Iterable[tuple[MetricMapping, FloatArray]]) -> dict[str, list[tuple[MetricMapping, FloatArray]]]:
    """Group values, together with their metric mappings, by feature. The keys of the result are names of features."""
    by_name: dict[str, list[tuple[MetricMapping, FloatArray]]] = {}
    for mapping, of_mapping in values:
        by_name.setdefault(mapping.name, []).append((mapping, of_mapping))
    return by_name


def _power(
    points: Sequence[Points], samples: Samples, meters: Mapping[str, Meter], counts: Counts
) -> dict[tuple[str, str], FloatArray]:
    """Return the watts of each sample, by (energy source, component)."""
    entries: dict[tuple[str, str], list[tuple[MetricMapping, FloatArray]]] = {}
    for p in points:
        for key, watts in node_power(p, samples.stream, meters, counts).items():
            entries.setdefault(key, []).append((p.mapping, watts))
    return {key: combined(of_key) for key, of_key in entries.items()}


def _points(
    mapped: Sequence[MappedMetric], positions: Sequence[Position], samples: Samples, rows: _Rows, counts: Counts
) -> tuple[list[Points], list[Points], list[tuple[MetricMapping, FloatArray]], dict[str, FloatArray]]:
    """Return the points of all metrics, with the rates of the containers in rows.

    Returns four things: the points of the metrics that are measured per container, without their values; the points of
    all other metrics; for each metric that is measured per container, its mapping and the rate of each row; and by
    feature, the estimated sum of the unknown rates in each sample.
    """
    by_container: list[Points] = []
    others: list[Points] = []
    values: list[tuple[MetricMapping, FloatArray]] = []
    upcoming: dict[str, FloatArray] = {}
    for item, position in zip(mapped, positions, strict=True):
        p = points_of(item, position, samples, counts)
        if not _is_of_containers(item):
            others.append(p)
            continue
        of_feature = upcoming.setdefault(item.mapping.name, np.zeros(len(samples.time)))
        values.append((item.mapping, _values_of_rows(p, rows, of_feature)))
        by_container.append(p.without_values())
    return by_container, others, values, upcoming


def _values_of_rows(p: Points, rows: _Rows, upcoming: FloatArray) -> FloatArray:
    """Return the rate of each row, shape (rows,). Estimates of unknown rates are added to `upcoming`, shape (samples,).

    If a row has several series, e.g. one for each process of a container, their rates are added up. If the series
    without a rate may have more than `NEGLIGIBLE_FRACTION` of the sum, the row's rate is NaN, and its whole sum counts
    as unknown.
    """
    row, n_rows = p.position.row, len(rows.sample)
    assert row is not None
    if p.upcoming is not None:
        upcoming += sum_by(p.upcoming, p.position.sample, len(upcoming))
    if not p.mapping.summed_labels:
        return _spread(n_rows, row, p.values)
    is_known = np.isfinite(p.values)
    totals = sum_by(p.values[is_known], row[is_known], n_rows)
    n_known = np.bincount(row[is_known], minlength=n_rows)
    missing = np.zeros(n_rows) if p.upcoming is None else sum_by(p.upcoming, row, n_rows)
    complete = (n_known > 0) & (missing <= NEGLIGIBLE_FRACTION * (totals + missing))
    if p.unreadable is not None:
        complete[row[p.unreadable]] = False
    lost = (n_known > 0) & ~complete
    upcoming += sum_by(totals[lost], rows.sample[lost], len(upcoming))
    return np.where(complete, totals, np.nan)


def _forget_totals(
    container_features: Mapping[str, FloatArray], rows: _Rows, codes: SeriesCodes, counts: Counts
) -> None:
    """If the usage of a container is the total of all other containers of its node, set this usage to NaN."""
    totals = units_of_totals(container_features, rows.sample, rows.unit)
    if not len(totals):
        return
    words = codes.units.words
    for unit in totals.tolist():
        counts.count("totals", "containers", 1, printable(codes.unit_names.get(words[unit]) or words[unit], 100))
    of_totals = np.isin(rows.unit, totals)
    for values in container_features.values():
        values[of_totals] = np.nan


def _sums_of_containers(
    by_container: Sequence[Points],
    container_features: Mapping[str, FloatArray],
    upcoming: Mapping[str, FloatArray],
    rows: _Rows,
    samples: Samples,
    counts: Counts,
) -> dict[str, FloatArray]:
    """Return each feature's sum over the containers of each sample; NaN where the sum is not the node's usage.

    `by_container` are the features that are measured per container. `container_features` has the rate of each row, by
    feature. `upcoming` is the last result of `_points`.
    """
    sums = {
        name: sum_of_containers(values, rows.sample, upcoming[name], name, counts)
        for name, values in container_features.items()
    }
    of_kepler = {p.mapping.name for p in by_container if not p.item.third_party}
    forget_uncounted(container_features, sums, rows.sample, of_kepler, counts)
    _forget_unreadable(by_container, sums)
    _forget_interrupted(by_container, sums, samples.stream, counts)
    return sums


def _forget_unreadable(by_container: Sequence[Points], node_features: dict[str, FloatArray]) -> None:
    """Set a node's sum to NaN where the rate of one of its containers is unreadable."""
    for p in by_container:
        if p.unreadable is not None:
            node_features[p.mapping.name][p.position.sample[p.unreadable]] = np.nan


def _forget_interrupted(
    by_container: Sequence[Points], node_features: dict[str, FloatArray], sample_stream: IntArray, counts: Counts
) -> None:
    """Set a node's sum to NaN where a value of a running container is missing.

    If the container's series has values before and after a sample, the container ran in this sample, too. The sum
    without this container would be too low. `sample_stream` has shape (samples,).
    """
    for p in by_container:
        name, metric = p.mapping.name, p.item.metric
        is_scraped = np.zeros(len(sample_stream), dtype=bool)
        is_scraped[p.position.sample] = True
        at = (np.cumsum(is_scraped) - 1)[p.position.sample]
        skips = np.flatnonzero((metric.series[1:] == metric.series[:-1]) & (at[1:] - at[:-1] > 1))
        if not len(skips):
            continue
        scraped = np.flatnonzero(is_scraped)
        change = np.zeros(len(scraped) + 1, dtype=np.int64)
        np.add.at(change, at[skips] + 1, 1)
        np.add.at(change, at[skips + 1], -1)
        incomplete = scraped[np.cumsum(change[:-1]) > 0]
        incomplete = incomplete[np.isfinite(node_features[name][incomplete])]
        counts.incomplete[name] += len(incomplete)
        node_features[name][incomplete] = np.nan


def _spread(n: int, at: IntArray, values: FloatArray) -> FloatArray:
    """Return an array of length `n` with `values` at the indices `at` and NaN at all other indices."""
    column = np.empty(n) if len(at) == n else np.full(n, np.nan)
    column[at] = values
    return column
