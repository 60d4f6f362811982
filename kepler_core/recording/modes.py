"""Idle and dynamic energy of one meter: whether they can be added up.

An exporter that does not know the idle power of a machine may count all energy as idle and as dynamic
energy: then the two rise alike, and their sum is twice the truth. One that was asked for dynamic
energy only gives less than all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.recording.columns import Metric
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Measured

ALIKE = 0.05
"""Idle and dynamic energy rise alike if their rises mostly differ by no more than this part ..."""
ALIKE_IN_ALL = 0.1
"""... and their rises over the whole recording by no more than this."""
FEWEST = 3


def compare_modes(measured: Sequence[Measured], label: str, counts: Counts) -> None:
    """Look for energy that is counted twice, or in part; what is found is counted, not changed."""
    for item in measured:
        if item.meaning.kind != "energy" or item.metric.n_samples == 0:
            continue
        pairs: dict[tuple[int, str, str], dict[str, int]] = {}
        lengths = item.metric.lengths
        for index, labels in enumerate(item.metric.labels):
            if label in labels and lengths[index]:
                others = "\0".join(f"{k}={v}" for k, v in sorted(labels.items()) if k != label)
                pairs.setdefault((int(item.node[index]), item.source[index] or "", others), {})[labels[label]] = index
        for (_, source, _), modes in pairs.items():
            key = f"{source} {item.meaning.name}"
            if set(modes) == {"dynamic"}:
                counts.dynamic_only[key] += 1
            elif {"idle", "dynamic"} <= set(modes) and (alike := _alike(item.metric, modes["idle"], modes["dynamic"])):
                counts.counted_twice[key] += alike


def _alike(metric: Metric, one: int, other: int) -> int:
    """Intervals in which two series rise alike, if they mostly do; else 0."""
    starts = np.cumsum(metric.lengths) - metric.lengths
    of_one, of_other = (slice(starts[i], starts[i] + metric.lengths[i]) for i in (one, other))
    _, at, of = np.intersect1d(metric.timestamps[of_one], metric.timestamps[of_other], return_indices=True)
    rise, other_rise = np.diff(metric.values[of_one][at]), np.diff(metric.values[of_other][of])
    moved = np.maximum(rise, other_rise) > 0
    if moved.sum() < FEWEST:
        return 0
    alike = np.abs(rise - other_rise)[moved] <= ALIKE * np.maximum(rise, other_rise)[moved]
    total, other_total = float(rise[moved].sum()), float(other_rise[moved].sum())
    in_all = abs(total - other_total) <= ALIKE_IN_ALL * max(total, other_total)
    return int(alike.sum()) if in_all and alike.mean() >= 0.5 else 0
