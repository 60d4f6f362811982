"""The adapter between Granian and an `App`. It limits the size and the time of request bodies.

In Granian's own WSGI mode, a thread waits for the body of each request, without a time limit. This adapter
reads the body in the event loop, with limits, and calls the application when the body is complete. So a
client that sends slowly, or stops sending, occupies a connection but no thread.

The adapter has three features that WSGI lacks. A large body is written into an `Upload` while it arrives, and is never
in memory as a whole. A handler may return a `Deferred`: an answer that is made later, while no thread waits. If the
body of an answer is a file, Granian itself sends the file.
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
from kepler_servers.http.slow_readers import start_watch
from kepler_servers.http.uploads import MAX_DISCARDED_BYTES, Upload, discard, receive

BODY_TIMEOUT_SECONDS = 10.0
"""Time limit for receiving the body of a request, unless the body is an upload."""

_THREADS = 4
_UPLOAD_THREADS = 8
_BLOCK_BYTES = 2**20


class _FileParts:
    """Iterable that yields the content of an open file in blocks. It is used as WSGI's `wsgi.file_wrapper`."""

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
    """Adapter that implements Granian's interface RSGI, and passes the requests on to an `App` through WSGI."""

    def __init__(self, app: App, *, max_body: int, cache: AnswerCache | None = None) -> None:
        """`max_body` is the maximum size of a body that is not an upload, in bytes. An answer in `cache` is sent
        without calling the app."""
        self._app = app
        self._max_body = max_body
        self._cached = cache.get if cache is not None else _not_cached
        self._deadline = SharedDeadline(BODY_TIMEOUT_SECONDS)
        self._quick = frozenset((route.method, route.path) for route in app.routes if route.quick)
        self._direct = {(r.method, r.path): r for r in app.routes if r.quick and app.can_call(r)}
        """Quick routes that are called without WSGI. Requests with a query still use WSGI."""
        self._uploads = {route.path: route for route in app.routes if route.upload is not None}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")
        # Uploads may take seconds. They have separate threads, so that they do not delay other requests.
        self._upload_threads = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="upload")

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Granian calls this method once, when the worker process starts to serve."""
        start_watch()

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
            # A part of the refused body may still arrive, so this connection cannot carry another request.
            headers = [*refusal.headers.items(), ("Connection", "close")]
            protocol.response_bytes(refusal.status, headers, refusal.body)
            self._app.observe(OTHER_ENDPOINT, refusal.status, 0.0)
        except RuntimeError:
            return  # Granian 2.8 raises RuntimeError if the client has closed the connection
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
                # This call only prevents a log message of asyncio ("exception was never retrieved"). `answer.then`
                # handles the exception.
                waiting.exception()
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, answer.then)
        return answer

    # --- requests whose body is kept in memory ---

    async def _answer(self, scope: Any, protocol: Any) -> Answer | Deferred:
        try:
            body = await self._body(scope, protocol)
        except TimeoutError:
            message = f"the body did not arrive within {BODY_TIMEOUT_SECONDS:g} s"
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        cached = self._cached(scope.method, scope.path, scope.query_string, body)
        if cached is not None:
            return cached
        if not scope.query_string and (route := self._direct.get((scope.method, scope.path))) is not None:
            return self._app.call(route, body)
        environ = _environ(scope, body)
        if (scope.method, scope.path) in self._quick:
            return self._call(environ)
        return await self._call_in(self._threads, environ)

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        headers = scope.headers
        length = _length(headers.get("content-length"))
        if length is None and "transfer-encoding" not in headers:
            return b""
        with self._deadline:
            if length is not None and length <= self._max_body:
                try:
                    return bytes(await protocol())
                except RuntimeError:  # Granian 2.8 raises this if the client disconnects before the body is complete
                    raise HttpError(HTTPStatus.BAD_REQUEST, f"the body has fewer than {length} bytes") from None
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
        if length is not None and received != length:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body stopped after {received} of {length} bytes")
        return bytes(body)

    # --- requests whose body is written into an `Upload` ---

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
            # `close` is not awaited, because this task may be in the process of being cancelled.
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
    # The WSGI application gets a complete body, whether the client sent it with a length or in chunks.
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return environ


@lru_cache(maxsize=256)
def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
