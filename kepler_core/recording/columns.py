"""A recording in columns: arrays of samples per metric, and the labels once per series.

A *sample* is a sample of Prometheus here: one value of one series at one time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray

METRIC_NAME_CHARACTERS = 200
"""Length to which messages cut a metric's name."""


@attrs.frozen(eq=False, slots=False)
class Metric:
    """The samples of one metric, sorted by series and time. The arrays are read-only.

    Samples that are not finite (NaN, infinity, Prometheus' staleness marker) and samples at a timestamp
    that their series already has are left out and counted.
    """

    name: str
    timestamps: FloatArray
    """Unix seconds, shape (samples,)."""
    values: FloatArray
    """Values in the exporter's unit, shape (samples,)."""
    series: IntArray
    """Index of each sample's series in `labels`, shape (samples,)."""
    labels: tuple[Mapping[str, str], ...]
    """The labels of each series; a series may have no samples."""
    not_finite: int = 0
    """Number of samples left out because they are not finite."""
    repeated: int = 0
    """Number of samples left out because their series already has the timestamp."""

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.values)

    @property
    def n_series(self) -> int:
        """Number of series, with those that have no samples."""
        return len(self.labels)

    @cached_property
    def lengths(self) -> IntArray:
        """Number of samples of each series, shape (series,)."""
        return np.bincount(self.series, minlength=self.n_series)


def metric_from_columns(
    name: str, timestamps: FloatArray, values: FloatArray, series: IntArray, labels: tuple[Mapping[str, str], ...]
) -> Metric:
    """Return a metric of samples in any order, without those that are not finite or repeat a timestamp.

    Arrays that need neither sorting nor filtering are used without a copy and become read-only.
    """
    finite = np.isfinite(values) & np.isfinite(timestamps)
    not_finite = int(len(finite) - np.count_nonzero(finite))
    if not_finite:
        timestamps, values, series = timestamps[finite], values[finite], series[finite]
    repeated = 0
    if len(values) > 1:
        same_series = series[1:] == series[:-1]
        if np.any(same_series & (timestamps[1:] <= timestamps[:-1])) or np.any(series[1:] < series[:-1]):
            order = np.lexsort((timestamps, series))
            timestamps, values, series = timestamps[order], values[order], series[order]
            first = np.ones(len(values), dtype=bool)
            first[1:] = (series[1:] != series[:-1]) | (timestamps[1:] != timestamps[:-1])
            repeated = int(len(first) - np.count_nonzero(first))
            if repeated:
                timestamps, values, series = timestamps[first], values[first], series[first]
    for column in (timestamps, values, series):
        column.setflags(write=False)
    return Metric(name, timestamps, values, series, labels, not_finite, repeated)


@attrs.frozen(eq=False)
class Recording:
    """The result of a Prometheus range query. Only the metrics chosen when it was read have samples."""

    name: str
    """Where the recording comes from, for messages: usually the file."""
    metrics: Mapping[str, Metric]
    """The chosen metrics by name."""
    digest: str
    """SHA-256 of the JSON, unpacked: a plain and a gzipped file of the same content have the same digest."""
    other_metrics: tuple[str, ...] = ()
    """Names of the metrics that were not chosen, sorted."""
    empty_series: Mapping[str, int] = attrs.field(factory=dict[str, int])
    """Number of series without samples, by metric name."""

    @property
    def n_samples(self) -> int:
        """Number of samples of all metrics."""
        return sum(metric.n_samples for metric in self.metrics.values())
