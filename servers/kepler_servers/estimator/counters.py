"""Counters of requests, rows, replies and connections, for the estimator's status and Prometheus metrics."""

from __future__ import annotations

import time
from collections import Counter, deque

MAX_LATENCIES = 2048
"""The latency quantiles are computed from this number of latest replies."""


class Counters:
    """Counters since the start of the process, and the latencies of the latest `MAX_LATENCIES` replies."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: Counter[str] = Counter()
        """Number of requests by outcome. Requests for watts have the outcome "answered" or "failed". All other
        requests, e.g. for the status, count as "commands"."""
        self.rows = 0
        self.invalid_rows = 0
        self.dead_features: Counter[str] = Counter()
        """Number of requests by their dead features. A key is the names of the dead features, joined by ", ".

        A feature is dead if it is 0 in all rows although the CPUs ran.
        """
        self.rows_outside = 0
        """Number of rows with a feature outside the range of the model's training. Rows that request the idle power
        are not included."""
        self.disagreements = 0
        """Number of rows that got the watts of the model's twin (a second model with fewer features), because the
        predictions of the two models differed too much."""
        self.fewer_decimals = 0
        self.components_left_out = 0
        self.too_long = 0
        self.connections = 0
        self.dropped: Counter[str] = Counter()
        """Number of connections that were closed without a reply, by reason."""
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)

    def add_latency(self, seconds: float) -> None:
        """Record the time from the arrival of a complete request to its reply, in seconds."""
        self._latencies.append(seconds)

    def latency_ms(self) -> dict[str, float]:
        """Return the median (p50) and the 99th percentile (p99) of the recorded latencies, in milliseconds.

        The result is empty if there was no reply yet.
        """
        latencies = sorted(self._latencies)
        if not latencies:
            return {}
        return {
            "p50": round(latencies[len(latencies) // 2] * 1e3, 3),
            "p99": round(latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)] * 1e3, 3),
        }
