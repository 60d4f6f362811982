"""A bottle application on Granian, with bodies that are bounded in size and time.

Granian's own WSGI mode gives each request a thread that waits for the body for as long as the client
likes. Here the body is read by the event loop, with limits, and the application is called when it
is complete: a client that sends byte by byte, or stops, costs a connection and nothing else.

An application may remember answers. They are sent from here, as a cache before it would: routing a
request costs many times what finding its answer does.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
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


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


Remembered = Callable[[str, str, str, bytes], Reply | None]
"""The answer to a method, path, query and body, if it is the same as before."""


def _nothing(method: str, path: str, query: str, body: bytes) -> Reply | None:
    return None


class Bridge:
    """An RSGI application that calls a WSGI one."""

    def __init__(
        self,
        application: WsgiApplication,
        *,
        max_body: int,
        quick: Collection[str] = (),
        remembered: Remembered = _nothing,
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        """`quick` are paths that take microseconds: they are answered by the event loop itself, all
        others by a few threads. `remembered` is asked first. `refused` is told the status of requests
        that were not complete."""
        self._remembered = remembered
        self._deadlines = _Deadlines(READ_SECONDS)
        self._refused = refused
        self._application = application
        self._max_body = max_body
        self._quick = frozenset(quick)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            protocol.close(403)
            return
        try:
            body = await self._body(scope, protocol)
        except BodyTooLargeError:
            self._refuse(protocol, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {self._max_body} bytes")
            return
        except TimeoutError:
            self._refuse(protocol, HTTPStatus.REQUEST_TIMEOUT, f"the body was not there within {READ_SECONDS:g} s")
            return
        except RuntimeError:
            return  # the client is gone
        reply = self._remembered(scope.method, scope.path, scope.query_string, body)
        if reply is None:
            environ = _environ(scope, body)
            if scope.path in self._quick:
                reply = self._call(environ)
            else:
                reply = await asyncio.get_running_loop().run_in_executor(self._threads, self._call, environ)
        protocol.response_bytes(*reply)

    def _refuse(self, protocol: Any, status: HTTPStatus, message: str) -> None:
        headers = [("content-type", "application/json"), ("connection", "close")]
        protocol.response_bytes(int(status), headers, msgspec.json.encode({"msg": message}))
        self._refused(int(status))

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        headers = scope.headers
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return b""
        with self._deadlines:
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

    def _call(self, environ: dict[str, Any]) -> Reply:
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
        return Reply(status, headers, content)


class _Deadlines:
    """`with` it, a task gets `TimeoutError` when it takes longer.

    As `asyncio.timeout`, but with one timer for all: setting and cancelling one for each request is a
    good part of what a quick answer costs. So a task may get a tenth more time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._looking = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._until[task] = time.monotonic() + self._seconds
        if not self._looking:
            self._look_later()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._until.pop(task, None)
        if task in self._overdue:
            self._overdue.discard(task)
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError

    def _look_later(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(self._seconds / 10, self._look)

    def _look(self) -> None:
        self._looking = False
        now = time.monotonic()
        for task in [task for task, until in self._until.items() if until <= now]:
            del self._until[task]
            self._overdue.add(task)
            task.cancel()
        if self._until:
            self._look_later()


def _environ(scope: Any, body: bytes) -> dict[str, Any]:
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
    for name, value in scope.headers.items():
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
