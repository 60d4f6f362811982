"""The points of a metric as rates or gauge values, with the sample and the container or socket of each point.

The module `layout` explains the terms point, sample and row.
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import MetricMapping
from kepler_core.grouping import distinct, median_by
from kepler_core.messages import printable
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.columns import Metric
from kepler_core.recording.counts import Counts
from kepler_core.recording.impossible import impossible_values
from kepler_core.recording.metric_mapping import MappedMetric
from kepler_core.recording.rates import GAP_FACTOR, Spacing, rates, spacing
from kepler_core.recording.times import utc

_EXACT = 2.0**40
"""Prometheus stores counters below this value (in double precision) with an error of less than 0.001."""
MAX_FIRST_RATE = 3.0
"""It is assumed that a new counter started at 0 if its first rate is at most this multiple of its second rate."""
_FEWEST_RATES = 10
"""Minimum number of usable rates in a series. With fewer rates, a fall of the counter cannot be compared with them."""
_SMALL_FALL = 0.9
"""If a counter falls, but keeps at least this fraction of its value, it was possibly not reset."""
_LARGEST_ROUNDING = 0.01
"""Maximum rounding error of a counter, as a fraction of the counter's usual increase."""

_NONE = np.empty(0)


@attrs.frozen(eq=False)
class Samples:
    """The samples of a recording: a sample is a node at a timestamp at which the node has any value."""

    stream: IntArray
    """Index of each sample's stream, shape (samples,)."""
    node: IntArray
    """Index of each stream's node in `SeriesCodes.nodes`, shape (streams,)."""
    time: FloatArray
    """Time of each sample in Unix seconds, shape (samples,)."""


@attrs.define(eq=False)
class Position:
    """The sample, the row, and the container or socket that each point of a metric belongs to.

    Metrics whose series have the same timestamps, nodes and containers share one `Position` object.
    """

    spacing: Spacing
    sample: IntArray
    """Index of each point's sample, shape (points,).

    At first, it is the index of a cell in a grid that has a row for each node and a column for each timestamp. The
    module `layout` then replaces it by the index of the sample.
    """
    unit: IntArray
    """Index of each point's unit in `SeriesCodes.units`, shape (points,)."""
    row: IntArray | None = None
    """Index of each point's row, shape (points,); None if the points do not belong to containers."""
    scrapes: IntArray | None = None
    """The distinct values of `sample`, sorted. They are None until they are used for the first time."""


@attrs.frozen(eq=False)
class Points:
    """The values of a metric's points, converted from the exporter's unit to the unit in `kepler_core.vocabulary`."""

    item: MappedMetric
    values: FloatArray
    """Value of each point (a series at a time), shape (points,): a rate per second, or a gauge value.

    It is NaN if the rate is not known.
    """
    reset: BoolArray
    """Whether the counter fell from the previous point to this point, shape (points,)."""
    position: Position
    upcoming: FloatArray | None = None
    """Estimated rate of each point whose rate is not known, shape (points,); 0 for points without an estimate.

    The first point of a counter may have no known rate. The estimate is the rate at the next point, or the largest
    possible rate of a new series, whichever is higher. Gauges have no estimates (None).
    """

    unreadable: BoolArray | None = None
    """Whether the rate is left out because the counter's value is impossible or rounded, shape (points,).

    None if no rate is left out.
    """

    @property
    def mapping(self) -> MetricMapping:
        """The metric's mapping to the vocabulary."""
        return self.item.mapping

    @property
    def is_feature(self) -> bool:
        """Whether the values belong to a feature; otherwise they are watts."""
        return self.mapping.kind == "feature"

    def without_values(self) -> Points:
        """Return the points without the arrays that are needed only to calculate the values of samples and rows.

        The arrays of all metrics together would take much memory.
        """
        return attrs.evolve(self, values=_NONE, reset=_NONE.astype(bool), upcoming=None)


def position_of(item: MappedMetric, grid: FloatArray, positions: ArrayMemo[Position]) -> Position:
    """Return the position of each point of a metric.

    `grid` holds all timestamps of the recording, sorted. `positions` caches one `Position` for each combination of
    timestamps, series, nodes and containers.
    """
    metric = item.metric

    def locate() -> Position:
        return Position(
            spacing(metric.timestamps, metric.series, item.node),
            item.node[metric.series] * len(grid) + np.searchsorted(grid, metric.timestamps),
            item.unit[metric.series],
        )

    return positions.get((metric.timestamps, metric.series, item.node, item.unit), locate)


def points_of(item: MappedMetric, position: Position, samples: Samples, counts: Counts) -> Points:
    """Return the points of a metric. Irregularities of the metric are added to `counts`.

    `samples` are all samples of the recording. `position` refers to them.
    """
    metric, mapping = item.metric, item.mapping
    impossible = impossible_values(item, counts)
    if item.ambiguous is not None:
        ambiguous = item.ambiguous[metric.series]
        impossible = ambiguous if impossible is None else impossible | ambiguous
    if not mapping.counter:
        values = metric.values * mapping.scale
        if impossible is not None:
            values[impossible] = np.nan
        return Points(item, values, np.zeros(metric.n_samples, dtype=bool), position)
    rate = rates(metric, position.spacing)
    counts.gaps[metric.name] += position.spacing.gaps
    counts.resets[metric.name] += int(np.count_nonzero(rate.reset))
    values = rate.values
    possible = None
    if mapping.kind == "feature" and rate.reset.any() and not item.third_party:
        falls = _falls(metric, values, rate.reset)
        counts.count("falls", metric.name, int(np.count_nonzero(falls)), _example(item, falls) if falls.any() else "")
        impossible = falls if impossible is None else impossible | falls
    if mapping.kind == "feature" and mapping.level != "node" and not item.third_party:
        possible = _start_new_series(metric, values, position, samples)
    if impossible is not None:
        impossible[1:] |= impossible[:-1] & (metric.series[1:] == metric.series[:-1])
        values[impossible] = np.nan
    unreadable = _unreadable(metric, values, position.spacing)
    if unreadable is not None:
        values[unreadable] = np.nan
        counts.count("unreadable", metric.name, int(np.count_nonzero(unreadable)), _example(item, unreadable))
    if mapping.scale != 1.0:
        values = values * mapping.scale
    upcoming = np.zeros(len(values))
    begins = np.isnan(values[:-1]) & np.isfinite(values[1:]) & (metric.series[1:] == metric.series[:-1])
    upcoming[:-1][begins] = values[1:][begins]
    if possible is not None:
        first, highest = possible
        upcoming[first] = np.maximum(upcoming[first], highest * mapping.scale)
    masks = [mask for mask in (impossible, unreadable) if mask is not None]
    return Points(item, values, rate.reset, position, upcoming, np.logical_or.reduce(masks) if masks else None)


def _start_new_series(
    metric: Metric, values: FloatArray, position: Position, samples: Samples
) -> tuple[IntArray, FloatArray]:
    """Set the rate of the first point of a series that appears while its node is already being scraped.

    An exporter counts a new container from 0. So the counter's first value is its increase since the previous scrape of
    the node. Without this increase, a container that lives for one scrape would have no usage at all, although the
    node's power contains its work. If the first value is much larger than the next increase, a part of it may have been
    counted earlier. The rate of such a first point is not set.

    `samples` are all samples of the recording. Return the indices of the first points whose rate is not set. Return
    also the largest possible rate of each of these points.
    """
    at = metric.starts[metric.lengths > 0]
    if position.scrapes is None:
        position.scrapes = distinct(position.sample)
    scrapes = position.scrapes
    before = np.searchsorted(scrapes, position.sample[at]) - 1
    at, before = at[before >= 0], before[before >= 0]
    same_node = samples.stream[scrapes[before]] == samples.stream[position.sample[at]]
    at, before = at[same_node], before[same_node]
    seconds = metric.timestamps[at] - samples.time[scrapes[before]]
    usable = (seconds > 0) & (seconds <= GAP_FACTOR * position.spacing.usual_step) & (metric.values[at] >= 0)
    at = at[usable]
    rate = metric.values[at] / seconds[usable]
    following = np.minimum(at + 1, len(values) - 1)
    has_next = (following > at) & (metric.series[following] == metric.series[at]) & np.isfinite(values[following])
    likely = ~has_next | (rate <= MAX_FIRST_RATE * values[following])
    values[at[likely]] = rate[likely]
    return at[~likely], rate[~likely]


def _falls(metric: Metric, values: FloatArray, reset: BoolArray) -> BoolArray:
    """Return the points at which a counter falls without being reset, shape (points,).

    A counter that is reset begins at 0 again. So its value afterwards is small: it is the increase since the reset, at
    most a few usual increases. If the counter falls by a few percent only, and its value is far larger than a few usual
    increases, it was not reset. For example, a server that deduplicates replicas may have switched to a replica with
    older values. `values` are the rates, and `reset` marks the points at which the counter falls.
    """
    falls = np.zeros(len(values), dtype=bool)
    at = np.flatnonzero(reset)
    at = at[metric.values[at] >= _SMALL_FALL * metric.values[at - 1]]
    if len(at):
        usable = np.isfinite(values) & ~reset
        highest = np.zeros(metric.n_series)
        np.maximum.at(highest, metric.series[usable], values[usable])
        n_usable = np.bincount(metric.series[usable], minlength=metric.n_series)
        is_far = values[at] > MAX_FIRST_RATE * highest[metric.series[at]]
        falls[at[is_far & (n_usable[metric.series[at]] >= _FEWEST_RATES)]] = True
    return falls


def _unreadable(metric: Metric, values: FloatArray, spaced: Spacing) -> BoolArray | None:
    """Return which rates are lost in the rounding of the counter, shape (points,); None if no rates are lost.

    Prometheus stores numbers in double precision. A counter near 2^64 can only change in steps of 2048, so that
    the work of most intervals is rounded away.
    """
    if not metric.n_samples or float(metric.values.max()) < _EXACT:
        return None
    steps = np.where(spaced.usable, values * spaced.seconds, 0.0)
    moved = steps > 0
    series, n = metric.series[moved], metric.n_series
    # Compute medians only if they are needed, because they take long. The median step of a series can be too low
    # only if at least half of its steps are too low.
    highest = np.zeros(n)
    used = np.flatnonzero(metric.lengths)
    highest[used] = np.maximum.reduceat(metric.values, metric.starts[used])
    is_low = steps[moved] < np.spacing(highest)[series] / _LARGEST_ROUNDING
    if not (2 * np.bincount(series[is_low], minlength=n) >= np.maximum(np.bincount(series, minlength=n), 1)).any():
        return None
    usual = median_by(steps[moved], series, n)[metric.series]
    unreadable: BoolArray = np.spacing(metric.values) > _LARGEST_ROUNDING * usual
    return unreadable if unreadable.any() else None


def _example(item: MappedMetric, mask: BoolArray) -> str:
    """Return the labels and the time of the first sample that `mask` marks, for messages."""
    at = int(np.flatnonzero(mask)[0])
    labels = item.metric.labels[item.metric.series[at]]
    words = [labels[label] for label in (*item.mapping.unit_labels, "instance") if labels.get(label)]
    return f"{printable(' '.join(words[:1] + words[-1:]), 100)} at {utc(float(item.metric.timestamps[at]))}"
