"""Counters to rates per second, vectorised over all series of a metric."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from kepler_core.recording.columns import Floats, Metric

GAP_FACTOR = 5.0
"""An interval longer than this many usual steps is a gap: no rate is made of it."""


@attrs.frozen(eq=False)
class Rates:
    """Per sample of a metric: the rate over the interval that ends at it.

    `values` is NaN for the first sample of a series and after a gap; `reset` marks the samples
    whose counter fell (their rate is the value after the fall over the interval, as in PromQL).
    """

    values: Floats
    reset: NDArray[np.bool_]
    gaps: int
    first: int


def intervals(metric: Metric) -> tuple[Floats, NDArray[np.bool_]]:
    """Seconds since the series' previous sample, and whether there is one; shape (n_samples,)."""
    seconds = np.zeros(metric.n_samples)
    has_previous = np.zeros(metric.n_samples, dtype=bool)
    if metric.n_samples > 1:
        np.subtract(metric.timestamps[1:], metric.timestamps[:-1], out=seconds[1:])
        np.equal(metric.series[1:], metric.series[:-1], out=has_previous[1:])
    return seconds, has_previous


def usual_step(metric: Metric) -> float:
    """The median interval within the metric's series, in seconds; NaN if there is none."""
    return _median(*intervals(metric))


def _median(seconds: Floats, has_previous: NDArray[np.bool_]) -> float:
    return float(np.median(seconds[has_previous])) if has_previous.any() else float("nan")


def rates(metric: Metric) -> Rates:
    """Rates of a counter, every pair of samples over its own interval."""
    seconds, has_previous = intervals(metric)
    gap = has_previous & (seconds > GAP_FACTOR * _median(seconds, has_previous))
    usable = has_previous & ~gap
    increase = np.zeros(metric.n_samples)
    if metric.n_samples > 1:
        np.subtract(metric.values[1:], metric.values[:-1], out=increase[1:])
    reset = usable & (increase < 0)
    if reset.any():
        increase[reset] = np.maximum(metric.values[reset], 0.0)
    values = np.full(metric.n_samples, np.nan)
    np.divide(increase, seconds, out=values, where=usable)
    first = int(metric.n_samples - np.count_nonzero(has_previous))
    return Rates(values, reset, int(np.count_nonzero(gap)), first)
