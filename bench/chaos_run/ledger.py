"""The ledger of a chaos run: the requests, answers and faults that all its threads have observed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable

import attrs

GAP_SECONDS = 1.0
"""If more than this number of seconds pass between two right answers of a server, this time counts as a gap."""
MAX_KEPT_FAULTS = 100


@attrs.define
class _Answering:
    last: float
    """Time of the server's latest right answer, as a value of `time.monotonic`."""
    gaps: list[tuple[float, float]] = attrs.field(factory=list)


@attrs.frozen
class Silence:
    """How long a server gave no right answers, in seconds."""

    total: float
    longest: float
    unexplained: float
    """Longest time without right answers, in seconds, during which the server's process was ready."""


class Ledger:
    """Counters of requests and answers, and a list of faults."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        """Number of requests, by client and outcome."""
        self.statuses: Counter[tuple[str, str, int]] = Counter()
        """Number of answers, by server, client and HTTP status. The client is "good" or the name of an attack."""
        self.faults: list[str] = []
        self.fault_kinds: Counter[str] = Counter()
        self._answering: dict[str, _Answering] = {}

    def count(self, client: str, outcome: str, number: int = 1) -> None:
        with self._lock:
            self.requests[client, outcome] += number

    def status(self, server: str, who: str, status: int, number: int = 1) -> None:
        with self._lock:
            self.statuses[server, who, status] += number

    def fault(self, kind: str, text: str) -> None:
        """Record a fault. `kind` is a plural that names a row of the report, such as "wrong answers"."""
        with self._lock:
            self.fault_kinds[kind] += 1
            if len(self.faults) < MAX_KEPT_FAULTS:
                self.faults.append(f"{kind}: {text}")

    def expect(self, server: str) -> None:
        """Start to record the times in which a server gives no right answers (gaps)."""
        with self._lock:
            self._answering[server] = _Answering(time.monotonic())

    def answered(self, server: str) -> None:
        """Record that a server has just given a right answer."""
        with self._lock:
            self._end_gap(self._answering[server])

    def end_gaps(self) -> None:
        """Record a gap for each server that has given no right answer for more than `GAP_SECONDS`."""
        with self._lock:
            for answering in self._answering.values():
                self._end_gap(answering)

    def _end_gap(self, answering: _Answering) -> None:
        now = time.monotonic()
        if now - answering.last > GAP_SECONDS:
            answering.gaps.append((answering.last, now))
        answering.last = now

    def silence(self, server: str, down: Iterable[tuple[float, float]]) -> Silence:
        """Return how long a server gave no right answers. `down` has the periods in which its process was not ready."""
        with self._lock:
            gaps = list(self._answering[server].gaps)
        down = list(down)
        lengths = [end - start for start, end in gaps]
        unexplained = [longest_rest(gap, down) for gap in gaps]
        return Silence(sum(lengths), max(lengths, default=0.0), max(unexplained, default=0.0))


def longest_rest(gap: tuple[float, float], covers: Iterable[tuple[float, float]]) -> float:
    """Return the length, in seconds, of the longest part of a gap that lies outside of all periods in `covers`."""
    at, end = gap
    longest = 0.0
    for since, until in sorted(covers):
        if until <= at or since >= end:
            continue
        longest = max(longest, since - at)
        at = max(at, until)
    return max(longest, end - at)
