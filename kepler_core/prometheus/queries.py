"""Queries that a server accepts, and their answers.

Samples are queried in one of two ways:

- As scraped: `metric{…}[…]` returns each sample at its own time.
- At a step: `last_over_time(metric{…}[step])` at every multiple of the step returns the last sample in each
  step. A plain range query would repeat a sample for five minutes after its series has ended.
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
"""Most points per series that Prometheus returns for a range query."""
SCRAPED_SECONDS = 3600.0
"""Length of a query for samples as scraped."""
JOBS = 4
"""Default number of requests at a time."""


@attrs.frozen
class Query:
    """Query for one metric between two times, both included."""

    selection: Selection
    start: int
    """Unix milliseconds, Prometheus' resolution."""
    end: int
    """Unix milliseconds."""
    step: int | None
    """Milliseconds between samples; None for samples as scraped."""

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.selection.metric

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the path and the parameters of the HTTP request."""
        selector = self.selection.selector()
        if self.step is None:
            # Prometheus 3 leaves out the start of a range, Prometheus 2 includes it. The range is therefore a
            # millisecond longer, and a sample that two answers hold is dropped when they are joined.
            window = self.end - self.start + 1
            return "/api/v1/query", {"query": f"{selector}[{window}ms]", "time": _seconds(self.end)}
        # a millisecond less than the step, or Prometheus 2 would return a sample on the edge for two steps
        query = f"last_over_time({selector}[{max(self.step - 1, 1)}ms])"
        return "/api/v1/query_range", {
            "query": query,
            "start": _seconds(self.start),
            "end": _seconds(self.end),
            "step": _seconds(self.step),
        }

    def halves(self) -> tuple[Query, Query] | None:
        """Return two queries for the first and the second half of the time; None if it is too short."""
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
    """Return queries for all samples between two times, by metric and time.

    `start` and `end` are in Unix seconds and both included. `step` is in seconds; None queries samples as
    scraped.
    """
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
    """Yield queries with their results, in the order in which the answers arrive.

    A result is a JSON list of series. A query that is too large for the server is split and has several
    results. At most `jobs` requests run at a time. Raises `PrometheusError` for the first query that fails,
    or when `stop` is set.
    """
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
    """Return the results of a query, in order of time; split it as often as the server finds it too large."""
    try:
        return [client.matrix(*query.request())]
    except PrometheusError as error:
        if error.kind != "too large" or (halves := query.halves()) is None:
            raise
    return [result for half in halves for result in _answer(client, half)]
