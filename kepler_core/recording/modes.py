"""Check whether the idle and the dynamic energy that an exporter reports add up to the whole energy.

An exporter that cannot distinguish idle from dynamic power may report the whole energy in both modes. The
idle and the dynamic counter then rise alike, and their sum is twice the true energy. An exporter that
is configured to report only dynamic energy reports less than the whole energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.messages import printable
from kepler_core.recording.columns import Metric
from kepler_core.recording.common_rises import stacked_rises
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric, keep_series

INCREASE_TOLERANCE = 0.05
"""Two increases in an interval are alike if they differ by at most this fraction of the larger increase."""
TOTAL_TOLERANCE = 0.1
"""Two series are alike only if their increases differ by at most this fraction of the larger increase.

Each of these increases is the increase over the whole recording.
"""
FEWEST_INTERVALS = 3
"""Two counters are compared only if the energy increases in at least this number of intervals."""


def check_modes(mapped: Sequence[MappedMetric], counts: Counts) -> list[MappedMetric]:
    """Return the metrics without the energy of meters that lack dynamic energy; count doubtful energy.

    There are three cases:

    - A unit of a node (e.g. a socket) has idle energy and no dynamic energy. The unit is counted in
      `counts.idle_only`, and all of the node's series of this metric and energy source are left out.
    - Idle and dynamic energy rise alike. The intervals in which they do so are counted in `counts.counted_twice`.
    - A series of dynamic energy has no series of idle energy. The series is counted in `counts.dynamic_only`.
    """
    checked = []
    for item in mapped:
        mode_label = item.schema.mode_label
        if mode_label is not None and item.mapping.kind == "energy" and item.metric.n_samples:
            item = _check_metric(item, mode_label, counts)
        checked.append(item)
    return checked


def _check_metric(item: MappedMetric, mode_label: str, counts: Counts) -> MappedMetric:
    series_of_meter: dict[tuple[int, str, str], dict[str, int]] = {}
    modes_of_unit: dict[tuple[int, str, tuple[str, ...]], dict[str, int]] = {}
    unit_labels = [label for label in item.mapping.unit_labels if label != mode_label]
    lengths = item.metric.lengths
    for index, labels in enumerate(item.metric.labels):
        if mode_label in labels and lengths[index]:
            node, source, mode = int(item.node[index]), item.source[index] or "", labels[mode_label]
            others = "\0".join(f"{k}={v}" for k, v in sorted(labels.items()) if k != mode_label)
            series_of_meter.setdefault((node, source, others), {})[mode] = index
            unit = tuple(labels.get(label, "") for label in unit_labels)
            modes_of_unit.setdefault((node, source, unit), {})[mode] = index
    pairs: dict[str, list[tuple[int, int]]] = {}
    for (_, source, _), series_of_mode in series_of_meter.items():
        key = f"{source} {item.mapping.name}"
        if set(series_of_mode) == {"dynamic"}:
            counts.dynamic_only[key] += 1
        elif {"idle", "dynamic"} <= set(series_of_mode):
            pairs.setdefault(key, []).append((series_of_mode["idle"], series_of_mode["dynamic"]))
    for key, of_key in pairs.items():
        alike = _intervals_alike(item.metric, of_key)
        if alike:
            counts.counted_twice[key] += alike
    without_dynamic: set[tuple[int, str]] = set()
    for (node, source, _), series_of_mode in modes_of_unit.items():
        if set(series_of_mode) == {"idle"}:
            example = _labels_text(item.metric.labels[series_of_mode["idle"]])
            counts.count("idle_only", f"{source} {item.mapping.name}", 1, example)
            without_dynamic.add((node, source))
    if not without_dynamic:
        return item
    meters = zip(item.node.tolist(), item.source, strict=True)
    return keep_series(item, np.array([(node, source or "") not in without_dynamic for node, source in meters]))


def _labels_text(labels: Mapping[str, str]) -> str:
    """Return the labels of a series for messages, without the metric's name."""
    return printable(", ".join(f"{label}={value}" for label, value in labels.items() if label != "__name__"), 100)


def _intervals_alike(metric: Metric, pairs: Sequence[tuple[int, int]]) -> int:
    """Return the number of intervals in which the two series of a pair rise alike, summed over all pairs.

    A pair counts only under two conditions. Its series rise alike in at least half of the intervals. Their total
    increases differ by at most `TOTAL_TOLERANCE`.
    """
    n_intervals = 0
    for _, rises in stacked_rises(metric, pairs):
        larger = rises.max(axis=1)
        moved = larger > 0
        alike = moved & (np.abs(rises[:, 0] - rises[:, 1]) <= INCREASE_TOLERANCE * larger)
        n_moved, n_alike = np.count_nonzero(moved, axis=1), np.count_nonzero(alike, axis=1)
        for at in np.flatnonzero((n_moved >= FEWEST_INTERVALS) & (2 * n_alike >= n_moved)).tolist():
            first, second = rises[at][:, moved[at]].sum(axis=1).tolist()
            if abs(first - second) <= TOTAL_TOLERANCE * max(first, second):
                n_intervals += int(n_alike[at])
    return n_intervals
