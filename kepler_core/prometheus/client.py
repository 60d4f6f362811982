"""Client of one Prometheus server's HTTP API: authentication, TLS, retries, errors on one line."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit

import attrs
import msgspec
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, SSLError

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import PrometheusError, UsageError
from kepler_core.messages import shortened, single_line

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60.0
"""Longest time in which the server may send nothing."""
MAX_ANSWER_BYTES = 512 * 2**20
"""Largest answer, unpacked."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_BLOCK_BYTES = 2**20
_TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_TOO_LARGE = ("too many samples", "maximum resolution", "exceeds the limit", "exceeded maximum")
"""Parts of Prometheus' error messages (2.x and 3.x) for queries that are too large; they have no code."""
_MESSAGE_CHARACTERS = 300
_URL_CHARACTERS = 200


@attrs.frozen
class Server:
    """Address of a Prometheus server and the credentials for it."""

    url: str
    """http(s)://host:port/path; "user:password@" before the host is used as basic authentication."""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    """Bearer token."""
    ca_file: str | None = None
    """File of the certificates (PEM) that may sign the server's; by default the system's."""
    verify: bool = True
    """Whether the server's certificate is verified."""


class _Data(msgspec.Struct):
    resultType: str = ""
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Answer(msgspec.Struct):
    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    errorType: str = ""
    error: str = ""
    warnings: list[str] = []


_decode_answer = msgspec.json.Decoder(_Answer)
_decode_data = msgspec.json.Decoder(_Data)
_decode_names = msgspec.json.Decoder(list[str])
_decode_vector = msgspec.json.Decoder(tuple[float, str])


class PrometheusClient:
    """Client of one server. Several threads may use it."""

    def __init__(self, server: Server, *, patience: float = 30.0, stop: threading.Event | None = None) -> None:
        """Create a client. No request is sent yet.

        A request that fails for a temporary reason is repeated for `patience` seconds, or until `stop` is
        set. Raises `UsageError` for a wrong URL, a missing file or credentials that exclude each other.
        """
        parts = _split_url(server.url)
        self.location = _location(server.url, parts)
        """The URL without credentials."""
        self.patience = patience
        self._stop = stop or threading.Event()
        self._headers = _headers(server, parts.username, parts.password)
        options: dict[str, Any] = {}
        if parts.scheme == "https":
            options = {"cert_reqs": "CERT_REQUIRED" if server.verify else "CERT_NONE"}
            if server.ca_file is not None:
                if not Path(server.ca_file).is_file():
                    raise UsageError(f"{server.ca_file}: no such file")
                options["ca_certs"] = server.ca_file
            if not server.verify:
                urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._pool = urllib3.PoolManager(
            maxsize=16, timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS), **options
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def now(self) -> float:
        """Return the server's time in Unix seconds."""
        result = _result(self._request("/api/v1/query", {"query": "time()"}), "scalar", self.location)
        try:
            return float(decode_json(result, _decode_vector)[1])
        except (ValueError, DocumentError) as error:
            raise PrometheusError(f"{self.location}: time() has no time: {error}", "answer") from error

    def metric_names(self, start: float, end: float, matchers: Sequence[str] = ()) -> list[str]:
        """Return the names of the metrics with samples between two times (Unix seconds).

        `matchers` are PromQL label matchers that their series must satisfy.
        """
        parameters = {
            "match[]": "{" + ",".join(['__name__=~".+"', *matchers]) + "}",
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
        }
        data = self._request("/api/v1/label/__name__/values", parameters)
        if bytes(data) == b"null":
            return []
        try:
            return decode_json(data, _decode_names)
        except DocumentError as error:
            raise PrometheusError(f"{self.location}: no list of metric names: {error}", "answer") from error

    def matrix(self, path: str, parameters: Mapping[str, str]) -> bytes:
        """Return the series of a query as JSON: `[{"metric": {…}, "values": [[time, "number"], …]}, …]`."""
        return _result(self._request(path, parameters), "matrix", self.location)

    def _request(self, path: str, parameters: Mapping[str, str]) -> bytes:
        """Return the `data` of an answer as JSON; repeat the request while it fails temporarily."""
        deadline = time.monotonic() + self.patience
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._request_once(path, parameters)
            except PrometheusError as error:
                wait = max(pause * random.uniform(0.75, 1.25), error.retry_after or 0.0)  # noqa: S311
                if not error.may_pass or time.monotonic() + wait > deadline or self._stop.wait(wait):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _request_once(self, path: str, parameters: Mapping[str, str]) -> bytes:
        url = f"{self.location}{path}?{urlencode(parameters)}"
        redirects = urllib3.Retry(total=3, connect=0, read=0, redirect=3, status=0, other=0)
        try:
            response = self._pool.request(
                "GET", url, headers=self._headers, retries=redirects, preload_content=False, redirect=True
            )
            try:
                body = self._body(response)
            finally:
                response.drain_conn() if response.status != 200 else response.release_conn()
        except PrometheusError:
            raise
        except (HTTPError, LocationValueError, OSError) as error:
            raise self._connection_error(error) from error
        if response.status == 200:
            return self._data(body)
        raise self._status_error(response.status, body, response.headers)

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        parts, size = [], 0
        while part := response.read(_BLOCK_BYTES, decode_content=True):
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                response.close()
                raise PrometheusError(f"{self.location}: an answer of more than {MAX_ANSWER_BYTES} bytes", "too large")
            parts.append(part)
        return b"".join(parts)

    def _data(self, body: bytes) -> bytes:
        try:
            answer = decode_json(body, _decode_answer)
        except DocumentError as error:
            raise PrometheusError(f"{self.location} is not a Prometheus server: {error}", "answer") from error
        if answer.status != "success":
            raise PrometheusError(f"{self.location}: {answer.errorType}: {_line(answer.error)}", "refused")
        if answer.warnings:
            # a warning means that a store behind the server did not answer, so that series may be missing
            raise PrometheusError(f"{self.location}: incomplete answer: {_line(answer.warnings[0])}", "partial")
        return bytes(answer.data)

    def _connection_error(self, error: Exception) -> PrometheusError:
        """Return the error for a request that urllib3 or the operating system ended.

        The text of urllib3's errors (2.x) begins with the repr of a connection; the reason follows the last
        colon and is in no field.
        """
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        if isinstance(reason, SSLError):
            return PrometheusError(f"{self.location}: TLS: {_line(str(reason))}", "TLS")
        text = _line(str(reason).rpartition(": ")[2] or type(reason).__name__)
        return PrometheusError(f"{self.location} does not answer: {text}", "unreachable")

    def _status_error(self, status: int, body: bytes, headers: Mapping[str, str]) -> PrometheusError:
        """Return the error for an answer whose status is not 200."""
        try:
            reason = _line(decode_json(body, _decode_answer).error)
        except DocumentError:
            reason = ""
        if status in (401, 403):
            return PrometheusError(f"{self.location}: access denied (status {status}): check user or token", "access")
        if any(words in reason for words in _TOO_LARGE):
            return PrometheusError(f"{self.location}: {reason}", "too large")
        kind = "unavailable" if status in _TEMPORARY_STATUS else "refused"
        error = PrometheusError(f"{self.location}: status {status}{': ' if reason else ''}{reason}", kind)
        after = headers.get("Retry-After", "")
        error.retry_after = min(float(after), _LONGEST_PAUSE_SECONDS) if after.isdecimal() else None
        return error


def _split_url(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{_without_credentials(url)!r} is not the URL of a Prometheus server (http://host:port)")
    if parts.query or parts.fragment:
        raise UsageError(f"{_without_credentials(url)!r}: a server's URL has neither ? nor #")
    return parts


def _location(url: str, parts: SplitResult) -> str:
    """Return a server's URL without credentials and without a slash at the end."""
    hostname = parts.hostname or ""
    try:
        host = hostname if ":" not in hostname else f"[{hostname}]"
        address = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError as error:
        raise UsageError(f"{_without_credentials(url)!r}: {error}") from error
    return urlunsplit((parts.scheme, address, parts.path.rstrip("/"), "", ""))


def _headers(server: Server, user: str | None, password: str | None) -> dict[str, str]:
    """Return the headers of every request. `user` and `password` are those of the URL."""
    headers = urllib3.make_headers(user_agent="kepler-model", accept_encoding="gzip")
    username = server.username if server.username is not None else (unquote(user) if user else None)
    if server.token is not None and username is not None:
        raise UsageError("both a token and a user are given for the Prometheus server; only one can be used")
    if username is not None:
        secret = server.password if server.password is not None else unquote(password or "")
        headers |= urllib3.make_headers(basic_auth=f"{username}:{secret}")
    elif server.token is not None:
        if any(not (33 <= ord(c) < 127) for c in server.token):
            raise UsageError("the token for the Prometheus server has a blank or a control character in it")
        headers["authorization"] = f"Bearer {server.token}"
    return headers


def _result(data: bytes, kind: str, location: str) -> bytes:
    """Return the result in the `data` of an answer as JSON; raise `PrometheusError` if it is of another kind."""
    try:
        content = decode_json(data, _decode_data)
    except DocumentError as error:
        raise PrometheusError(f"{location}: an answer without a result: {error}", "answer") from error
    if content.resultType != kind:
        result_kind = shortened(content.resultType, 20) or "nothing"
        raise PrometheusError(f"{location}: the result is a {result_kind}, not a {kind}", "answer")
    return bytes(content.result)


def _line(text: str) -> str:
    return single_line(text, _MESSAGE_CHARACTERS)


def _without_credentials(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    return shortened(scheme + slashes + rest.rpartition("@")[2] if slashes else url, _URL_CHARACTERS)
