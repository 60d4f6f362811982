"""Leave out series that are no counters, and energy series that are the sum of other series.

- A recording rule may record a rate under the name of the counter. Such values fall as often as they rise.
- An aggregation may write the total over modes or sockets as a further series of the same metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.grouping import sum_by
from kepler_core.messages import printable
from kepler_core.recording.columns import Metric
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric, keep_series

MAX_FALLS = 0.2
"""Maximum fraction of intervals in which the counters of a metric can fall. Exporters restart far less often."""
FEWEST_INTERVALS = 20
"""A rule judges a series only if the series has at least this number of intervals."""
_EQUAL_INTERVALS = 0.95
_EQUAL = 0.001
"""Largest difference between a total and the sum of its parts in an interval, as a fraction of the total."""
_FEWEST_PARTS = 2


def without_false_counters(mapped: Sequence[MappedMetric], counts: Counts) -> list[MappedMetric]:
    """Return the metrics without the series that are no counters, and without totals of energy."""
    result = []
    for item in mapped:
        if item.mapping.counter and not item.third_party and item.metric.n_samples:
            item = keep_series(item, _are_counters(item, counts))
            if item.mapping.kind == "energy" and item.mapping.level == "node":
                item = keep_series(item, ~_totals(item, counts))
        result.append(item)
    return result


def _are_counters(item: MappedMetric, counts: Counts) -> BoolArray:
    """Return which series are counters, shape (series,).

    The series of a node and an energy source are no counters if their values fall often.
    """
    metric = item.metric
    same = (metric.series[1:] == metric.series[:-1]) & (metric.values[1:] >= 0) & (metric.values[:-1] >= 0)
    change = np.diff(metric.values)
    if not (same & (change < 0)).any():
        return np.ones(metric.n_series, dtype=bool)
    meters: dict[tuple[int, str | None], int] = {}
    meter = np.array([meters.setdefault(key, len(meters)) for key in zip(item.node.tolist(), item.source, strict=True)])
    of_interval, n = meter[metric.series[1:]], len(meters)
    intervals = np.bincount(of_interval[same & (change != 0)], minlength=n)
    falls = np.bincount(of_interval[same & (change < 0)], minlength=n)
    wrong = (intervals >= FEWEST_INTERVALS) & (falls > MAX_FALLS * intervals)
    for number in np.flatnonzero(wrong).tolist():
        example = _words(metric, int(np.flatnonzero(meter == number)[0]), ("instance",))
        counts.count("no_counters", metric.name, int(falls[number]), example)
    is_counter: BoolArray = ~wrong[meter]
    return is_counter


def _totals(item: MappedMetric, counts: Counts) -> BoolArray:
    """Return which energy series are totals, shape (series,).

    A total rises as much as all other series of its group together, e.g. the series of the other modes or sockets.
    """
    metric = item.metric
    is_total = np.zeros(metric.n_series, dtype=bool)
    for series in _groups(item):
        if is_total[series].any():
            continue
        rises = _common_rises(metric, series)
        whole = rises.sum(axis=0)
        moved = whole > 0
        if np.count_nonzero(moved) < FEWEST_INTERVALS:
            continue
        equal = np.abs(2 * rises[:, moved] - whole[moved]) <= _EQUAL * whole[moved]
        total = series[int(np.argmax(equal.mean(axis=1)))]
        if equal.mean(axis=1).max() >= _EQUAL_INTERVALS:
            is_total[total] = True
            counts.count("totals", metric.name, 1, _words(metric, total, ("instance", *item.mapping.unit_labels)))
    return is_total


def _groups(item: MappedMetric) -> Iterator[list[int]]:
    """Yield groups of series that may contain a total: the modes of a socket, the sockets of a mode, and all series."""
    unit_labels, mode_label = item.mapping.unit_labels, item.schema.mode_label
    sockets = [label for label in unit_labels if label != mode_label]
    modes = [label for label in unit_labels if label == mode_label]
    for names in (sockets, modes, []):
        groups: dict[tuple[object, ...], list[int]] = {}
        for at in np.flatnonzero(item.metric.lengths > 1).tolist():
            labels = item.metric.labels[at]
            key = (int(item.node[at]), item.source[at], *(labels.get(name, "") for name in names))
            groups.setdefault(key, []).append(at)
        yield from (series for series in groups.values() if len(series) > _FEWEST_PARTS)


def _common_rises(metric: Metric, series: Sequence[int]) -> FloatArray:
    """Return the increases of series between the timestamps that all series have, shape (series, intervals)."""
    spans = [metric.span(at) for at in series]
    times, number = np.unique(np.concatenate([metric.timestamps[span] for span in spans]), return_inverse=True)
    common = times[sum_by(np.ones(len(number)), number, len(times)) == len(series)]
    return np.diff([metric.values[span][np.isin(metric.timestamps[span], common)] for span in spans], axis=1)


def _words(metric: Metric, series: int, labels: Sequence[str]) -> str:
    words = (f"{label}={metric.labels[series].get(label, '')}" for label in labels)
    return printable(", ".join(words), 100)
