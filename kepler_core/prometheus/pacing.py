"""Limit the rate of the requests that several threads send to one server."""

from __future__ import annotations

import threading
import time

from kepler_core.deadlines import Deadline

BURST_SECONDS = 1.0
"""After a pause, requests may start at once, up to the number that the rate allows in this time."""
_POLL_SECONDS = 0.5


class Pace:
    """The times at which the next requests may start. Several threads can use the same `Pace` at the same time."""

    def __init__(self, per_second: float | None = None) -> None:
        """Allow `per_second` requests per second on average; None does not limit the rate."""
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._lock = threading.Lock()
        self._next = 0.0
        """Time at which the next request is due at a steady rate. Times are those of `time.monotonic`."""
        self._held_until = 0.0

    def hold(self, seconds: float) -> None:
        """Start no request for some time, because the server demands a pause."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def wait(self, deadline: Deadline) -> None:
        """Wait until a request may start. Raises `DeadlineError` as soon as a stop event of the deadline is set."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + self._interval
            start = self._next - max(BURST_SECONDS, self._interval)
        # Another thread may hold the requests while this thread waits, so the time is checked again after each wait.
        while (left := max(start, self._held_until) - time.monotonic()) > 0:
            deadline.wait(min(left, _POLL_SECONDS))
