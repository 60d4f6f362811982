"""Continue counters that begin at 0 again after their highest value, e.g. the energy counters of RAPL."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric

MAX_RISE = 3.0
"""A counter's fall counts as a wrap if its rate is at most this multiple of the highest other rate of the series.

The rate is calculated as if the fall were a wrap. If the fall is a restart, this rate is mostly far higher.
"""


def without_wraps(item: MappedMetric, counts: Counts) -> MappedMetric:
    """Return a metric without wraps: its counters go on rising where the hardware's counters start again at 0.

    The metric is returned unchanged if its mapping does not state `wraps_at`, or if no fall of a counter is a wrap.
    """
    limit, metric = item.mapping.wraps_at, item.metric
    if limit is None or metric.n_samples < 2:
        return item
    same = metric.series[1:] == metric.series[:-1]
    change = np.diff(metric.values)
    seconds = np.diff(metric.timestamps)
    fell = same & (change < 0)
    if not fell.any():
        return item
    rate = np.divide(change, seconds, out=np.zeros(len(change)), where=same & (seconds > 0))
    highest = np.zeros(metric.n_series)
    np.maximum.at(highest, metric.series[1:][same], rate[same])
    across = np.divide(change + limit, seconds, out=np.full(len(change), np.inf), where=seconds > 0)
    is_wrap = fell & (metric.values[:-1] <= limit) & (across >= 0) & (across <= MAX_RISE * highest[metric.series[1:]])
    if not is_wrap.any():
        return item
    counts.count("wraps", metric.name, int(np.count_nonzero(is_wrap)))
    n_wraps = np.concatenate([[0], np.cumsum(is_wrap)])
    first = np.minimum(metric.starts, len(n_wraps) - 1)
    values = metric.values + limit * (n_wraps - n_wraps[first][metric.series])
    values.setflags(write=False)
    return attrs.evolve(item, metric=attrs.evolve(metric, values=values))
