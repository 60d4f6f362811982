"""The adapter between Granian and an `App`. It limits the size and the time of request bodies.

Granian's own WSGI mode gives each request a thread that waits for the body for as long as the client
likes. Here the event loop reads the body, with limits, and the application is called when the body
is complete: a client that sends byte by byte, or stops, costs a connection and nothing else.

The adapter goes beyond WSGI in three ways. A large body goes into an `Upload` while it arrives, never into
memory. A handler may return a `Deferred`: no thread waits for its future. Granian itself sends an answer
whose body is a file.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import bottle

from kepler_servers.http.answer import Answer, Deferred, HttpError
from kepler_servers.http.answer_cache import AnswerCache
from kepler_servers.http.app import DEFERRED, OTHER_ENDPOINT, UPLOAD, App, Environ
from kepler_servers.http.deadlines import SharedDeadline
from kepler_servers.http.route import BeginUpload, Route
from kepler_servers.http.uploads import MAX_DISCARDED_BYTES, Upload, discard, receive

BODY_TIMEOUT_SECONDS = 10.0
"""Time limit for a request's body, unless it is an upload."""

_THREADS = 4
_UPLOAD_THREADS = 8
_BLOCK_BYTES = 2**20


class _FileParts:
    """The content of an open file in blocks (WSGI's `wsgi.file_wrapper`)."""

    def __init__(self, file: BinaryIO, block_size: int = _BLOCK_BYTES) -> None:
        self._file = file
        self._block_size = block_size
        self.path = Path(file.name)

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(self._block_size):
            yield block

    def close(self) -> None:
        self._file.close()


class RsgiAdapter:
    """An RSGI application that calls an `App` by WSGI."""

    def __init__(self, app: App, *, max_body: int, cache: AnswerCache | None = None) -> None:
        """`max_body` is the limit of a body that is no upload, in bytes. Cached answers are sent without calling the
        app."""
        self._app = app
        self._max_body = max_body
        self._cached = cache.get if cache is not None else _not_cached
        self._deadline = SharedDeadline(BODY_TIMEOUT_SECONDS)
        self._quick = frozenset(route.path for route in app.routes if route.quick)
        self._uploads = {route.path: route for route in app.routes if route.upload is not None}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")
        # requests with large bodies may take seconds, and must not delay the others
        self._upload_threads = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="upload")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        if scope.proto != "http":
            protocol.close(403)
            return
        route = self._uploads.get(scope.path)
        try:
            if route is not None and scope.method == route.method:
                answer = await self._answer_upload(scope, protocol, route)
            else:
                answer = await self._answer(scope, protocol)
            if isinstance(answer, Deferred):
                answer = await self._wait(answer)
        except HttpError as error:
            refusal = error.answer()
            # the connection may still hold a part of the body
            headers = [*refusal.headers.items(), ("Connection", "close")]
            protocol.response_bytes(refusal.status, headers, refusal.body)
            self._app.observe(OTHER_ENDPOINT, refusal.status, 0.0)
        except RuntimeError:
            return  # Granian 2.8 raises it if the client has closed the connection
        else:
            headers = list(answer.headers.items())
            if isinstance(answer.body, Path):
                protocol.response_file(answer.status, headers, str(answer.body))
            else:
                protocol.response_bytes(answer.status, headers, answer.body)

    async def _wait(self, answer: Answer | Deferred) -> Answer:
        while isinstance(answer, Deferred):
            waiting = asyncio.wrap_future(answer.future)
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.exception()  # or asyncio logs that it was never retrieved; `then` handles it
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, answer.then)
        return answer

    # --- bodies in memory ---

    async def _answer(self, scope: Any, protocol: Any) -> Answer | Deferred:
        try:
            body = await self._body(scope, protocol)
        except TimeoutError:
            message = f"the body was not there within {BODY_TIMEOUT_SECONDS:g} s"
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        cached = self._cached(scope.method, scope.path, scope.query_string, body)
        if cached is not None:
            return cached
        environ = _environ(scope, body)
        if scope.path in self._quick:
            return self._call(environ)
        return await self._call_in(self._threads, environ)

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        headers = scope.headers
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return b""
        with self._deadline:
            if length is not None and length.isdecimal() and int(length) <= self._max_body:
                return bytes(await protocol())
            body = bytearray()
            received = 0
            async for chunk in protocol:
                received += len(chunk)
                if received > MAX_DISCARDED_BYTES:
                    break
                if received <= self._max_body:
                    body += chunk
        if received > self._max_body:
            raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {self._max_body} bytes")
        return bytes(body)

    # --- uploads ---

    async def _answer_upload(self, scope: Any, protocol: Any, route: Route) -> Answer | Deferred:
        loop = asyncio.get_running_loop()
        environ = _environ(scope, b"")
        length = _length(scope.headers.get("content-length"))
        assert route.upload is not None
        try:
            upload = await loop.run_in_executor(self._threads, self._begin, route, route.upload, environ, length)
        except HttpError:
            await discard(protocol, length)
            raise
        try:
            try:
                await receive(scope, protocol, upload, self._upload_threads)
            except Exception as error:
                await discard(protocol, None)
                raise self._app.http_error(error, route.name) from error
            environ[UPLOAD] = upload
            return await self._call_in(self._upload_threads, environ)
        finally:
            # not awaited: this may be a task that is being cancelled
            self._upload_threads.submit(upload.close)

    def _begin(self, route: Route, begin: BeginUpload, environ: Environ, length: int | None) -> Upload:
        try:
            return begin(bottle.BaseRequest(environ), length)
        except Exception as error:
            raise self._app.http_error(error, route.name) from error

    # --- WSGI ---

    async def _call_in(self, threads: ThreadPoolExecutor, environ: Environ) -> Answer | Deferred:
        return await asyncio.get_running_loop().run_in_executor(threads, self._call, environ)

    def _call(self, environ: Environ) -> Answer | Deferred:
        status = 500
        headers: dict[str, str] = {}

        def start_response(line: str, fields: list[tuple[str, str]], exc_info: Any = None) -> None:
            nonlocal status, headers
            status, headers = int(line[:3]), dict(fields)

        parts = self._app.wsgi(environ, start_response)
        try:
            content = parts.path if isinstance(parts, _FileParts) else b"".join(parts)
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()
        deferred: Deferred | None = environ[DEFERRED]
        return Answer(status, headers, content) if deferred is None else deferred


def _not_cached(method: str, path: str, query: str, body: bytes) -> Answer | None:
    return None


def _length(header: str | None) -> int | None:
    return int(header) if header is not None and header.isdecimal() else None


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
        DEFERRED: None,
    }
    for name, value in scope.headers.items():
        environ[_variable(name)] = value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ["CONTENT_LENGTH"] = str(len(body))
    # the body is complete, whatever way it was sent
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return environ


@lru_cache(maxsize=256)
def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
