"""Send queries, several at a time, and check their answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from kepler_core.documents import DocumentError
from kepler_core.errors import PrometheusError
from kepler_core.messages import printable
from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.queries import Query
from kepler_core.prometheus.replies import check_matrix
from kepler_core.prometheus.splitting import Splitter, is_smallest
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS

JOBS = 4
"""Default number of parallel requests."""

_ROUNDING_SECONDS = 1.0
"""Tolerance for samples outside the queried time range, in addition to one step: servers round times differently."""
_POLL_SECONDS = 0.1
_OF_ONE_METRIC = ("answer", "partial", "refused", "too large", "timeout")
"""Errors of these kinds concern only the queried metric, so messages name the metric. All other errors concern the
server."""


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
    splitter = Splitter(client)
    with ThreadPoolExecutor(jobs, thread_name_prefix="prometheus") as pool:
        try:
            while True:
                for query in waiting:
                    future = pool.submit(_answer, client, query, ended, splitter)
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


def _answer(client: PrometheusClient, query: Query, stop: threading.Event, splitter: Splitter) -> list[bytes]:
    """Return the results of a query. If the server finds the query too large, return the results of its parts.

    The samples of each series are in order of time.
    """
    try:
        parts = splitter.known_parts(query)
        if parts is None:
            try:
                return [_checked(client, query, stop)]
            except PrometheusError as error:
                parts = splitter.parts(query, error)
                if parts is None:
                    raise
    except PrometheusError as error:
        if error.kind not in _OF_ONE_METRIC:
            raise
        named = PrometheusError(f"{printable(query.metric, METRIC_NAME_CHARACTERS)}: {error}", error.kind)
        raise named from error
    return [result for part in parts for result in _answer(client, part, stop, splitter)]


def _checked(client: PrometheusClient, query: Query, stop: threading.Event) -> bytes:
    """Return the result of a query, checked; raise `PrometheusError` if the result is malformed or incomplete."""
    result = client.matrix(*query.request(), stop, retry_timeouts=is_smallest(query))
    margin = _ROUNDING_SECONDS + (query.step or 0) / 1000
    try:
        values = None if query.instances is None else frozenset(query.instances)
        span = query.start / 1000 - margin, query.end / 1000 + margin
        check_matrix(result, *span, query.selection.node_label, values)
    except DocumentError as error:
        raise PrometheusError(f"{client.location}: {error}", "answer") from error
    return result
