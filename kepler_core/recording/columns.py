"""A recording in columns: for each metric, arrays of its samples and a list of its series' labels.

In this module, a *sample* is what Prometheus calls a sample: one value of one series at one time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray

METRIC_NAME_CHARACTERS = 200
"""Maximum number of characters of a metric's name in messages; a longer name is cut off."""
NAMELESS = "(no __name__)"
"""In the counts of malformed series, this key stands for series without a metric name. Other keys are metric names."""
MAX_CONFLICTS = 0.05
"""Samples of a series conflict if they have the same timestamp, but different values. If at least this fraction of a
series' samples conflict with an earlier sample, it is unknown when the samples of the series were taken."""
_FEWEST_CONFLICTS = 3
LARGEST_VALUE = 2.0**64
"""Maximum absolute value of a sample: larger values are replaced by it. Counters have at most 64 bits.

Sums and squares of values up to this limit are finite.
"""


@attrs.frozen(eq=False, slots=False)
class Metric:
    """The samples of one metric, sorted by series and time. The arrays are read-only.

    Some samples are left out and counted: samples that are not finite (NaN, infinity, Prometheus' staleness
    marker), and repeated samples at a timestamp that their series already has.
    """

    name: str
    timestamps: FloatArray
    """Time of each sample in Unix seconds, shape (samples,)."""
    values: FloatArray
    """Value of each sample in the unit that the exporter uses, shape (samples,)."""
    series: IntArray
    """Index of each sample's series in `labels`, shape (samples,)."""
    labels: tuple[Mapping[str, str], ...]
    """The labels of each series, including series without samples."""
    not_finite: int = 0
    """Number of samples left out because they are not finite."""
    repeated: int = 0
    """Number of samples left out because their series already has the timestamp."""
    conflicting: BoolArray | None = None
    """True for a series that often has two different values at one timestamp, shape (series,). None if there is no such
    series."""

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.values)

    @property
    def n_series(self) -> int:
        """Number of series, including series without samples."""
        return len(self.labels)

    @cached_property
    def lengths(self) -> IntArray:
        """Number of samples of each series, shape (series,)."""
        return np.bincount(self.series, minlength=self.n_series)

    @cached_property
    def starts(self) -> IntArray:
        """Index of each series' first sample, shape (series,).

        For a series without samples, it is the index at which its samples would begin.
        """
        return np.cumsum(self.lengths) - self.lengths

    def span(self, series: int) -> slice:
        """Return the slice of the arrays with the samples of a series. It is empty if the series has no samples."""
        start = int(self.starts[series])
        return slice(start, start + int(self.lengths[series]))

    def time_spans(self) -> Iterator[tuple[int, float, float]]:
        """Yield the index, and the first and last timestamp in Unix seconds, of each series that has samples."""
        used = np.flatnonzero(self.lengths)
        starts = self.starts[used]
        firsts, lasts = self.timestamps[starts], self.timestamps[starts + self.lengths[used] - 1]
        return zip(used.tolist(), firsts.tolist(), lasts.tolist(), strict=True)


def metric_from_columns(
    name: str, timestamps: FloatArray, values: FloatArray, series: IntArray, labels: tuple[Mapping[str, str], ...]
) -> Metric:
    """Make a metric from samples in any order.

    Samples that are not finite, or that repeat a timestamp of their series, are left out and counted.
    Arrays that need neither sorting nor filtering are used without a copy and become read-only.
    """
    finite = np.isfinite(values) & np.isfinite(timestamps)
    not_finite = int(len(finite) - np.count_nonzero(finite))
    if not_finite:
        timestamps, values, series = timestamps[finite], values[finite], series[finite]
    if len(values) and max(values.max(), -values.min()) > LARGEST_VALUE:
        # Values that are too large are replaced, not left out: otherwise, a container's value would be missing from
        # the node's sum without being noticed.
        values = np.clip(values, -LARGEST_VALUE, LARGEST_VALUE)
    repeated = 0
    conflicting = None
    if len(values) > 1:
        same_series = series[1:] == series[:-1]
        if np.any(same_series & (timestamps[1:] <= timestamps[:-1])) or np.any(series[1:] < series[:-1]):
            order = np.lexsort((timestamps, series))
            timestamps, values, series = timestamps[order], values[order], series[order]
            first = np.ones(len(values), dtype=bool)
            first[1:] = (series[1:] != series[:-1]) | (timestamps[1:] != timestamps[:-1])
            repeated = int(len(first) - np.count_nonzero(first))
            if repeated:
                conflicting = _conflicting_series(values, series, first, len(labels))
                timestamps, values, series = timestamps[first], values[first], series[first]
    for column in (timestamps, values, series):
        column.setflags(write=False)
    return Metric(name, timestamps, values, series, labels, not_finite, repeated, conflicting)


def metric_of_series(metric: Metric, chosen: BoolArray) -> Metric:
    """Return a metric with only the chosen series, numbered from 0. `chosen` is a mask of shape (series,)."""
    if chosen.all():
        return metric
    kept = chosen[metric.series]
    columns = (metric.timestamps[kept], metric.values[kept], (np.cumsum(chosen) - 1)[metric.series[kept]])
    for column in columns:
        column.setflags(write=False)
    labels = tuple(metric.labels[at] for at in np.flatnonzero(chosen).tolist())
    conflicting = None if metric.conflicting is None or not metric.conflicting[chosen].any() else metric.conflicting
    return Metric(metric.name, *columns, labels, conflicting=None if conflicting is None else conflicting[chosen])


def _conflicting_series(values: FloatArray, series: IntArray, first: BoolArray, n: int) -> BoolArray | None:
    """Return which of `n` series have two values at many timestamps, e.g. because the clock was set back.

    The arrays have the shape (samples,), and are sorted. `first` is true for the first sample of a series at a
    timestamp.
    """
    differs = ~first
    differs[1:] &= values[1:] != values[:-1]
    n_conflicts = np.bincount(series[differs], minlength=n)
    limit = np.maximum(MAX_CONFLICTS * np.bincount(series, minlength=n), _FEWEST_CONFLICTS)
    conflicting: BoolArray = n_conflicts >= limit
    return conflicting if conflicting.any() else None


@attrs.frozen(eq=False)
class Recording:
    """The results of Prometheus range queries, read from a file.

    Only the metrics that were chosen for reading (`read_recording(wanted=…)`) have samples.
    """

    name: str
    """Name of the recording in messages, usually the path of its file."""
    metrics: Mapping[str, Metric]
    """The metrics that were chosen for reading, by name."""
    digest: str
    """SHA-256 of the unpacked JSON, so that a plain and a gzipped file with the same content have the same digest."""
    other_metrics: tuple[str, ...] = ()
    """Sorted names of the metrics that were not chosen for reading."""
    empty_series: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Number of series without samples, by metric name."""
    malformed_series: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Number of series that were left out because they are malformed, by metric name."""
    malformed_examples: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Place and problem of the first malformed series, by metric name."""
    malformed_labels: Mapping[str, Sequence[Mapping[str, str]]] = attrs.field(
        factory=dict[str, Sequence[Mapping[str, str]]]
    )
    """By metric name: the labels of each series that has valid labels, but malformed samples."""
    metric_prefix: str | None = None
    """First word of the exporter's metric names. None stands for the word that the metric schema expects."""

    @property
    def n_samples(self) -> int:
        """Number of samples of all metrics."""
        return sum(self.sample_counts.values())

    @property
    def sample_counts(self) -> Mapping[str, int]:
        """Number of samples of each metric that was chosen for reading."""
        return {name: metric.n_samples for name, metric in self.metrics.items()}
