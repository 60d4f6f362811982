"""Features and power of a node: sums over its containers, CPUs, sockets and modes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.recording.counts import Counts
from kepler_core.recording.meters import Meter
from kepler_core.recording.points import Points

NEGLIGIBLE_FRACTION = 0.05
"""A node's feature is known although some containers have no rate yet, if their next rates are together
at most this fraction of the node's sum."""

COVERAGE = 0.5
"""A node's feature is known if at least this fraction of its containers have a rate. After a restart of
the exporter most series are new and have none: their sum would be far too low."""


def known_first(first: FloatArray | None, second: FloatArray) -> FloatArray:
    """Return the values of `first` where they are known, else those of `second`.

    Merges two metrics with the same mapping, as in a recording that spans an exporter's upgrade.
    """
    return second if first is None else np.where(np.isfinite(first), first, second)


def sum_of_containers(
    values: FloatArray, row_sample: IntArray, upcoming: FloatArray, name: str, counts: Counts
) -> FloatArray:
    """Return a feature's sum over the containers of each sample, shape (samples,).

    `values` and `row_sample` have shape (rows,), `upcoming` (`Points.upcoming`) has shape (samples,). The
    sum is NaN where too few containers have a rate, or where a busy one has none yet.
    """
    n = len(upcoming)
    is_known = np.isfinite(values)
    totals = sum_by(values[is_known], row_sample[is_known], n)
    n_known = np.bincount(row_sample[is_known], minlength=n)
    n_rows = np.bincount(row_sample, minlength=n)
    complete = (n_known > 0) & (n_known >= COVERAGE * n_rows) & (upcoming <= NEGLIGIBLE_FRACTION * (totals + upcoming))
    counts.incomplete[name] += int(np.count_nonzero((n_known > 0) & ~complete))
    return np.where(complete, totals, np.nan)


def value_of_node(points: Points, n_samples: int) -> FloatArray:
    """Return a node's own feature for each sample: the sum or mean over its units, shape (samples,)."""
    is_known = np.isfinite(points.values)
    sample = points.position.sample[is_known]
    totals = sum_by(points.values[is_known], sample, n_samples)
    n_known = np.bincount(sample, minlength=n_samples)
    if points.mapping.aggregate == "mean":
        totals = totals / np.maximum(n_known, 1)
    return np.where(n_known > 0, totals, np.nan)


def node_power(
    points: Points, sample_stream: IntArray, meters: Mapping[str, Meter], counts: Counts
) -> dict[tuple[str, str], FloatArray]:
    """Return watts for each sample by (energy source, component).

    `sample_stream` and the watts have shape (samples,). Watts are NaN where a socket or mode is missing,
    and where a counter was reset: the increase over that interval is only a lower bound.
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
        power[key] = known_first(power.get(key), np.where(complete, totals, np.nan))
    return power


def _units_of_streams(points: Points, of_meter: BoolArray, sample_stream: IntArray) -> IntArray:
    """Return how many units (sockets and modes) of a meter each stream has, shape (streams,).

    `of_meter` has shape (series,). A unit counts if any of its series has a rate.
    """
    item, metric = points.item, points.item.metric
    n_units = np.zeros(int(sample_stream.max(initial=-1)) + 1, dtype=np.int64)
    starts = np.cumsum(metric.lengths) - metric.lengths
    stream_of_node: dict[int, int] = {}
    counted: set[tuple[int, int]] = set()
    for index in np.flatnonzero(of_meter & (metric.lengths > 1)):
        node, unit = int(item.node[index]), int(item.unit[index])
        stream = stream_of_node.setdefault(node, int(sample_stream[points.position.sample[starts[index]]]))
        if (node, unit) not in counted:
            counted.add((node, unit))
            n_units[stream] += 1
    return n_units
