"""One Prometheus server's HTTP API: authentication, TLS, retries, errors in one line."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

import attrs
import msgspec
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, SSLError

from kepler_core.errors import PrometheusError, UsageError

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Without a byte from the server."""
MAX_ANSWER = 512 * 2**20
"""Bytes of one answer, unpacked."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
_CHUNK = 2**20
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_TOO_LARGE = ("too many samples", "maximum resolution", "exceeds the limit", "exceeded maximum")


@attrs.frozen
class Server:
    """Where a Prometheus server is, and how to be let in."""

    url: str
    """http(s)://host:port/path; user:password@ before the host is taken as basic authentication."""
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    """Sent as a bearer token."""
    ca_file: str | None = None
    """Certificates that the server's is checked against, in place of the system's."""
    verify: bool = True
    """Whether the server's certificate is checked."""


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
    """Asks one server; may be used by several threads."""

    def __init__(self, server: Server, *, patience: float = 30.0, stop: threading.Event | None = None) -> None:
        """A question that fails for a reason that may pass is asked again for `patience` seconds, or
        until `stop` is set. `UsageError` for a URL, a file or a combination that cannot be right."""
        parts = urlsplit(server.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{_shown(server.url)!r} is not the URL of a Prometheus server (http://host:port)")
        if parts.query or parts.fragment:
            raise UsageError(f"{_shown(server.url)!r}: a server's URL has neither ? nor #")
        try:
            host = parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]"
            place = host if parts.port is None else f"{host}:{parts.port}"
        except ValueError as error:
            raise UsageError(f"{_shown(server.url)!r}: {error}") from error
        self.location = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
        """The URL without what may be secret."""
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
            maxsize=16, timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), **options
        )

    def close(self) -> None:
        self._pool.clear()

    def now(self) -> float:
        """The server's clock, Unix seconds."""
        result = _result(self._ask("/api/v1/query", {"query": "time()"}), "scalar", self.location)
        try:
            return float(_decode_vector.decode(result)[1])
        except (msgspec.DecodeError, ValueError) as error:
            raise PrometheusError(f"{self.location}: time() has no time: {error}", "answer") from error

    def metric_names(self, start: float, end: float, matchers: Sequence[str] = ()) -> list[str]:
        """Names of the metrics that have samples between two times, in series of these labels."""
        parameters = {
            "match[]": "{" + ",".join(['__name__=~".+"', *matchers]) + "}",
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
        }
        data = self._ask("/api/v1/label/__name__/values", parameters)
        if bytes(data) == b"null":
            return []
        try:
            return _decode_names.decode(data)
        except msgspec.DecodeError as error:
            raise PrometheusError(f"{self.location}: no list of metric names: {error}", "answer") from error

    def matrix(self, path: str, parameters: Mapping[str, str]) -> bytes:
        """The series of a query, as JSON: `[{"metric": {…}, "values": [[time, "number"], …]}, …]`."""
        return _result(self._ask(path, parameters), "matrix", self.location)

    def _ask(self, path: str, parameters: Mapping[str, str]) -> bytes:
        deadline = time.monotonic() + self.patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._ask_once(path, parameters)
            except PrometheusError as error:
                wait = max(pause * random.uniform(0.75, 1.25), error.retry_after or 0.0)  # noqa: S311
                if not error.may_pass or time.monotonic() + wait > deadline or self._stop.wait(wait):
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask_once(self, path: str, parameters: Mapping[str, str]) -> bytes:
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
            raise self._unreachable(error) from error
        if response.status == 200:
            return self._data(body)
        raise self._refused(response.status, body, response.headers)

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        parts, size = [], 0
        while part := response.read(_CHUNK, decode_content=True):
            size += len(part)
            if size > MAX_ANSWER:
                response.close()
                raise PrometheusError(f"{self.location}: an answer of more than {MAX_ANSWER} bytes", "too large")
            parts.append(part)
        return b"".join(parts)

    def _data(self, body: bytes) -> bytes:
        try:
            answer = _decode_answer.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise PrometheusError(f"{self.location} is no Prometheus server: {error}", "answer") from error
        if answer.status != "success":
            raise PrometheusError(f"{self.location}: {answer.errorType}: {_one_line(answer.error)}", "refused")
        if answer.warnings:
            # a store behind it did not answer: what came is only a part
            raise PrometheusError(f"{self.location}: half an answer: {_one_line(answer.warnings[0])}", "partial")
        return bytes(answer.data)

    def _unreachable(self, error: Exception) -> PrometheusError:
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
        text = _one_line(str(reason).rpartition(": ")[2] or type(reason).__name__)
        if isinstance(reason, SSLError):
            return PrometheusError(f"{self.location}: TLS: {_one_line(str(reason))}", "TLS")
        return PrometheusError(f"{self.location} does not answer: {text}", "unreachable")

    def _refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> PrometheusError:
        try:
            answer = _decode_answer.decode(body)
            why = _one_line(answer.error)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            why = ""
        if status in (401, 403):
            return PrometheusError(f"{self.location}: not let in (status {status}): check user or token", "access")
        if any(words in why for words in _TOO_LARGE):
            return PrometheusError(f"{self.location}: {why}", "too large")
        kind = "unavailable" if status in _TRY_AGAIN else "refused"
        error = PrometheusError(f"{self.location}: status {status}{': ' if why else ''}{why}", kind)
        after = headers.get("Retry-After", "")
        error.retry_after = min(float(after), _LONGEST_PAUSE) if after.isdecimal() else None
        return error


def _headers(server: Server, user: str | None, password: str | None) -> dict[str, str]:
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


def _result(data: bytes, kind: str, where: str) -> bytes:
    try:
        found = _decode_data.decode(data)
    except msgspec.DecodeError as error:
        raise PrometheusError(f"{where}: an answer without a result: {error}", "answer") from error
    if found.resultType != kind:
        raise PrometheusError(f"{where}: the result is a {found.resultType[:20] or 'nothing'}, not a {kind}", "answer")
    return bytes(found.result)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _shown(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    return (scheme + slashes + rest.rpartition("@")[2])[:200] if slashes else url[:200]
