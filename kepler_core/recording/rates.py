"""Convert counters to rates per second, for all series of a metric at once.

In this module, a *sample* is what Prometheus calls a sample: one value of one series at one time.
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import median_by
from kepler_core.recording.columns import Metric

GAP_FACTOR = 5.0
"""An interval between samples is a gap, and has no rate, if it is longer than this multiple of the usual step."""


@attrs.frozen(eq=False)
class Spacing:
    """The intervals between the samples of a metric; each interval belongs to the sample at its end.

    Metrics with the same timestamps, series and nodes have the same spacing.
    """

    seconds: FloatArray
    """Seconds from the series' previous sample to this sample, shape (samples,)."""
    usable: BoolArray
    """Whether the series has a previous sample, and the interval since that sample is not a gap, shape (samples,)."""
    usual_step: float
    """Median interval between two samples of a series, over all nodes, in seconds; NaN if no series has two samples."""
    gaps: int
    """Number of gaps: intervals longer than `GAP_FACTOR` times the usual step of their node."""


def spacing(timestamps: FloatArray, series: IntArray, node: IntArray) -> Spacing:
    """Return the intervals between samples that are sorted by series and time.

    `timestamps` and `series` have shape (samples,), `node` has shape (series,). An interval is compared with
    the usual step of its own node, because nodes may be scraped at different intervals.
    """
    n = len(timestamps)
    seconds = np.zeros(n)
    usable = np.zeros(n, dtype=bool)
    if n > 1:
        np.subtract(timestamps[1:], timestamps[:-1], out=seconds[1:])
        np.equal(series[1:], series[:-1], out=usable[1:])
    usual = float(np.median(seconds[usable])) if usable.any() else float("nan")
    limit = GAP_FACTOR * usual
    gap = usable & (seconds > limit)
    if len(node) and (node != node[0]).any():
        gap = _gaps_by_node(seconds, usable, node[series])
    usable &= ~gap
    return Spacing(seconds, usable, usual, int(np.count_nonzero(gap)))


def _gaps_by_node(seconds: FloatArray, usable: BoolArray, node: IntArray) -> BoolArray:
    """Return which usable intervals are gaps, compared with the usual interval of their node, shape (samples,)."""
    n = int(node.max(initial=-1)) + 1
    shortest, longest = np.full(n, np.inf), np.zeros(n)
    np.minimum.at(shortest, node[usable], seconds[usable])
    np.maximum.at(longest, node[usable], seconds[usable])
    # Medians take long to compute. Only a node with an interval that is far longer than its shortest interval can have
    # a gap.
    judged = np.flatnonzero(usable & (longest > GAP_FACTOR * shortest)[node])
    gaps = np.zeros(len(seconds), dtype=bool)
    if len(judged):
        usual = median_by(seconds[judged], node[judged], n)
        gaps[judged] = seconds[judged] > GAP_FACTOR * usual[node[judged]]
    return gaps


@attrs.frozen(eq=False)
class Rates:
    """The rates of a counter metric; each rate belongs to the sample at the end of its interval."""

    values: FloatArray
    """Rate per second, shape (samples,); NaN for the first sample of a series and after a gap."""
    reset: BoolArray
    """Whether the counter fell from the previous sample to this sample, shape (samples,).

    If so, the counter was reset, and its value after the reset counts as the increase, as in PromQL.
    """


def rates(metric: Metric, spaced: Spacing) -> Rates:
    """Return the rates of a counter metric; each rate is the increase divided by the interval's actual length."""
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
