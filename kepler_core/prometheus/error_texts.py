"""Recognise the error texts of Prometheus, Thanos, Mimir, Cortex and VictoriaMetrics for queries that are too large.

The servers have no common error code for such queries, so the texts are the only way to recognise them.
"""

from __future__ import annotations

import re

_TOO_LARGE = re.compile(
    r"too many samples|maximum resolution|exceed\w* (the )?max|exceed\w* .{0,60}\blimit|limit \d+ violated"
    r"|the max(imum)? number of|-search\.max(?!ConcurrentRequests|Queue|QueryDuration)"
)
"""Recognises the error texts by which servers reject a query as too large: Prometheus (2.x and 3.x), VictoriaMetrics
(-search.max…), Mimir, Cortex and Thanos."""
_TOO_MANY_SERIES = re.compile(
    r"number of (matching |unique )?(time ?)?series|series limit|failed to send series|maxUniqueTimeseries|maxSeries"
    r"|maxQueryLen|query size"
)
"""Recognises the texts of `_TOO_LARGE` about limits that a shorter time range does not change: the number of series,
and the length of the query's text."""
_TIMEOUT = re.compile(r"timed out|timeout|deadline exceeded|-search\.maxQueryDuration")
"""Matches error texts which say that a query exceeded the server's own time limit."""

_TEMPORARY = re.compile(r"rpc error: code = (Unavailable|Internal|Aborted)|connection (refused|reset)")
"""Matches the error texts of Thanos and Mimir about one of their stores that does not answer at the moment.

Both servers send them with the status 422, which otherwise means that the query itself is wrong.
"""


def kind_of_reason(reason: str) -> str | None:
    """Return "too large" or "timeout" if an error means that a smaller query may succeed, else None."""
    if _TOO_LARGE.search(reason):
        return "too large"
    return "timeout" if _TIMEOUT.search(reason) else None


def has_too_many_series(reason: str) -> bool:
    """Return whether a query that is too large needs fewer series; a shorter time range does not help then."""
    return _TOO_MANY_SERIES.search(reason) is not None


def is_temporary(reason: str) -> bool:
    """Return whether an error is about a store behind the server, so that the same query may succeed later."""
    return _TEMPORARY.search(reason) is not None
