"""Counters to rates per second, vectorised over all series of a metric."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.columns import Metric

GAP_FACTOR = 5.0
"""An interval longer than this many usual steps is a gap: no rate is made of it."""


@attrs.frozen(eq=False)
class Spacing:
    """The intervals between a metric's samples, each ending at a sample; shape (samples,).

    Metrics of one exporter mostly have the same timestamps, and so the same spacing.
    """

    seconds: FloatArray
    """Since the series' previous sample."""
    usable: BoolArray
    """Whether there is a previous sample, and no gap since."""
    usual_step: float
    """The median interval over all nodes, in seconds; NaN if there is none."""
    gaps: int
    """Intervals longer than `GAP_FACTOR` usual steps."""


def spacing(timestamps: FloatArray, series: IntArray, node: IntArray) -> Spacing:
    """The spacing of samples that are sorted by series and time; `node` has shape (series,).

    What is usual is decided node by node: they need not be scraped equally often.
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
        step_of = np.full(int(nodes.max()) + 1, np.nan)
        of_sample = node[series]
        for code in nodes:
            mine = seconds[usable & (of_sample == code)]
            step_of[code] = np.median(mine) if len(mine) else np.nan
        limit = GAP_FACTOR * step_of[of_sample]
    long = seconds > limit
    long &= usable
    usable &= ~long
    return Spacing(seconds, usable, usual, int(np.count_nonzero(long)))


@attrs.frozen(eq=False)
class Rates:
    """Per sample of a metric: the rate over the interval that ends at it.

    `values` is NaN for the first sample of a series and after a gap; `reset` marks the samples
    whose counter fell (their rate is the value after the fall over the interval, as in PromQL).
    """

    values: FloatArray
    reset: BoolArray


def rates(metric: Metric, spaced: Spacing) -> Rates:
    """Rates of a counter, every pair of samples over its own interval."""
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
