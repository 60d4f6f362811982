"""The points of a metric as rates or gauge values, with the sample and unit that each belongs to."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import MetricMapping
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import MappedMetric
from kepler_core.recording.rates import Spacing, rates, spacing


@attrs.define(eq=False)
class Position:
    """What the points of a metric belong to.

    Metrics whose series have the same timestamps, nodes and units share one position.
    """

    spacing: Spacing
    sample: IntArray
    """Index of each point's sample, shape (points,). Before the samples are numbered: node times the
    length of the time grid, plus the index in the grid."""
    unit: IntArray
    """Number of each point's unit, shape (points,)."""
    row: IntArray | None = None
    """Index of each point's row, shape (points,), if the points belong to containers."""


@attrs.frozen(eq=False)
class Points:
    """The points of a metric, in the unit of the vocabulary."""

    item: MappedMetric
    values: FloatArray
    """Rates per second or gauge values, shape (points,); NaN where there is no rate."""
    reset: BoolArray
    """Whether the counter fell, shape (points,)."""
    position: Position
    upcoming: FloatArray | None = None
    """At the first point of a counter's series the series' next rate, elsewhere 0; shape (points,). It
    stands for the work before the first point, of which nothing is known but that it was hardly less."""

    @property
    def mapping(self) -> MetricMapping:
        """The metric's mapping to the vocabulary."""
        return self.item.mapping

    @property
    def is_feature(self) -> bool:
        """Whether the values are a feature; otherwise they are watts."""
        return self.mapping.kind == "feature"


def points_of(item: MappedMetric, grid: FloatArray, positions: ArrayMemo[Position], counts: Counts) -> Points:
    """Return the points of a metric. `grid` holds all timestamps of the recording, sorted."""
    metric, mapping = item.metric, item.mapping

    def locate() -> Position:
        return Position(
            spacing(metric.timestamps, metric.series, item.node),
            item.node[metric.series] * len(grid) + np.searchsorted(grid, metric.timestamps),
            item.unit[metric.series],
        )

    position = positions.get((metric.timestamps, metric.series, item.node, item.unit), locate)
    if not mapping.counter:
        return Points(item, metric.values * mapping.scale, np.zeros(metric.n_samples, dtype=bool), position)
    rate = rates(metric, position.spacing)
    counts.gaps[metric.name] += position.spacing.gaps
    counts.resets[metric.name] += int(np.count_nonzero(rate.reset))
    values = rate.values * mapping.scale if mapping.scale != 1.0 else rate.values
    upcoming = np.zeros(len(values))
    begins = np.isnan(values[:-1]) & np.isfinite(values[1:]) & (metric.series[1:] == metric.series[:-1])
    upcoming[:-1][begins] = values[1:][begins]
    return Points(item, values, rate.reset, position, upcoming)
