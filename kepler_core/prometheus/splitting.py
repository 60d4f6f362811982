"""Split queries that a server finds too large: by instances, by time, or by both.

Servers limit the samples, the series and the time of a query. Fewer instances help against each of these limits. A
shorter time range helps against a limit of samples, and against a time limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from kepler_core.errors import PrometheusError
from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.instances import WITHOUT_LABEL, list_instances, shards_of
from kepler_core.prometheus.queries import Query

_SHORTEST_MS = 60_000
"""A query for all instances is split by time only down to this length, and then by instances."""
_FEWEST_INSTANCES = 8
"""A query that exceeds the server's time limit is split by instances only down to this number, and then by time down to
`_SHORTEST_MS`.

If a smaller query takes too long, the cause is an overloaded server. Splitting does not help then, and each further
query may take minutes.
"""


@attrs.define
class Splitter:
    """Splits queries that were rejected, and remembers the size from which on a metric's queries are too large."""

    client: PrometheusClient
    _samples: dict[tuple[str, bool], int] = attrs.field(factory=dict, init=False)
    """Smallest rejected size by metric: the length in milliseconds, for listed instances (True) times their number."""
    _series: dict[str, int] = attrs.field(factory=dict, init=False)
    """Smallest number of listed instances with too many series, by metric."""
    _series_of_all: set[str] = attrs.field(factory=set, init=False)
    """Metrics whose queries for all instances have too many series."""

    def known_parts(self, query: Query) -> Sequence[Query] | None:
        """Return the parts of a query that is certainly too large; None if it may succeed."""
        if query.instances is None:
            has_too_many = query.metric in self._series_of_all
        else:
            has_too_many = len(query.instances) >= self._series.get(query.metric, math.inf)
        if has_too_many:
            return self._by_instances(query)
        most_samples = self._samples.get((query.metric, query.instances is not None))
        if most_samples is not None and _size(query) >= most_samples:
            return self._by_any(query)
        return None

    def parts(self, query: Query, error: PrometheusError) -> Sequence[Query] | None:
        """Return parts of a query that failed with an error; None if no smaller query may succeed."""
        if error.kind == "timeout":
            parts = _for_time_limit(query)
        elif error.kind != "too large":
            return None
        elif error.too_many_series:
            parts = self._by_instances(query)
        else:
            parts = self._by_any(query)
        if parts is not None:
            self._remember(query, error)
        return parts

    def _remember(self, query: Query, error: PrometheusError) -> None:
        if error.too_many_series and query.instances is None:
            self._series_of_all.add(query.metric)
        elif error.too_many_series:
            number = len(query.instances or ())
            self._series[query.metric] = min(number, self._series.get(query.metric, number))
        else:
            key = query.metric, query.instances is not None
            self._samples[key] = min(_size(query), self._samples.get(key, _size(query)))

    def _by_any(self, query: Query) -> Sequence[Query] | None:
        """Split a query with too many samples."""
        if query.instances is not None:
            return query.instance_halves() or query.halves()
        halves = query.halves()
        if halves is not None and query.end - query.start >= _SHORTEST_MS:
            return halves
        return self._by_instances(query) or halves

    def _by_instances(self, query: Query) -> Sequence[Query] | None:
        """Split a query by its instances; None if there is only one instance."""
        if query.instances is not None:
            return query.instance_halves()
        start, end = query.start / 1000, query.end / 1000
        instances = list_instances(self.client, [query.selection], start - (query.step or 0) / 1000, end)
        if len(instances) < 2:
            return None
        shards = [*shards_of(instances, (len(instances) + 1) // 2), WITHOUT_LABEL]
        return [attrs.evolve(query, instances=shard) for shard in shards]


def is_smallest(query: Query) -> bool:
    """Return whether a query that exceeds the server's time limit is not split."""
    return _for_time_limit(query) is None


def _for_time_limit(query: Query) -> Sequence[Query] | None:
    if query.instances is not None and len(query.instances) > _FEWEST_INSTANCES:
        return query.instance_halves()
    return query.halves() if query.end - query.start >= _SHORTEST_MS else None


def _size(query: Query) -> int:
    """Return a number that is proportional to the number of samples of one metric's queries."""
    return (query.end - query.start + (query.step or 1)) * len(query.instances or WITHOUT_LABEL)
