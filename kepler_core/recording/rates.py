"""Counters to rates per second, for all series of a metric at once."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.columns import Metric

GAP_FACTOR = 5.0
"""An interval longer than this multiple of the usual step is a gap and has no rate."""


@attrs.frozen(eq=False)
class Spacing:
    """The intervals between the samples of a metric. Each interval belongs to the sample at its end.

    Metrics with the same timestamps, series and nodes have the same spacing.
    """

    seconds: FloatArray
    """Seconds since the series' previous sample, shape (samples,)."""
    usable: BoolArray
    """Whether the series has a previous sample and no gap since, shape (samples,)."""
    usual_step: float
    """Median interval in seconds over all nodes; NaN if there is none."""
    gaps: int
    """Number of intervals longer than `GAP_FACTOR` usual steps of their node."""


def spacing(timestamps: FloatArray, series: IntArray, node: IntArray) -> Spacing:
    """Return the spacing of samples that are sorted by series and time.

    `timestamps` and `series` have shape (samples,), `node` has shape (series,). Gaps are judged by the
    usual step of each node, because nodes may be scraped at different intervals.
    """
    n = len(timestamps)
    seconds = np.zeros(n)
    usable = np.zeros(n, dtype=bool)
    if n > 1:
        np.subtract(timestamps[1:], timestamps[:-1], out=seconds[1:])
        np.equal(series[1:], series[:-1], out=usable[1:])
    usual = float(np.median(seconds[usable])) if usable.any() else float("nan")
    limit: float | FloatArray = GAP_FACTOR * usual
    if len(nodes := np.unique(node)) > 1:
        usual_of_node = np.full(int(nodes.max()) + 1, np.nan)
        node_of_sample = node[series]
        for code in nodes:
            intervals = seconds[usable & (node_of_sample == code)]
            usual_of_node[code] = np.median(intervals) if len(intervals) else np.nan
        limit = GAP_FACTOR * usual_of_node[node_of_sample]
    gap = seconds > limit
    gap &= usable
    usable &= ~gap
    return Spacing(seconds, usable, usual, int(np.count_nonzero(gap)))


@attrs.frozen(eq=False)
class Rates:
    """The rates of a counter. Each rate belongs to the sample at the end of its interval."""

    values: FloatArray
    """Rate per second, shape (samples,); NaN for the first sample of a series and after a gap."""
    reset: BoolArray
    """Whether the counter fell, shape (samples,). The value after the fall then counts as the increase, as
    in PromQL."""


def rates(metric: Metric, spaced: Spacing) -> Rates:
    """Return the rates of a counter, each over the true length of its interval."""
    increase = np.zeros(metric.n_samples)
    if metric.n_samples > 1:
        np.subtract(metric.values[1:], metric.values[:-1], out=increase[1:])
    reset = increase < 0
    reset &= spaced.usable
    if reset.any():
        increase[reset] = np.maximum(metric.values[reset], 0.0)
    values = np.full(metric.n_samples, np.nan)
    np.divide(increase, spaced.seconds, out=values, where=spaced.usable)
    return Rates(values, reset)
