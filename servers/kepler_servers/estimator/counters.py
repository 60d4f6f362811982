"""What the estimator counts."""

from __future__ import annotations

import time
from collections import Counter, deque

_LATENCIES = 2048


class Figures:
    """Counters since the start, and the latest latencies."""

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
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def replied(self, seconds: float) -> None:
        """A reply was ready, so many seconds after its request was complete."""
        self._latencies.append(seconds)

    def latency_ms(self) -> dict[str, float]:
        """Median and 99th percentile of the latest latencies, in milliseconds."""
        found = sorted(self._latencies)
        if not found:
            return {}
        return {
            "p50": round(found[len(found) // 2] * 1e3, 3),
            "p99": round(found[min(int(len(found) * 0.99), len(found) - 1)] * 1e3, 3),
        }
