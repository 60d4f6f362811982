"""The counters of the estimator's status and metrics."""

from __future__ import annotations

import time
from collections import Counter, deque

MAX_LATENCIES = 2048
"""Number of replies that the latency quantiles are computed from."""


class Counters:
    """Counters since the start of the process, and the latencies of the last `MAX_LATENCIES` replies."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: Counter[str] = Counter()
        """By outcome: answered, failed, commands."""
        self.rows = 0
        self.invalid_rows = 0
        self.fewer_decimals = 0
        self.components_left_out = 0
        self.too_long = 0
        self.connections = 0
        self.dropped: Counter[str] = Counter()
        """Connections that were closed without a reply, by reason."""
        self._latencies: deque[float] = deque(maxlen=MAX_LATENCIES)

    def add_latency(self, seconds: float) -> None:
        """Record the time from a complete request to its reply."""
        self._latencies.append(seconds)

    def latency_ms(self) -> dict[str, float]:
        """Return median and 99th percentile of the recorded latencies in milliseconds; {} without replies."""
        latencies = sorted(self._latencies)
        if not latencies:
            return {}
        return {
            "p50": round(latencies[len(latencies) // 2] * 1e3, 3),
            "p99": round(latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)] * 1e3, 3),
        }
