"""Calculate the features and the power of a node as sums over its containers, CPUs, sockets and modes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import MetricMapping
from kepler_core.grouping import sum_by
from kepler_core.recording.counts import Counts
from kepler_core.recording.meters import Meter
from kepler_core.recording.points import Points

NEGLIGIBLE_FRACTION = 0.05
"""Largest fraction of a node's feature that may be missing because some containers have no rate of the feature.

A container that has just started has no rate yet. Its next rate is the estimate of the missing rate. If the missing
rates are a larger fraction of the node's sum, the feature is unknown (NaN).
"""

_NOTABLE_FRACTION = 0.02
"""A container notably works if it uses at least this fraction of the sum over all containers."""
_EQUAL_FRACTION = 1e-3
"""Largest difference between a total and the sum of the containers in it, as a fraction of the sum."""
_MOST_SAMPLES = 0.9
_FEWEST_SAMPLES = 20

_WORK = ("bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions")
"""Features that measure how much work a container does, the preferred feature first."""

COVERAGE = 0.5
"""Smallest fraction of a node's containers that must have a rate; otherwise the node's feature is unknown (NaN).

After a restart of the exporter, most series are new and have no rate yet. The sum over the few containers
that have a rate would be far too low.
"""

COMPLETE = 0.9
"""If fewer than this fraction of the series of a node's feature have a rate, their sum is unknown (NaN)."""


def known_first(first: FloatArray | None, second: FloatArray) -> FloatArray:
    """Return the values of `first`, but the values of `second` where `first` is NaN.

    This merges two metrics of the same quantity, e.g. the old and the new name of a metric in a recording
    during which the exporter was upgraded.
    """
    return second if first is None else np.where(np.isfinite(first), first, second)


def combined(entries: Sequence[tuple[MetricMapping, FloatArray]]) -> FloatArray:
    """Return the values of one feature or component, combined from all mappings that measure it.

    Each entry has a mapping and its values; all values have the same shape. If several mappings measure the same part
    (`MetricMapping.part`), the first known value is used. The values of different parts are added up. Each rank
    (`MetricMapping.rank`) has a sum of its own. The known sum with the lowest rank is used.
    """
    result: FloatArray | None = None
    for rank in sorted({mapping.rank for mapping, _ in entries}):
        parts: dict[str, FloatArray] = {}
        for mapping, values in entries:
            if mapping.rank == rank:
                parts[mapping.part] = known_first(parts.get(mapping.part), values)
        result = known_first(
            result, np.sum(list(parts.values()), axis=0) if len(parts) > 1 else next(iter(parts.values()))
        )
    assert result is not None
    return result


def sum_of_containers(
    values: FloatArray, row_sample: IntArray, upcoming: FloatArray, name: str, counts: Counts
) -> FloatArray:
    """Return the sum of a feature over the containers of each sample, shape (samples,).

    `values` and `row_sample` have shape (rows,). `upcoming` has estimated sums of the unknown rates, shape
    (samples,). The sum is NaN for a sample in which fewer than `COVERAGE` of the containers have a rate, or
    in which a busy container has no rate yet.
    """
    n = len(upcoming)
    is_known = np.isfinite(values)
    totals = sum_by(np.where(is_known, values, 0.0), row_sample, n)
    n_rows = np.bincount(row_sample, minlength=n)
    n_known = n_rows - np.bincount(row_sample[~is_known], minlength=n)
    complete = (n_known > 0) & (n_known >= COVERAGE * n_rows) & (upcoming <= NEGLIGIBLE_FRACTION * (totals + upcoming))
    counts.incomplete[name] += int(np.count_nonzero((n_known > 0) & ~complete))
    return np.where(complete, totals, np.nan)


def units_of_totals(container_features: Mapping[str, FloatArray], row_sample: IntArray, row_unit: IntArray) -> IntArray:
    """Return the containers whose usage equals the usage of all other containers of the node, e.g. a root cgroup.

    Such a container is recognised by two conditions: its usage is half of the sum at nearly all samples, and at least
    two other containers work. `container_features` have shape (rows,). The usage is compared in each feature of
    `_WORK`.
    """
    totals: IntArray | None = None
    for name in (name for name in _WORK if name in container_features):
        values = container_features[name]
        works = np.isfinite(values) & (values > 0)
        n_samples, n_units = int(row_sample.max(initial=-1)) + 1, int(row_unit.max(initial=-1)) + 1
        used = np.where(works, values, 0.0)
        sums = sum_by(used, row_sample, n_samples)[row_sample]
        is_half = works & (np.abs(2 * used - sums) <= _EQUAL_FRACTION * sums)
        if np.count_nonzero(is_half) < _FEWEST_SAMPLES:
            return np.empty(0, dtype=np.int64)
        of_others = np.bincount(row_sample[used > _NOTABLE_FRACTION * sums], minlength=n_samples)[row_sample]
        is_half &= of_others > 2
        n_half, n_rows = (np.bincount(row_unit[rows], minlength=n_units) for rows in (is_half, works))
        found = np.flatnonzero((n_half >= _FEWEST_SAMPLES) & (n_half >= _MOST_SAMPLES * n_rows))
        totals = found if totals is None else np.intersect1d(totals, found)
    return np.empty(0, dtype=np.int64) if totals is None else totals


def forget_uncounted(
    container_features: Mapping[str, FloatArray],
    node_features: Mapping[str, FloatArray],
    row_sample: IntArray,
    names: Container[str],
    counts: Counts,
) -> None:
    """Set a node's sum of a feature to NaN where busy containers have no value of this feature.

    Kepler reports all features of each container. Suppose that a feature in `names` has no value for containers that do
    more than `NEGLIGIBLE_FRACTION` of the node's work. Then the sum over the other containers would be too low. The
    work is measured by another feature: the first one of `_WORK` that the recording has.
    `container_features` have shape (rows,), `node_features` shape (samples,).
    """
    for name, values in container_features.items():
        work = next((feature for feature in _WORK if feature != name and feature in container_features), None)
        if work is None or name not in names:
            continue
        done = container_features[work]
        uncounted = np.isnan(values) & (done > 0)
        if not uncounted.any():
            continue
        sums = node_features[name]
        missing = sum_by(done[uncounted], row_sample[uncounted], len(sums))
        is_known = np.isfinite(done)
        total = sum_by(done[is_known], row_sample[is_known], len(sums))
        incomplete = (missing > NEGLIGIBLE_FRACTION * total) & np.isfinite(sums)
        counts.incomplete[name] += int(np.count_nonzero(incomplete))
        sums[incomplete] = np.nan


def value_of_node(points: Points, n_samples: int) -> FloatArray:
    """Return a feature that is measured per node, not per container, for each sample, shape (samples,).

    It is the sum or the mean (`MetricMapping.aggregate`) over the node's units, e.g. its CPUs. A sum is NaN if less
    than the fraction `COMPLETE` of the node's series have a rate at the time of the sample.
    """
    is_known = np.isfinite(points.values)
    sample = points.position.sample[is_known]
    totals = sum_by(points.values[is_known], sample, n_samples)
    n_known = np.bincount(sample, minlength=n_samples)
    if points.mapping.aggregate == "sum":
        n_series = np.bincount(points.position.sample, minlength=n_samples)
        n_known = np.where(n_known >= COMPLETE * n_series, n_known, 0)
    if points.mapping.aggregate == "mean":
        totals = totals / np.maximum(n_known, 1)
    return np.where(n_known > 0, totals, np.nan)


def node_power(
    points: Points, sample_stream: IntArray, meters: Mapping[str, Meter], counts: Counts
) -> dict[tuple[str, str], FloatArray]:
    """Return the watts of each sample, by (energy source, component).

    `sample_stream` and the watts have shape (samples,). Watts are NaN for a sample that lacks a socket or
    mode. They are also NaN where a counter was reset, because the counter then shows only a part of the
    energy of that interval.
    """
    power: dict[tuple[str, str], FloatArray] = {}
    item, n = points.item, len(sample_stream)
    component = points.mapping.name
    for label in sorted({source for source in item.source if source is not None}):
        meter = meters.get(label)
        if meter is None:
            counts.unknown_sources[label] += sum(source == label for source in item.source)
            continue
        if component not in meter.components:
            continue
        of_meter = np.array([source == label for source in item.source], dtype=bool)
        is_known = of_meter[item.metric.series] & np.isfinite(points.values) & ~points.reset
        sample = points.position.sample[is_known]
        totals = sum_by(points.values[is_known], sample, n)
        n_known = np.bincount(sample, minlength=n)
        complete = (n_known > 0) & (n_known >= _units_of_streams(points, of_meter, sample_stream)[sample_stream])
        counts.incomplete[f"{meter.source} {component}"] += int(np.count_nonzero((n_known > 0) & ~complete))
        key = meter.source, component
        stuck = _samples_with_stuck_units(points, is_known, sample_stream) & complete
        counts.count("stuck_units", " ".join(key), int(np.count_nonzero(stuck)))
        complete &= ~stuck
        power[key] = known_first(power.get(key), np.where(complete, totals, np.nan))
    return power


def _units_of_streams(points: Points, of_meter: BoolArray, sample_stream: IntArray) -> IntArray:
    """Return the number of counters (one per socket and mode) that a meter has in each stream, shape (streams,).

    `of_meter` is a mask of the meter's series, shape (series,). Series with a single sample are ignored.
    """
    item, metric = points.item, points.item.metric
    n_units = np.zeros(int(sample_stream.max(initial=-1)) + 1, dtype=np.int64)
    stream_of_node: dict[int, int] = {}
    counted: set[tuple[int, int, int]] = set()
    for index in np.flatnonzero(of_meter & (metric.lengths > 1)):
        node, unit = int(item.node[index]), (int(item.unit[index]), int(item.share[index]))
        stream = stream_of_node.setdefault(node, int(sample_stream[points.position.sample[metric.starts[index]]]))
        if (node, *unit) not in counted:
            counted.add((node, *unit))
            n_units[stream] += 1
    return n_units


def _samples_with_stuck_units(points: Points, is_known: BoolArray, sample_stream: IntArray) -> BoolArray:
    """Return the samples at which a socket's energy stands still while the energy of another socket moves.

    A socket uses energy all the time, so a counter that stands still is faulty, and the sum over the sockets is too
    low. It is not known whether the next interval contains the missing energy, so the sample after such a
    sample is returned, too. `is_known` is a mask of the meter's points that have a rate, shape (points,). The result
    has shape (samples,).
    """
    item, metric, n = points.item, points.item.metric, len(sample_stream)
    names = [label for label in item.mapping.unit_labels if label != item.schema.mode_label]
    # Number the sockets (or virtual machines) of each node separately. Each node has its own names of virtual machines,
    # so an array with a value for each sample and each name would be far too large.
    sockets: dict[int, dict[tuple[str, ...], int]] = {}
    of_series = np.zeros(metric.n_series, dtype=np.int64)
    width = np.zeros(int(sample_stream.max(initial=-1)) + 1, dtype=np.int64)
    used = np.flatnonzero(metric.lengths)
    streams = sample_stream[points.position.sample[metric.starts[used]]]
    for series, stream in zip(used.tolist(), streams.tolist(), strict=True):
        of_stream = sockets.setdefault(stream, {})
        socket = tuple(metric.labels[series].get(name, "") for name in names)
        of_series[series] = of_stream.setdefault(socket, len(of_stream))
        width[stream] = len(of_stream)
    if width.max(initial=0) < 2:
        return np.zeros(n, dtype=bool)
    n_cells = width[sample_stream]
    first_cell = np.cumsum(n_cells) - n_cells
    at = first_cell[points.position.sample[is_known]] + of_series[metric.series[is_known]]
    exists = np.bincount(at, minlength=int(n_cells.sum())) > 0
    moves = sum_by(points.values[is_known], at, len(exists)) > 0
    sample_of_cell = np.repeat(np.arange(n), n_cells)
    n_still, n_moving = (np.bincount(sample_of_cell[cells], minlength=n) for cells in (exists & ~moves, moves))
    stuck: BoolArray = (n_still > 0) & (n_moving > 0)
    stuck[1:] |= stuck[:-1] & (sample_stream[1:] == sample_stream[:-1])
    return stuck
