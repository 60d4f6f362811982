"""A client of a Prometheus server's HTTP API, with authentication, retries and one-line error messages."""

from __future__ import annotations

import email.utils
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

import attrs
import urllib3
from urllib3.exceptions import MaxRetryError, SSLError

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError
from kepler_core.documents import DocumentError
from kepler_core.errors import PrometheusError, UsageError
from kepler_core.messages import quoted, single_line
from kepler_core.prometheus.error_texts import has_too_many_series, is_temporary, kind_of_reason
from kepler_core.prometheus.pacing import Pace
from kepler_core.prometheus.replies import decode_answer, decode_names, decode_time, matrix_result
from kepler_core.prometheus.transport import ANSWER_ERRORS, Reply, Transport
from kepler_core.urls import is_loopback, secrets_of, shown_url, without_secrets

T = TypeVar("T")

REQUEST_SECONDS = 300.0
"""Default time limit of a request, from sending it to the end of its answer.

Prometheus itself ends a query after two minutes by default.
"""
REQUESTS_PER_SECOND = 50.0
"""Default limit for the rate of requests. It has an effect only if the answers are small."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_BUSY_FACTOR = 10.0
"""A server that answers 429 (too many requests) is asked again for up to this multiple of the client's patience."""
_TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_TIMEOUT_STATUS = (408, 422, 500, 502, 503, 504)
_TOO_LARGE_STATUS = 413
_URL_TOO_LONG_STATUS = (414, 431)
_TOO_MANY_REQUESTS_STATUS = 429
_GATEWAY_TIMEOUT_STATUS = 504
_COMPLETENESS_PARAMETERS = {
    "partial_response": "false",
    "max_source_resolution": "0s",
    "nocache": "1",
    "latency_offset": "1ms",
}
"""Parameters of each query that make servers return complete and unchanged samples. Prometheus and Mimir ignore them.

Thanos by default leaves out the series of stores that do not answer (`partial_response`), and may return downsampled
counters (`max_source_resolution`). VictoriaMetrics moves the start and the end of range queries to multiples of the
step (`nocache`), and repeats old values in place of those of the last 30 seconds (`latency_offset`).
"""
_NO_TENANT = "no org id"
"""Part of the error message with which Mimir, Cortex and Loki reject requests without a tenant."""
_MESSAGE_CHARACTERS = 300
_URL_CHARACTERS = 200


@attrs.frozen
class Server:
    """Address of a Prometheus server and the credentials for it."""

    url: str
    """http(s)://host:port/path. A prefix "user:password@" of the host is used for basic authentication."""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    """Bearer token; None if no token is sent."""
    ca_file: str | None = None
    """PEM file of the CA certificates to trust; None means the CA certificates of the system."""
    verify: bool = True
    """Whether the client verifies the server's TLS certificate."""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    """Further headers of each request, for example the name of the tenant if the server has several tenants."""
    compress: bool | None = None
    """Whether the server compresses its answers; None compresses them except if the server is on this machine.

    Compressing takes most of the CPU time that Prometheus needs for a large answer.
    """


class PrometheusClient:
    """A client of one Prometheus server. Several threads can use the client at the same time."""

    def __init__(
        self,
        server: Server,
        *,
        patience: float = 30.0,
        request_seconds: float = REQUEST_SECONDS,
        requests_per_second: float | None = REQUESTS_PER_SECOND,
        stop: threading.Event | None = None,
    ) -> None:
        """Create a client without sending a request yet.

        A request that fails for a temporary reason is repeated for up to `patience` seconds. Each attempt
        must receive its whole answer within `request_seconds`. All threads together send at most
        `requests_per_second` requests per second; None does not limit the rate. Setting `stop` ends all running
        requests and all pauses between attempts: the methods that wait for them raise `PrometheusError` of the
        kind "stopped".

        Raises `UsageError` for a wrong URL, for a missing CA file, and if a token and a user are both given.
        """
        parts = _split_url(server.url)
        self.location = _location(server.url, parts)
        """The server's URL without credentials."""
        self.patience = patience
        self.request_seconds = request_seconds
        self._stop = stop or threading.Event()
        self._pace = Pace(requests_per_second)
        self._completeness: Mapping[str, str] = _COMPLETENESS_PARAMETERS
        self._headers = _headers(server, parts.username, parts.password)
        compress = not is_loopback(parts.hostname or "") if server.compress is None else server.compress
        self._headers["accept-encoding"] = "gzip" if compress else "identity"
        credentials = self._headers.get("authorization", "").partition(" ")[2]
        values = [text for value in server.headers.values() for text in (value, *value.split())]
        self._secrets = [*secrets_of(server.url), server.password or "", server.token or "", credentials, *values]
        self._transport = Transport(verify=server.verify, ca_file=server.ca_file, own_headers=server.headers)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def now(self) -> float:
        """Return the current time of the server's clock in Unix seconds."""
        data = self._request("/api/v1/query", [("query", "time()")])
        return self._decoded(decode_time, data, "time() has no time")

    def metric_names(self, start: float, end: float, matchers: Sequence[str] = ()) -> list[str]:
        """Return the names of all metrics with samples between `start` and `end` (Unix seconds).

        Only series that satisfy all PromQL label matchers in `matchers` count.
        """
        selector = "{" + ",".join(['__name__=~".+"', *matchers]) + "}"
        return self.label_values("__name__", [selector], start, end, "no list of metric names")

    def label_values(
        self, label: str, selectors: Sequence[str], start: float, end: float, problem: str = "no list of label values"
    ) -> list[str]:
        """Return the values that a label has in series that match any of the PromQL selectors.

        Only series with samples between `start` and `end` (Unix seconds) count; servers may also include values from
        shortly before and after. Series without the label are not listed. `problem` is the message for an unusable
        answer.
        """
        parameters = [("match[]", selector) for selector in selectors]
        parameters += [("start", f"{start:.3f}"), ("end", f"{end:.3f}")]
        path = f"/api/v1/label/{quote(label, safe='')}/values"
        return self._decoded(decode_names, self._request_complete(path, parameters), problem)

    def matrix(
        self,
        path: str,
        parameters: Mapping[str, str],
        stop: threading.Event | None = None,
        *,
        retry_timeouts: bool = True,
    ) -> bytes:
        """Return the series of a query as JSON: `[{"metric": {…}, "values": [[time, "number"], …]}, …]`.

        Setting `stop` ends this request only. Without `retry_timeouts`, a query that exceeds the server's own
        time limit is not repeated, because the next attempt would exceed the limit, too. The samples are not
        checked here: call `replies.check_matrix` to check them.
        """
        data = self._request_complete(path, list(parameters.items()), stop, retry_timeouts)
        return self._decoded(matrix_result, data, "unusable answer")

    def _request_complete(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]],
        stop: threading.Event | None = None,
        retry_timeouts: bool = True,
    ) -> bytes:
        """Send a request with `_COMPLETENESS_PARAMETERS`, or without them if the server rejects unknown parameters."""
        completeness = self._completeness
        try:
            return self._request(path, [*parameters, *completeness.items()], stop, retry_timeouts)
        except PrometheusError as error:
            if error.kind != "refused" or not any(name in str(error) for name in completeness):
                raise
        self._completeness = {}
        return self._request(path, parameters, stop, retry_timeouts)

    def _decoded(self, decode: Callable[[bytes], T], data: bytes, problem: str) -> T:
        try:
            return decode(data)
        except DocumentError as error:
            raise PrometheusError(f"{self.location}: {problem}: {error}", "answer") from error

    def _request(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]],
        stop: threading.Event | None = None,
        retry_timeouts: bool = True,
    ) -> bytes:
        """Return the JSON of `data` in the answer; repeat the request while it fails for a temporary reason."""
        stops = (self._stop,) if stop is None else (self._stop, stop)
        endless = Deadline(math.inf, stop=stops)
        busy: Deadline | None = None
        patience: Deadline | None = None
        pause = _FIRST_PAUSE_SECONDS
        try:
            while True:
                self._pace.wait(endless)
                patience = patience or Deadline(self.patience, stop=stops)
                try:
                    return self._request_once(path, parameters, stops)
                except PrometheusError as error:
                    wait = max(pause * random.uniform(0.75, 1.25), error.retry_after or 0.0)  # noqa: S311
                    if error.rate_limited:
                        # The server works, and only wants fewer requests: the pauses do not use up the patience.
                        busy = busy or Deadline(_LONGEST_BUSY_FACTOR * self.patience)
                        patience = Deadline(min(self.patience, busy.remaining), stop=stops)
                    may_pass = error.may_pass or (retry_timeouts and error.kind == "timeout")
                    if not may_pass or wait > patience.remaining:
                        raise
                    if error.rate_limited:
                        self._pace.hold(wait)
                patience.wait(wait)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except DeadlineError as error:
            raise self._overdue(error) from error

    def _request_once(
        self, path: str, parameters: Sequence[tuple[str, str]], stops: Sequence[threading.Event]
    ) -> bytes:
        url = f"{self.location}{path}?{urlencode(parameters)}"
        try:
            reply = self._transport.get(url, self._headers, Deadline(self.request_seconds, stop=stops))
        except DeadlineError as error:
            raise self._overdue(error) from error
        except TooLargeError as error:
            raise PrometheusError(f"{self.location}: the answer is too large: {error}", "too large") from error
        except ANSWER_ERRORS as error:
            raise self._connection_error(error) from error
        if reply.status == 200:
            return self._data(reply.body)
        raise self._status_error(reply)

    def _data(self, body: bytes) -> bytes:
        try:
            answer = decode_answer(body)
        except DocumentError as error:
            raise PrometheusError(f"{self.location} is not a Prometheus server: {error}", "answer") from error
        if answer.status != "success":
            reason = f"{answer.errorType}: {answer.error}"
            raise self._query_error(reason, kind_of_reason(reason) or "refused")
        if answer.warnings or answer.isPartial:
            # A warning means that one of the stores behind the server did not answer, so that series may be missing.
            # Thanos also reports the exceeded limit of a store as a warning; then a smaller query is complete.
            texts = answer.warnings or ["isPartial"]
            limit = next((text for text in texts if kind_of_reason(text) == "too large"), None)
            raise self._query_error(f"incomplete answer: {limit or texts[0]}", "too large" if limit else "partial")
        return bytes(answer.data)

    def _overdue(self, error: DeadlineError) -> PrometheusError:
        if error.stopped:
            return PrometheusError(f"{self.location}: {error}", "stopped")
        return PrometheusError(f"{self.location} does not answer: {error}", "unreachable")

    def _connection_error(self, error: Exception) -> PrometheusError:
        """Return a `PrometheusError` for an exception of urllib3 or of the operating system.

        The text of an exception of urllib3 (2.x) begins with the repr of a connection. The reason is only
        in that text, after the last colon, and in no attribute of the exception.
        """
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        if isinstance(reason, SSLError):
            return PrometheusError(f"{self.location}: TLS: {self._line(str(reason))}", "TLS")
        text = self._line(str(reason).rpartition(": ")[2] or type(reason).__name__)
        return PrometheusError(f"{self.location} does not answer: {text}", "unreachable")

    def _status_error(self, reply: Reply) -> PrometheusError:
        """Return a `PrometheusError` for an answer whose HTTP status is not 200."""
        status = reply.status
        reason = self._line(_reason(reply.body))
        if _NO_TENANT in reason:
            problem = "the server needs a tenant: give --header 'X-Scope-OrgID: TENANT'"
            return PrometheusError(f"{self.location}: status {status}: {reason}: {problem}", "access")
        if status in (401, 403):
            advice = f"{reason}: " if reason else ""
            return PrometheusError(
                f"{self.location}: access denied (status {status}): {advice}check user, token or headers", "access"
            )
        kind = None if status == _TOO_MANY_REQUESTS_STATUS else kind_of_reason(reason)
        if status == _TOO_LARGE_STATUS or kind == "too large":
            return self._query_error(reason or f"status {status}", "too large")
        if status in _URL_TOO_LONG_STATUS:
            error = self._query_error(f"status {status}: the query's URL is too long", "too large")
            error.too_many_series = True
            return error
        if status == _GATEWAY_TIMEOUT_STATUS or (kind == "timeout" and status in _TIMEOUT_STATUS):
            return PrometheusError(f"{self.location}: {reason or f'status {status}'}", "timeout")
        kind = "unavailable" if status in _TEMPORARY_STATUS or is_temporary(reason) else "refused"
        error = PrometheusError(f"{self.location}: status {status}{': ' if reason else ''}{reason}", kind)
        error.retry_after = _retry_after(reply.headers)
        error.rate_limited = status == _TOO_MANY_REQUESTS_STATUS
        return error

    def _query_error(self, reason: str, kind: str) -> PrometheusError:
        """Return the error of a query for the reason that the server states."""
        error = PrometheusError(f"{self.location}: {self._line(reason)}", kind)
        error.too_many_series = kind == "too large" and has_too_many_series(reason)
        return error

    def _line(self, text: str) -> str:
        """Return the text of an error of a server or a library as one line, without the credentials of this client."""
        return single_line(without_secrets(text, self._secrets), _MESSAGE_CHARACTERS)


def _reason(body: bytes) -> str:
    """Return the error that the body of an answer states; empty if the body is a web page."""
    try:
        return decode_answer(body).error
    except DocumentError:
        text = body.decode(errors="replace").strip()
        return "" if text.startswith(("<", "{")) else "".join(c if c.isprintable() else " " for c in text)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait according to the header Retry-After; None if it is absent or malformed."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(until - time.time(), 0.0)


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:  # the text of the error may contain the password: do not show it
        raise UsageError(f"{_shown(url)} is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{_shown(url)} is not the URL of a Prometheus server (http://host:port)")
    if parts.query or parts.fragment:
        raise UsageError(f"{_shown(url)}: a server's URL must not contain ? or #")
    return parts


def _location(url: str, parts: SplitResult) -> str:
    """Return the URL of a server without its credentials and without a slash at its end."""
    hostname = parts.hostname or ""
    try:
        host = hostname if ":" not in hostname else f"[{hostname}]"
        address = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError as error:
        # The text of the error may contain the beginning of a password, so the message does not quote this text.
        raise UsageError(f"{_shown(url)}: the port is not a number from 0 to 65535") from error
    return urlunsplit((parts.scheme, address, parts.path.rstrip("/"), "", ""))


def _headers(server: Server, user: str | None, password: str | None) -> dict[str, str]:
    """Return the headers to send with every request.

    `user` and `password` come from the server's URL. The credentials in `server` take precedence.
    """
    headers = urllib3.make_headers(user_agent="kepler-model")
    if (server.token or server.username or user) and any(name.lower() == "authorization" for name in server.headers):
        raise UsageError(
            "the header Authorization is given together with a token or a user; only one of the two can be used"
        )
    username = server.username if server.username is not None else (unquote(user) if user else None)
    if server.token is not None and username is not None:
        raise UsageError("both a token and a user are given for the Prometheus server; only one of them can be used")
    if username is not None:
        secret = server.password if server.password is not None else unquote(password or "")
        headers |= urllib3.make_headers(basic_auth=f"{username}:{secret}")
    elif server.token is not None:
        if any(not (33 <= ord(c) < 127) for c in server.token):
            raise UsageError(
                "the token for the Prometheus server contains a blank, a control character or a non-ASCII character"
            )
        headers["authorization"] = f"Bearer {server.token}"
    return headers | dict(server.headers)


def _shown(url: str) -> str:
    return quoted(shown_url(url), _URL_CHARACTERS)
