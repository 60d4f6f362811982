"""Leave out series that are no counters, and energy series that are the sum of other series.

- A recording rule may record a rate under the name of the counter. Such values fall as often as they rise.
- An aggregation may write the total over modes or sockets as a further series of the same metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kepler_core.arrays import BoolArray
from kepler_core.messages import printable
from kepler_core.recording.columns import Metric
from kepler_core.recording.common_rises import stacked_rises
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric, keep_series

MAX_FALLS = 0.2
"""Maximum fraction of intervals in which the counters of a metric can fall. Exporters restart far less often."""
FEWEST_INTERVALS = 20
"""Series with fewer intervals are not checked."""
_EQUAL_INTERVALS = 0.95
_EQUAL = 0.001
"""In an interval, a series counts as the sum of other series if the two differ by at most this fraction of the sum."""
_FEWEST_PARTS = 2


def without_false_counters(mapped: Sequence[MappedMetric], counts: Counts) -> list[MappedMetric]:
    """Leave out series that are no counters, and energy series that are sums of other series."""
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
    at = np.flatnonzero(metric.values[1:] < metric.values[:-1])
    if not ((metric.series[at] == metric.series[at + 1]) & (metric.values[at + 1] >= 0)).any():
        return np.ones(metric.n_series, dtype=bool)  # nearly all metrics
    same = (metric.series[1:] == metric.series[:-1]) & (metric.values[1:] >= 0) & (metric.values[:-1] >= 0)
    change = np.diff(metric.values)
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
    """Return which energy series are sums of other series, shape (series,).

    Such a series rises as much as all other series of its group together, e.g. the series of the other modes or
    sockets.
    """
    metric = item.metric
    is_total = np.zeros(metric.n_series, dtype=bool)
    for groups in _groups(item):
        groups = [series for series in groups if not is_total[series].any()]
        with_total: dict[int, int] = {}
        for numbers, rises in stacked_rises(metric, groups):
            whole = rises.sum(axis=1)
            moved = whole > 0
            equal = moved[:, None] & (np.abs(2 * rises - whole[:, None]) <= _EQUAL * whole[:, None])
            n_moved, n_equal = np.count_nonzero(moved, axis=1), np.count_nonzero(equal, axis=2)
            are_enough = (n_moved >= FEWEST_INTERVALS) & (n_equal.max(axis=1) >= _EQUAL_INTERVALS * n_moved)
            largest = n_equal.argmax(axis=1)
            with_total.update((int(numbers[at]), int(largest[at])) for at in np.flatnonzero(are_enough).tolist())
        for number in sorted(with_total):
            total = groups[number][with_total[number]]
            is_total[total] = True
            counts.count("totals", metric.name, 1, _words(metric, total, ("instance", *item.mapping.unit_labels)))
    return is_total


def _groups(item: MappedMetric) -> Iterator[list[list[int]]]:
    """Yield three lists of groups of series. In each group, one series may be the sum of the other series.

    In the first list, a group has the modes of one socket. In the second list, a group has the sockets of one mode. In
    the third list, a group has all series of a meter of a node. In each list, a series is in at most one group.
    """
    unit_labels, mode_label = item.mapping.unit_labels, item.schema.mode_label
    sockets = [label for label in unit_labels if label != mode_label]
    modes = [label for label in unit_labels if label == mode_label]
    for names in (sockets, modes, []):
        groups: dict[tuple[object, ...], list[int]] = {}
        for at in np.flatnonzero(item.metric.lengths > 1).tolist():
            labels = item.metric.labels[at]
            key = (int(item.node[at]), item.source[at], *(labels.get(name, "") for name in names))
            groups.setdefault(key, []).append(at)
        yield [series for series in groups.values() if len(series) > _FEWEST_PARTS]


def _words(metric: Metric, series: int, labels: Sequence[str]) -> str:
    words = (f"{label}={metric.labels[series].get(label, '')}" for label in labels)
    return printable(", ".join(words), 100)
