"""A recording in columns: per metric the samples as arrays, the labels once per series."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray


@attrs.frozen(eq=False, slots=False)
class Metric:
    """One metric: samples sorted by series, then by time; immutable.

    `timestamps` (Unix seconds), `values` and `series` (index into `labels`) have one entry per
    sample. Samples that are not finite (NaN, Inf, Prometheus' staleness marker) and repeated
    timestamps of a series are already left out, and counted.
    """

    name: str
    timestamps: FloatArray
    values: FloatArray
    series: IntArray
    labels: tuple[Mapping[str, str], ...]
    not_finite: int = 0
    repeated: int = 0

    @property
    def n_samples(self) -> int:
        return len(self.values)

    @property
    def n_series(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> IntArray:
        """Samples per series, shape (n_series,)."""
        return np.bincount(self.series, minlength=self.n_series)


def metric_from_columns(
    name: str, timestamps: FloatArray, values: FloatArray, series: IntArray, labels: tuple[Mapping[str, str], ...]
) -> Metric:
    """A `Metric` from samples in any order: not-finite ones and repeated timestamps are left out."""
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
            fresh = np.ones(len(values), dtype=bool)
            fresh[1:] = (series[1:] != series[:-1]) | (timestamps[1:] != timestamps[:-1])
            repeated = int(len(fresh) - np.count_nonzero(fresh))
            if repeated:
                timestamps, values, series = timestamps[fresh], values[fresh], series[fresh]
    for column in (timestamps, values, series):
        column.setflags(write=False)
    return Metric(name, timestamps, values, series, labels, not_finite, repeated)


@attrs.frozen(eq=False)
class Recording:
    """What a Prometheus server returned for a range query, one `Metric` per metric name.

    `name` says where it came from, `digest` is the SHA-256 of the unpacked JSON (the same for plain
    and gzipped files). Only the metrics asked for at reading are there; `empty_series`
    counts series without a sample by metric name.
    """

    name: str
    metrics: Mapping[str, Metric]
    digest: str
    other_metrics: tuple[str, ...] = ()
    empty_series: Mapping[str, int] = attrs.field(factory=dict[str, int])

    @property
    def n_samples(self) -> int:
        return sum(metric.n_samples for metric in self.metrics.values())
