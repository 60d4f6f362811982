"""Check whether the idle and the dynamic energy of a meter can be added up.

An exporter that cannot tell idle from dynamic power may report the whole energy in both modes. Both
counters then rise alike, and their sum is twice the true energy. An exporter that was configured to
report dynamic energy only reports less than the whole energy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.recording.columns import Metric
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric

INCREASE_TOLERANCE = 0.05
"""Idle and dynamic energy rise alike in an interval if their increases differ by at most this fraction."""
TOTAL_TOLERANCE = 0.1
"""Highest fraction by which their increases over the whole recording may differ."""
FEWEST_INTERVALS = 3
"""Fewer intervals in which energy was used allow no conclusion."""


def compare_modes(mapped: Sequence[MappedMetric], mode_label: str, counts: Counts) -> None:
    """Count intervals of energy that is reported in both modes, and series without idle energy.

    The samples are not changed.
    """
    for item in mapped:
        if item.mapping.kind != "energy" or item.metric.n_samples == 0:
            continue
        meters: dict[tuple[int, str, str], dict[str, int]] = {}
        lengths = item.metric.lengths
        for index, labels in enumerate(item.metric.labels):
            if mode_label in labels and lengths[index]:
                others = "\0".join(f"{k}={v}" for k, v in sorted(labels.items()) if k != mode_label)
                meter = int(item.node[index]), item.source[index] or "", others
                meters.setdefault(meter, {})[labels[mode_label]] = index
        for (_, source, _), series_of_mode in meters.items():
            key = f"{source} {item.mapping.name}"
            if set(series_of_mode) == {"dynamic"}:
                counts.dynamic_only[key] += 1
            elif {"idle", "dynamic"} <= set(series_of_mode):
                alike = _intervals_alike(item.metric, series_of_mode["idle"], series_of_mode["dynamic"])
                if alike:
                    counts.counted_twice[key] += alike


def _intervals_alike(metric: Metric, first: int, second: int) -> int:
    """Return the number of intervals in which two series rise alike; 0 unless they do so most of the time."""
    starts = np.cumsum(metric.lengths) - metric.lengths
    of_first, of_second = (slice(starts[i], starts[i] + metric.lengths[i]) for i in (first, second))
    _, at_first, at_second = np.intersect1d(
        metric.timestamps[of_first], metric.timestamps[of_second], return_indices=True
    )
    first_rise = np.diff(metric.values[of_first][at_first])
    second_rise = np.diff(metric.values[of_second][at_second])
    larger = np.maximum(first_rise, second_rise)
    moved = larger > 0
    if moved.sum() < FEWEST_INTERVALS:
        return 0
    alike = np.abs(first_rise - second_rise)[moved] <= INCREASE_TOLERANCE * larger[moved]
    first_total, second_total = float(first_rise[moved].sum()), float(second_rise[moved].sum())
    totals_alike = abs(first_total - second_total) <= TOTAL_TOLERANCE * max(first_total, second_total)
    return int(alike.sum()) if totals_alike and alike.mean() >= 0.5 else 0
