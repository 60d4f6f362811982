"""An HTTP request and its whole answer, within a time limit."""

from __future__ import annotations

import contextlib
import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.deadlines import Deadline, TooLargeError, read_bounded
from kepler_core.urls import split_url

_MAX_ERROR_BYTES = 65536


@attrs.frozen
class Answer:
    """A complete answer of an HTTP server."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    """The content. For an error status, `body` is empty if the content is longer than 64 KiB or cannot be read."""


def exchange(
    request: urllib.request.Request | str, deadline: Deadline, *, max_bytes: int, socket_timeout: float
) -> Answer:
    """Send a request to an http(s) URL and return the answer. Redirects are followed to http(s) URLs only.

    At the deadline, the connection is shut down, whatever the server has sent until then. Raises
    `DeadlineError`, `TooLargeError`, `OSError`, `http.client.HTTPException` or `ValueError`.
    """
    sockets: list[socket.socket] = []

    def run() -> Answer:
        try:
            with _opener(sockets, deadline).open(request, timeout=socket_timeout) as response:
                return Answer(response.status, "", response.headers, read_bounded(response, deadline, max_bytes))
        except urllib.error.HTTPError as error:
            body = b""
            with error, contextlib.suppress(TooLargeError, OSError, http.client.HTTPException, AttributeError):
                stream: Any = error.fp
                body = read_bounded(stream, deadline, _MAX_ERROR_BYTES)
            return Answer(error.code, str(error.reason), dict(error.headers.items()), body)

    def end() -> None:
        for stream in sockets:
            with contextlib.suppress(OSError):
                # Do not call `SSLSocket.shutdown`, which would also remove the TLS object that `run` uses in its thread
                socket.socket.shutdown(stream, socket.SHUT_RDWR)

    return deadline.run(run, cancel=end)


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """A urllib handler that follows redirects only to http(s) URLs."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if split_url(newurl).scheme.lower() not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, "not http(s)", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(sockets: list[socket.socket], deadline: Deadline) -> urllib.request.OpenerDirector:
    """Return a urllib opener that opens only http(s) URLs. urllib's default opener would also read local files.

    The opener adds the sockets of its connections to `sockets`. After the deadline, it opens no connection.
    """

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            deadline.check()
            super().connect()
            sockets.append(self.sock)

    class SecureConnection(http.client.HTTPSConnection):
        def connect(self) -> None:
            deadline.check()
            super().connect()
            sockets.append(self.sock)

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Connection, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(SecureConnection, req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Http(),
        Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpRedirects(),
    ):
        opener.add_handler(handler)
    return opener
