"""Divide a time range into queries that a Prometheus server accepts, and fetch their answers.

Samples are queried in one of two ways:

- As scraped: `metric{…}[…]` returns each sample at its own time.
- At a step: `last_over_time(metric{…}[step])` returns the last sample of each step. A range query for
  `metric{…}` alone would repeat the last sample of a series for five minutes after the series has ended.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import attrs

from kepler_core.documents import DocumentError
from kepler_core.errors import PrometheusError
from kepler_core.messages import printable
from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.replies import check_matrix
from kepler_core.prometheus.selections import Selection
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS

MAX_POINTS = 11_000
"""Largest number of samples per series that Prometheus returns for a range query."""
SCRAPED_SECONDS = 3600.0
"""A query for samples at their own times (not at a step) covers a time range of this length."""
_MACHINE_STEP_SECONDS = 3600.0
"""Largest time between two samples of a metric that describes machines. Its values hardly ever change."""
JOBS = 4
"""Default number of parallel requests."""

_ROUNDING_SECONDS = 1.0
"""Tolerance for samples outside the queried time range, in addition to one step: servers round times differently."""
_POLL_SECONDS = 0.1
_SHORTEST_TIMEOUT_MS = 60_000
"""A query that exceeds the server's time limit is split only if its time range is at least this long.

If a shorter query takes too long, the cause is the number of series, or an overloaded server. Splitting does not
help then, and each further query may take minutes.
"""
_OF_ONE_METRIC = ("answer", "partial", "refused", "too large", "timeout")
"""Errors of these kinds concern only the queried metric, so messages name the metric. All other errors concern the
server."""


@attrs.frozen
class Query:
    """A query for the samples of one metric from `start` to `end`, both included."""

    selection: Selection
    start: int
    """Start of the queried time range in Unix milliseconds, the resolution of Prometheus' timestamps."""
    end: int
    """End of the queried time range in Unix milliseconds."""
    step: int | None
    """Milliseconds between the queried samples; None for all samples at their own times."""

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.selection.metric

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the path and the parameters of the HTTP request."""
        selector = self.selection.selector()
        if self.step is None:
            # Prometheus 3 excludes a sample at the very start of a range, Prometheus 2 includes it. The range
            # therefore starts a millisecond earlier. If two answers contain the same sample, the module `joining`
            # keeps only one copy.
            window = self.end - self.start + 1
            return "/api/v1/query", {"query": f"{selector}[{window}ms]", "time": _seconds(self.end)}
        # The window is a millisecond shorter than the step. Prometheus 2 includes both ends of a window, so it would
        # return a sample at the boundary of two steps for both steps.
        query = f"last_over_time({selector}[{max(self.step - 1, 1)}ms])"
        return "/api/v1/query_range", {
            "query": query,
            "start": _seconds(self.start),
            "end": _seconds(self.end),
            "step": _seconds(self.step),
        }

    def halves(self) -> tuple[Query, Query] | None:
        """Return queries for the first and second half of the time range; None if the range is too short to halve."""
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
    """Return queries for all samples from `start` to `end`, sorted by metric and then by time.

    `start` and `end` are in Unix seconds, and both are included. `step` is in seconds; None queries the
    samples as they were scraped.
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


def plan_machine_queries(selections: Sequence[Selection], start: float, end: float) -> list[Query]:
    """Return queries for metrics that describe machines: for the last sample in each hour, or in the whole time range.

    The result has the same order as that of `plan_queries`.
    """
    first, last = round(start * 1000), round(end * 1000)
    steps = max(math.ceil((last - first) / (1000 * _MACHINE_STEP_SECONDS)), 1)
    return plan_queries(selections, start, end, max((last - first) // steps, 1) / 1000)


def answers(
    client: PrometheusClient, queries: Sequence[Query], *, jobs: int = JOBS, stop: threading.Event | None = None
) -> Iterator[tuple[Query, list[bytes]]]:
    """Send the queries and yield each with its results, in the order in which the answers arrive.

    A result is a JSON list of series. A query that is too large for the server is split, and then has
    several results. At most `jobs` requests run at a time. Raises `PrometheusError` if a query fails or
    `stop` is set. If the caller stops iterating, e.g. because of `KeyboardInterrupt`, all requests end.
    """
    pending: set[Future[list[bytes]]] = set()
    query_of: dict[Future[list[bytes]], Query] = {}
    waiting = iter(queries)
    ended = threading.Event()
    refused: dict[str, int] = {}
    with ThreadPoolExecutor(jobs, thread_name_prefix="prometheus") as pool:
        try:
            while True:
                for query in waiting:
                    future = pool.submit(_answer, client, query, ended, refused)
                    query_of[future] = query
                    pending.add(future)
                    if len(pending) >= 2 * jobs:
                        break
                if not pending:
                    return
                done: set[Future[list[bytes]]] = set()
                while not done:
                    if stop is not None and stop.is_set():
                        raise PrometheusError(f"{client.location}: the queries were stopped", "stopped")
                    done, pending = wait(pending, _POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield query_of.pop(future), future.result()
        finally:
            ended.set()
            for future in pending:
                future.cancel()


def _answer(client: PrometheusClient, query: Query, stop: threading.Event, refused: dict[str, int]) -> list[bytes]:
    """Return the results of a query in order of time; halve the query as long as the server finds it too large.

    `refused` maps each metric to the length in milliseconds of the shortest query that the server found too
    large. A query of that length is halved without sending it.
    """
    length = query.end - query.start
    halves = query.halves()
    if halves is None or length < refused.get(query.metric, length + 1):
        try:
            return [_checked(client, query, stop)]
        except PrometheusError as error:
            if halves is None or not _splits(error, query):
                if error.kind not in _OF_ONE_METRIC:
                    raise
                named = PrometheusError(f"{printable(query.metric, METRIC_NAME_CHARACTERS)}: {error}", error.kind)
                raise named from error
        refused[query.metric] = min(length, refused.get(query.metric, length))
    return [result for half in halves for result in _answer(client, half, stop, refused)]


def _splits(error: PrometheusError, query: Query) -> bool:
    """Return whether it may help to halve a query that failed with an error."""
    return error.kind == "too large" or (error.kind == "timeout" and not _is_short(query))


def _is_short(query: Query) -> bool:
    return query.end - query.start < _SHORTEST_TIMEOUT_MS


def _checked(client: PrometheusClient, query: Query, stop: threading.Event) -> bytes:
    """Return the result of a query, checked; raise `PrometheusError` if the result is malformed or incomplete."""
    retry_timeouts = _is_short(query) or query.halves() is None
    result = client.matrix(*query.request(), stop, retry_timeouts=retry_timeouts)
    margin = _ROUNDING_SECONDS + (query.step or 0) / 1000
    try:
        check_matrix(result, query.start / 1000 - margin, query.end / 1000 + margin)
    except DocumentError as error:
        raise PrometheusError(f"{client.location}: {error}", "answer") from error
    return result
