"""Calculate the increases of counters between given timestamps (the grid), summed over all series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.recording.columns import Metric

Labels = Mapping[str, str]


def selected(metric: Metric | None, wanted: Callable[[Labels], bool]) -> Metric | None:
    """Return a metric with only the series whose labels are wanted; None if these series have no samples."""
    if metric is None:
        return None
    kept = np.array([wanted(labels) for labels in metric.labels], dtype=bool)
    at: BoolArray = kept[metric.series] if len(kept) else np.zeros(0, dtype=bool)
    if not at.any():
        return None
    return attrs.evolve(
        metric, timestamps=metric.timestamps[at], values=metric.values[at], series=metric.series[at], conflicting=None
    )


def increases(
    metric: Metric, grid: FloatArray, *, new_from_zero: bool = False, falls: Literal["unknown", "reset"] = "unknown"
) -> FloatArray:
    """Return the sum of all series' increases between neighbouring timestamps of `grid`, shape (timestamps − 1,).

    A series may begin after the first timestamp of the grid. Its first value is then an increase from 0 if
    `new_from_zero` is true, and no increase otherwise. If a counter falls, the increase is unknown (NaN) with
    `falls="unknown"`; with `falls="reset"`, the counter has started again at 0. An interval is NaN if no series has
    samples at both of its timestamps.
    """
    position = np.searchsorted(grid, metric.timestamps)
    on_grid = (position < len(grid)) & (grid[np.minimum(position, len(grid) - 1)] == metric.timestamps)
    position, series, values = position[on_grid], metric.series[on_grid], metric.values[on_grid]
    follows = np.zeros(len(values), dtype=bool)
    follows[1:] = (series[1:] == series[:-1]) & (np.diff(position) == 1)
    before = np.concatenate([values[:1], values[:-1]])
    grown = values - before
    grown = np.where(grown < 0, values if falls == "reset" else np.nan, grown)
    used = follows.copy()
    if new_from_zero:
        first = np.ones(len(values), dtype=bool)
        first[1:] = series[1:] != series[:-1]
        new = first & (position > 0)
        grown = np.where(new, values, grown)
        used |= new
    interval = position[used] - 1
    total = np.bincount(interval, weights=grown[used], minlength=len(grid) - 1)
    count = np.bincount(interval, minlength=len(grid) - 1)
    return np.where(count > 0, total, np.nan)


def on_grid(metric: Metric, grid: FloatArray) -> FloatArray:
    """Return the value of a metric's first series at each timestamp of `grid`, shape (timestamps,); NaN if unknown."""
    values = np.full(len(grid), np.nan)
    first = metric.series == metric.series.min()
    position = np.searchsorted(grid, metric.timestamps[first])
    inside = position < len(grid)
    exact = inside & (grid[np.minimum(position, len(grid) - 1)] == metric.timestamps[first])
    values[position[exact]] = metric.values[first][exact]
    return values
