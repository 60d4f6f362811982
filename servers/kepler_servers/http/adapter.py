"""A bottle application on Granian, with bodies that are bounded in size and time.

Granian's own WSGI mode gives each request a thread that waits for the body for as long as the client
likes. Here the body is read by the event loop, with limits, and the application is called when it
is complete: a client that sends byte by byte, or stops, costs a connection and nothing else.

Two things go beyond WSGI. On paths that take large bodies, the body goes into an `Upload` while it
arrives (`environ[UPLOAD]`), never into memory. And a handler can put its answer off: it gives
`environ[LATER]` a future and the path that the client is answered with when the future is done; no
thread waits for it. An open file as an answer is sent from the disk.

An application may remember answers. They are sent from here, as a cache before it would: routing a
request costs many times what finding its answer does.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote_to_bytes

import attrs
import msgspec

Environ = dict[str, Any]
WsgiApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]

READ_SECONDS = 10.0
"""A request's body must be there by then."""
MAX_DISCARDED = 64 * 2**20
"""Of a body that is too large, so much is read and thrown away, so that the client reads our answer
rather than find the connection closed."""

UPLOAD = "kepler.upload"
LATER = "kepler.later"
ANNOUNCED = "kepler.announced"
"""The Content-Length of a large body, as the client said it."""

UPLOAD_SILENCE_SECONDS = 30.0
"""So long may nothing of a large body come."""
UPLOAD_GRACE_SECONDS = 30.0
UPLOAD_RATE = 16 * 1024
"""After the grace, a large body must have come at so many bytes a second on average."""

_THREADS = 4
_UPLOAD_THREADS = 8
_BLOCK = 2**20


class RefusedError(Exception):
    """A request that the application does not see: the answer is this status with a JSON body."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.content = {"msg": message, **more}


class Upload(ABC):
    """Where a large body goes while it arrives. Its methods are called by threads, one after the other;
    each may raise `RefusedError`, which ends the request."""

    @abstractmethod
    def write(self, block: bytes) -> None:
        """The next part of the body."""

    @abstractmethod
    def close(self) -> None:
        """The request is over, whatever became of it."""


@attrs.define(eq=False)
class Later:
    """An answer that is put off."""

    done: Future[Any] | None = None
    """Set by a handler: its own answer is forgotten, and when this is done…"""
    path: str = ""
    """…the client is answered as if it had asked GET for this path."""


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes | Path
    """What is sent, or the file whose content it is."""


Remembered = Callable[[str, str, str, bytes], Reply | None]
"""The answer to a method, path, query and body, if it is the same as before."""


def _nothing(method: str, path: str, query: str, body: bytes) -> Reply | None:
    return None


class _FileParts:
    """What a WSGI application returns for an open file (`wsgi.file_wrapper`)."""

    def __init__(self, file: BinaryIO, block_size: int = _BLOCK) -> None:
        self._file = file
        self._block_size = block_size
        self.path = Path(file.name)

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(self._block_size):
            yield block

    def close(self) -> None:
        self._file.close()


class Bridge:
    """An RSGI application that calls a WSGI one."""

    def __init__(
        self,
        application: WsgiApplication,
        *,
        max_body: int,
        quick: Collection[str] = (),
        remembered: Remembered = _nothing,
        uploads: Mapping[str, Callable[[Environ], Upload]] | None = None,
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        """`quick` are paths that take microseconds: they are answered by the event loop itself, all
        others by a few threads. `remembered` is asked first. `uploads` are paths to which large bodies
        are posted, with what makes their `Upload`, or raises `RefusedError` before anything is read.
        `refused` is told the status of requests that were not complete, or refused before that."""
        self._remembered = remembered
        self._deadlines = _Deadlines(READ_SECONDS)
        self._refused = refused
        self._application = application
        self._max_body = max_body
        self._quick = frozenset(quick)
        self._uploads = dict(uploads or {})
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")
        # requests with large bodies may take seconds, and the others are not to wait for them
        self._upload_threads = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="upload")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            protocol.close(403)
            return
        try:
            if scope.method == "POST" and (begin := self._uploads.get(scope.path)) is not None:
                reply = await self._with_upload(scope, protocol, begin)
            else:
                reply = await self._with_body(scope, protocol)
        except RefusedError as error:
            headers = [("content-type", "application/json"), ("connection", "close"), *error.headers.items()]
            protocol.response_bytes(int(error.status), headers, msgspec.json.encode(error.content))
            self._refused(int(error.status))
        except RuntimeError:
            return  # the client is gone
        else:
            if isinstance(reply.body, Path):
                protocol.response_file(reply.status, reply.headers, str(reply.body))
            else:
                protocol.response_bytes(reply.status, reply.headers, reply.body)

    async def _with_body(self, scope: Any, protocol: Any) -> Reply:
        try:
            body = await self._body(scope, protocol)
        except TimeoutError:
            message = f"the body was not there within {READ_SECONDS:g} s"
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        reply = self._remembered(scope.method, scope.path, scope.query_string, body)
        if reply is not None:
            return reply
        environ = _environ(scope, body)
        if scope.path in self._quick:
            return self._call(environ)
        return await self._call_in(self._threads, environ)

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
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {self._max_body} bytes")
        return bytes(body)

    async def _with_upload(self, scope: Any, protocol: Any, begin: Callable[[Environ], Upload]) -> Reply:
        loop = asyncio.get_running_loop()
        environ = _environ(scope, b"")
        environ[ANNOUNCED] = scope.headers.get("content-length") or ""
        try:
            upload = await loop.run_in_executor(self._threads, begin, environ)
        except RefusedError:
            await _discard(protocol, scope.headers.get("content-length"))
            raise
        try:
            try:
                await self._receive(scope, protocol, upload)
            except RefusedError:
                await _discard(protocol, None)
                raise
            environ[UPLOAD] = upload
            environ[LATER] = later = Later()
            reply = await self._call_in(self._upload_threads, environ)
        finally:
            # not awaited: this may be a task that is being cancelled
            self._upload_threads.submit(upload.close)
        if later.done is None:
            return reply
        await asyncio.wrap_future(later.done)
        environ |= {"REQUEST_METHOD": "GET", "PATH_INFO": later.path, "QUERY_STRING": ""}
        # what bottle keeps of the request as it was
        environ = {name: value for name, value in environ.items() if not name.startswith(("bottle.", "route."))}
        return await self._call_in(self._threads, environ)

    async def _receive(self, scope: Any, protocol: Any, upload: Upload) -> None:
        loop = asyncio.get_running_loop()
        length = scope.headers.get("content-length")
        started = loop.time()
        seen = 0
        block = bytearray()
        chunks = aiter(protocol) if length is not None or "transfer-encoding" in scope.headers else None
        while chunks is not None:
            try:
                async with asyncio.timeout(UPLOAD_SILENCE_SECONDS):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                break
            except RuntimeError:  # it has closed its side of the connection: it may still read
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body stopped after {seen} bytes") from None
            except TimeoutError:
                message = f"nothing of the body came for {UPLOAD_SILENCE_SECONDS:g} s, after {seen} bytes"
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, message) from None
            seen += len(chunk)
            seconds = loop.time() - started
            if seconds > UPLOAD_GRACE_SECONDS and seen < UPLOAD_RATE * seconds:
                message = f"the body came at less than {UPLOAD_RATE} bytes a second"
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, message)
            block += chunk
            if len(block) >= _BLOCK:
                await loop.run_in_executor(self._upload_threads, upload.write, bytes(block))
                block.clear()
        if length is not None and length.isdecimal() and seen != int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body stopped after {seen} of {length} bytes")
        if block:
            await loop.run_in_executor(self._upload_threads, upload.write, bytes(block))

    async def _call_in(self, threads: ThreadPoolExecutor, environ: Environ) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(threads, self._call, environ)

    def _call(self, environ: Environ) -> Reply:
        status = 500
        headers: Headers = []

        def start_response(line: str, found: Headers, exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), found

        parts = self._application(environ, start_response)
        try:
            content = parts.path if isinstance(parts, _FileParts) else b"".join(parts)
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()
        return Reply(status, headers, content)


async def _discard(protocol: Any, length: str | None) -> None:
    """Read what is left of a body that is refused, if it is not too much, so that the client reads our
    answer rather than find the connection closed."""
    if length is not None and not (length.isdecimal() and int(length) <= MAX_DISCARDED):
        return
    seen = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in protocol:
                seen += len(chunk)
                if seen > MAX_DISCARDED:
                    return
    except (TimeoutError, RuntimeError):  # it is slow, or there is no more
        return


def when_stopping(call: Callable[[], None]) -> None:
    """Have this worker process tell that it was asked to stop, before it waits for the requests that have
    begun. To be called where the application is made: Granian listens to signals after that."""
    loop = asyncio.get_event_loop()
    add = loop.add_signal_handler

    def add_with_ours(number: int, callback: Callable[..., Any], *arguments: Any) -> None:
        def both() -> None:
            call()
            callback(*arguments)

        add(number, both)

    loop.add_signal_handler = add_with_ours  # type: ignore[method-assign,assignment]


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


def _environ(scope: Any, body: bytes) -> Environ:
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
        "wsgi.file_wrapper": _FileParts,
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
