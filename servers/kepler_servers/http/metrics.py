"""The Prometheus metrics that every HTTP server of Kepler Core has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the Prometheus text format."""

_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class RequestMetrics:
    """Prometheus metrics of the requests and latencies of each endpoint."""

    def __init__(self, prefix: str, registry: CollectorRegistry | None) -> None:
        """`registry` is None if several worker processes store the values in files (PROMETHEUS_MULTIPROC_DIR)."""
        self.requests = Counter(
            f"{prefix}_requests", "Requests by endpoint and status.", ("endpoint", "status"), registry=registry
        )
        self.latency = Histogram(
            f"{prefix}_request_seconds",
            "Seconds from the complete request to the answer.",
            ("endpoint",),
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )
        # A cache of counters and histograms, because prometheus_client's `labels()` takes longer than `inc()`.
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def observe(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answered request and record its latency."""
        children = self._children.get((endpoint, status))
        if children is None:
            children = self.requests.labels(endpoint, str(status)), self.latency.labels(endpoint)
            self._children[endpoint, status] = children
        requests, latency = children
        requests.inc()
        latency.observe(seconds)
