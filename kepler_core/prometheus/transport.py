"""HTTP GET requests with a deadline for the whole answer and limits for its size, both packed and unpacked."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Collection, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import attrs
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from kepler_core.deadlines import Deadline, TooLargeError, read_bounded, read_pieces
from kepler_core.errors import UsageError
from kepler_core.gzip_files import GzipError, unpacked
from kepler_core.messages import quoted

CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 60.0
"""A request fails if the server sends no byte for this time."""
MAX_ANSWER_BYTES = 128 * 2**20
"""Maximum size of an answer after unpacking. A query with a larger answer is split."""
MAX_PACKED_BYTES = 64 * 2**20
"""Maximum size of an answer before unpacking. Gzip shrinks the JSON of Prometheus to a sixth or less, so that answers
rarely reach this limit before they reach `MAX_ANSWER_BYTES`."""

_MAX_ERROR_BYTES = 2**16
"""Maximum size of the body of an answer whose status is not 200. A longer body is ignored."""
_MAX_REDIRECTS = 3
_OK = 200

ANSWER_ERRORS = (HTTPError, HTTPException, ValueError, OSError, GzipError)
"""Exceptions that a server's answer can cause, e.g. `ValueError` by urllib3 (2.8.0) for some redirects."""


@attrs.frozen
class Reply:
    """An HTTP answer that has arrived completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """The unpacked body. Empty if the status is not 200 and the body is damaged or longer than `_MAX_ERROR_BYTES`."""


class _Transfer:
    """A running request and its current connection. Another thread can shut the connection down."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.connection: HTTPConnection | None = None

    def end(self) -> None:
        """Shut the connection down.

        The thread that waits for the answer then gets an error and closes the connection.
        """
        stream = None if self.connection is None else self.connection.sock
        if isinstance(stream, socket.socket):
            with contextlib.suppress(OSError):
                # Call the plain socket's method: `SSLSocket.shutdown` would change the TLS state that the other thread
                # uses.
                socket.socket.shutdown(stream, socket.SHUT_RDWR)


_thread = threading.local()
"""Thread-local variable: `_thread.transfer` is the `_Transfer` that the current thread executes."""


def _enter(connection: HTTPConnection) -> None:
    """Record which connection the transfer of the current thread uses."""
    transfer: _Transfer = _thread.transfer
    transfer.connection = connection
    transfer.deadline.check()  # a transfer that another thread has ended must not open a connection


class _Connection(HTTPConnection):
    def connect(self) -> None:
        _enter(self)
        super().connect()

    def request(self, *arguments: Any, **keywords: Any) -> None:
        _enter(self)
        super().request(*arguments, **keywords)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        _enter(self)
        super().connect()

    def request(self, *arguments: Any, **keywords: Any) -> None:
        _enter(self)
        super().request(*arguments, **keywords)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Transport:
    """A pool of HTTP connections that several threads can use at the same time."""

    def __init__(self, *, verify: bool, ca_file: str | None, own_headers: Collection[str] = ()) -> None:
        """Create a pool; `client.Server` explains `verify` and `ca_file`.

        `own_headers` are the names of headers that are not sent to another host if the server redirects to
        it. Raises `UsageError` if `ca_file` does not exist.
        """
        self._own_headers = {*urllib3.Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT, *own_headers}
        options: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE"}
        if ca_file is not None:
            if not Path(ca_file).is_file():
                raise UsageError(f"{ca_file}: no such file")
            options["ca_certs"] = ca_file
        if not verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # urllib3 (2.8.0) logs malformed headers as a warning, with a traceback and with the text that the server sent
        logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS)
        self._pool = urllib3.PoolManager(maxsize=16, timeout=timeout, **options)
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def get(self, url: str, headers: Mapping[str, str], deadline: Deadline) -> Reply:
        """Send a GET request and return its whole answer.

        Raises `DeadlineError`, `TooLargeError` or one of `ANSWER_ERRORS`.
        """
        transfer = _Transfer(deadline)

        def exchange() -> Reply:
            _thread.transfer = transfer
            return self._get(url, headers, deadline)

        return deadline.run(exchange, cancel=transfer.end)

    def _get(self, url: str, headers: Mapping[str, str], deadline: Deadline) -> Reply:
        # Only redirects are followed. With retries, urllib3 (2.8.0) would turn an answer 503 with Retry-After into an
        # exception that lacks the headers.
        retries = urllib3.Retry(
            connect=0,
            read=0,
            redirect=_MAX_REDIRECTS,
            status=0,
            other=0,
            respect_retry_after_header=False,
            remove_headers_on_redirect=self._own_headers,
        )
        response = self._pool.request(
            "GET", url, headers=headers, retries=retries, preload_content=False, decode_content=False
        )
        complete = False
        try:
            if response.status == _OK:
                body = _body(response, deadline, MAX_PACKED_BYTES, MAX_ANSWER_BYTES)
            else:
                try:
                    body = _body(response, deadline, _MAX_ERROR_BYTES, _MAX_ERROR_BYTES)
                except (TooLargeError, OSError, GzipError):
                    return Reply(response.status, response.headers, b"")
            complete = True
            return Reply(response.status, response.headers, body)
        finally:
            # Close the connection if the body is not read to its end: the unread part could be endless.
            response.release_conn() if complete else response.close()


def _body(response: urllib3.BaseHTTPResponse, deadline: Deadline, max_packed: int, max_bytes: int) -> bytes:
    """Read the body of an answer, unpack it and return it."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return read_bounded(response, deadline, max_bytes)
    if encoding not in ("gzip", "x-gzip"):
        raise OSError(f"the answer is packed with {quoted(encoding)}, not with gzip")
    return b"".join(unpacked(read_pieces(response, deadline, max_packed), max_bytes))
