"""Queries that are small enough for a server, and their answers, several at a time.

Samples are asked for in one of two ways. As they were scraped: `metric{…}[…]`, each at its own time.
Or at a step: `last_over_time(metric{…}[step])` at every multiple, the last sample of each step. A plain
range query would repeat a sample for five minutes after its series has ended; this does not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import attrs

from kepler_core.errors import PrometheusError
from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.selections import Selection

MAX_POINTS = 11_000
"""Prometheus answers no range query of more points per series."""
SCRAPED_SECONDS = 3600.0
"""Samples as they were scraped are asked for by the hour."""
JOBS = 4


@attrs.frozen
class Query:
    """One metric between two times, both included; in Unix milliseconds, as Prometheus counts."""

    selection: Selection
    start: int
    end: int
    step: int | None
    """Milliseconds; None: as scraped."""

    @property
    def metric(self) -> str:
        return self.selection.metric

    def request(self) -> tuple[str, dict[str, str]]:
        """Path and parameters."""
        selector = self.selection.selector()
        if self.step is None:
            # newer servers leave out the start of a range, older ones do not: one millisecond more, and
            # what then comes twice is dropped when the answers are put together
            window = self.end - self.start + 1
            return "/api/v1/query", {"query": f"{selector}[{window}ms]", "time": _seconds(self.end)}
        # one millisecond less, or older servers would count a sample on the edge for two steps
        query = f"last_over_time({selector}[{max(self.step - 1, 1)}ms])"
        return "/api/v1/query_range", {
            "query": query,
            "start": _seconds(self.start),
            "end": _seconds(self.end),
            "step": _seconds(self.step),
        }

    def halves(self) -> tuple[Query, Query] | None:
        """The same in two parts; None if it cannot be parted."""
        if self.step is None:
            if self.end - self.start < 2:
                return None
            middle = (self.start + self.end) // 2
            return attrs.evolve(self, end=middle), attrs.evolve(self, start=middle + 1)
        points = (self.end - self.start) // self.step
        if points < 1:
            return None
        middle = self.start + points // 2 * self.step
        return attrs.evolve(self, end=middle), attrs.evolve(self, start=middle + self.step)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def plan_queries(selections: Sequence[Selection], start: float, end: float, step: float | None) -> list[Query]:
    """Queries for all samples between two times (Unix seconds, both included), metric by metric in
    order of time. `step` in seconds; None: as scraped."""
    first, last = round(start * 1000), round(end * 1000)
    if step is None:
        length, apart = round(SCRAPED_SECONDS * 1000) - 1, 1
        step_ms = None
    else:
        step_ms = max(round(step * 1000), 1)
        length, apart = (MAX_POINTS - 1) * step_ms, step_ms
        last = first + (last - first) // step_ms * step_ms
    spans = []
    while first <= last:
        spans.append((first, min(first + length, last)))
        first = spans[-1][1] + apart
    return [Query(selection, *span, step_ms) for selection in selections for span in spans]


def answers(
    client: PrometheusClient, queries: Sequence[Query], *, jobs: int = JOBS, stop: threading.Event | None = None
) -> Iterator[tuple[Query, list[bytes]]]:
    """Queries with their results as they come; each result is a list of series as JSON, and a query
    that the server found too large has several. `jobs` are asked at a time. The first `PrometheusError`
    that does not pass ends it."""
    pending: set[Future[list[bytes]]] = set()
    query_of: dict[Future[list[bytes]], Query] = {}
    waiting = iter(queries)
    with ThreadPoolExecutor(jobs, thread_name_prefix="prometheus") as pool:
        try:
            while True:
                for query in waiting:
                    future = pool.submit(_answer, client, query)
                    query_of[future] = query
                    pending.add(future)
                    if len(pending) >= 2 * jobs:
                        break
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    if stop is not None and stop.is_set():
                        raise PrometheusError(f"{client.location}: told to stop", "stopped")
                    yield query_of.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()


def _answer(client: PrometheusClient, query: Query) -> list[bytes]:
    try:
        return [client.matrix(*query.request())]
    except PrometheusError as error:
        if error.kind != "too large" or (halves := query.halves()) is None:
            raise
    return [result for half in halves for result in _answer(client, half)]
