"""A bottle application on Granian, with bodies that are bounded in size and time.

Granian's own WSGI mode gives each request a thread that waits for the body for as long as the client
likes. Here the body is read by the event loop, with limits, and the application is called when it
is complete: a client that sends byte by byte, or stops, costs a connection and nothing else.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]

READ_SECONDS = 10.0
"""A request's body must be there by then."""
MAX_DISCARDED = 64 * 2**20
"""Of a body that is too large, so much is read and thrown away, so that the client reads our answer
rather than find the connection closed."""

_THREADS = 4


class BodyTooLargeError(Exception):
    """More was sent than is taken."""


class Bridge:
    """An RSGI application that calls a WSGI one."""

    def __init__(
        self,
        application: WsgiApplication,
        *,
        max_body: int,
        quick: Collection[str] = (),
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        """`quick` are paths that take microseconds: they are answered by the event loop itself, all
        others by a few threads. `refused` is told the status of requests that the application never
        sees."""
        self._refused = refused
        self._application = application
        self._max_body = max_body
        self._quick = frozenset(quick)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            protocol.close(403)
            return
        headers = scope.headers.items()
        length = scope.headers.get("content-length")
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await self._body(scope, protocol, length)
        except BodyTooLargeError:
            self._refuse(protocol, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {self._max_body} bytes")
            return
        except TimeoutError:
            self._refuse(protocol, HTTPStatus.REQUEST_TIMEOUT, f"the body was not there within {READ_SECONDS:g} s")
            return
        except RuntimeError:
            return  # the client is gone
        environ = _environ(scope, headers, body)
        if scope.path in self._quick:
            status, found, content = self._call(environ)
        else:
            loop = asyncio.get_running_loop()
            status, found, content = await loop.run_in_executor(self._threads, self._call, environ)
        protocol.response_bytes(status, found, content)

    def _refuse(self, protocol: Any, status: HTTPStatus, message: str) -> None:
        headers = [("content-type", "application/json"), ("connection", "close")]
        protocol.response_bytes(int(status), headers, msgspec.json.encode({"msg": message}))
        self._refused(int(status))

    async def _body(self, scope: Any, protocol: Any, length: str | None) -> bytes:
        if length is None and "transfer-encoding" not in scope.headers:
            return b""
        if length is not None and length.isdecimal() and int(length) <= self._max_body:
            return bytes(await protocol())
        body = bytearray()
        seen = 0
        async for chunk in protocol:
            seen += len(chunk)
            if seen > MAX_DISCARDED:
                break
            if seen <= self._max_body:
                body += chunk
        if seen > self._max_body:
            raise BodyTooLargeError
        return bytes(body)

    def _call(self, environ: dict[str, Any]) -> tuple[int, Headers, bytes]:
        status = 500
        headers: Headers = []

        def start_response(line: str, found: Headers, exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), found

        parts = self._application(environ, start_response)
        try:
            content = b"".join(parts)
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()
        return status, headers, content


def _environ(scope: Any, headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any]:
    environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope.path).decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in headers:
        environ[_variable(name)] = value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = str(len(body))
    # the body is here whole, whatever way it was sent
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return environ


@lru_cache(maxsize=256)
def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


def serve(target: str, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT: requests that have begun are finished.

    `target` is "module:function"; each worker process calls it once for its `Bridge`. `UsageError` if
    the address cannot be used.
    """
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    _check_address(host, port)
    Server(
        target,
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(READ_SECONDS * 1000), keep_alive=True),
        loop=Loops.asyncio,
        workers=workers,
        factory=True,
        websockets=False,
        backlog=1024,
        backpressure=MAX_CONNECTIONS,
        workers_kill_timeout=10,
        respawn_failed_workers=True,
        respawn_interval=1.0,
        log_level=LogLevels.warning,
    ).serve()


MAX_CONNECTIONS = 8192


def _check_address(host: str, port: int) -> None:
    import socket

    from kepler_core.errors import UsageError

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
