"""Leave out single values that no counter or meter can have."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.recording.columns import LARGEST_VALUE
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric
from kepler_core.recording.times import utc

_INVALID_READING = float(2**32 - 1)
INVALID_READINGS: FloatArray = np.array([_INVALID_READING, _INVALID_READING / 1e3, _INVALID_READING / 1e6])
"""The reading 2^32 - 1 of a sensor that does not answer, converted to joules or watts.

Some hwmon drivers of Linux return this reading (e.g. ibmpowernv, xgene-hwmon). The sensor's unit may have
no prefix (J, W), the prefix milli (mJ, mW) or the prefix micro (µJ, µW). The array has one element for each of these
three cases.
"""


def impossible_values(item: MappedMetric, counts: Counts) -> BoolArray | None:
    """Return which samples of a metric are negative, too large or invalid readings, and count them.

    Return None if the metric has no such samples. The samples stay in the metric, and `points.points_of` replaces
    their values by NaN. So a sum over the node's containers or sockets can become NaN, too. If the samples were
    removed, the sum of the remaining containers or sockets could count as the value of the node. This value would
    be too low.
    """
    metric, mapping = item.metric, item.mapping
    if not metric.n_samples:
        return None
    impossible: BoolArray = np.abs(metric.values) >= LARGEST_VALUE
    if not item.third_party and (mapping.counter or mapping.kind != "feature"):
        impossible |= metric.values < 0
    if mapping.kind != "feature":
        impossible |= np.isin(metric.values, INVALID_READINGS)
    if not impossible.any():
        return None
    at = int(np.flatnonzero(impossible)[0])
    node = metric.labels[metric.series[at]].get("instance", "")
    example = f"{metric.values[at]:.15g} on {node} at {utc(float(metric.timestamps[at]))}"
    counts.count("impossible_values", metric.name, int(np.count_nonzero(impossible)), example)
    return impossible
