"""A client of the offline trainer: sends requests from files, follows jobs, downloads results."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import shutil
import ssl
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import KeplerError, UsageError
from kepler_core.messages import quoted

SOCKET_TIMEOUT_SECONDS = 150.0
"""Longer than the server checks a request (`warm_worker.CHECK_TIMEOUT_SECONDS`)."""
MAX_TRIES = 4
"""Number of times that a request is sent if its connection breaks. Its Idempotency-Key makes it one job."""

_BLOCK_BYTES = 2**18
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_ERROR_BYTES = 2**20
_FIRST_RETRY_SECONDS = 1.0
_RETRIED_STATUSES = (502, 503, 504)


class TrainerError(KeplerError):
    """The offline trainer does not answer, or answers with an error."""

    def __init__(self, message: str, status: int | None = None, content: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status, or None without an answer."""
        self.content = content or {}
        """JSON object of the answer."""


@attrs.frozen
class Submission:
    """A request whose recordings are sent from files without being loaded into memory."""

    members: Mapping[str, Any]
    """All keys of the request but the recordings."""
    recordings: Mapping[str, Path]
    """The recordings: key of the request -> JSON file, plain or gzipped."""

    @property
    def size(self) -> int:
        """Size of the files together in bytes."""
        return sum(path.stat().st_size for path in self.recordings.values())

    def body(self, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the gzipped JSON text. `advance` gets the number of bytes that were read from the files."""
        compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for block in self._json(advance):
            if compressed := compressor.compress(block):
                yield compressed
        yield compressor.flush()

    def _json(self, advance: Callable[[int], None]) -> Iterator[bytes]:
        yield msgspec.json.encode(self.members)[:-1]
        separator = b"," if self.members else b""
        for key, path in self.recordings.items():
            yield separator + msgspec.json.encode(key) + b":"
            yield from _unpacked_blocks(path, advance)
            separator = b","
        yield b"}"


def _unpacked_blocks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        position = 0
        try:
            with gzip.open(raw, "rb") if is_gzip else contextlib.nullcontext(raw) as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
                    advance(raw.tell() - position)
                    position = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError(f"damaged gzip file ({error})", document=str(path)) from error


class TrainerClient:
    """A connection to an offline trainer. All methods raise `TrainerError` if a request fails."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """`url` is http(s)://host:port, with or without a path. Raises `UsageError` for anything else."""
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise UsageError(f"--server {quoted(url, 100)}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(f"--server {quoted(url, 100)}: expected http(s)://host:port")
        self.url = url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._token = token

    def submit(self, submission: Submission, advance: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
        """Send a request and return its job.

        `advance` gets the number of bytes that were read from the recordings' files, and a negative
        number when the request is sent again.
        """
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "Prefer": "respond-async",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        total = 0

        def count(more: int) -> None:
            nonlocal total
            total += more
            advance(more)

        def body() -> Iterator[bytes]:
            count(-total)
            return submission.body(count)

        return self._json("POST", "/train", body, headers)

    def job(self, job: str) -> dict[str, Any]:
        """Return a job as `GET /jobs/<id>` describes it."""
        return self._json("GET", f"/jobs/{job}")

    def download(self, job: str, path: Path) -> None:
        """Write the zip of a job that is done to a file."""
        part = path.with_name(path.name + ".part")
        try:
            with self._response("GET", f"/jobs/{job}/result") as response, part.open("wb") as file:
                shutil.copyfileobj(response, file)
                if response.length:
                    raise TrainerError(f"{self.url}: the last {response.length} bytes of the result are missing")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _json(
        self,
        method: str,
        path: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the JSON object that answers a request; send the request again if that may help."""
        for attempt in range(MAX_TRIES):
            try:
                with self._response(method, path, body, headers) as response:
                    return _json_object(response.read())
            except TrainerError as error:
                if attempt == MAX_TRIES - 1 or error.status not in (None, *_RETRIED_STATUSES):
                    raise
                time.sleep(_FIRST_RETRY_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def _response(
        self,
        method: str,
        path: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response if its status is 2xx."""
        connection = self._connection()
        headers = dict(headers or {})
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            try:
                connection.request(
                    method,
                    self._path + path,
                    None if body is None else body(),
                    headers,
                    encode_chunked=body is not None,
                )
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # The server may have sent an answer before it closed the connection.
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                content = _json_object(response.read(_MAX_ERROR_BYTES))
                message = content.get("msg") or f"{response.status} {response.reason}"
                raise TrainerError(f"{self.url}: {message}", response.status, content)
            yield response
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise TrainerError(f"{self.url}: {reason}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=SOCKET_TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=SOCKET_TIMEOUT_SECONDS)


def _json_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object, or an empty one if the content is anything else."""
    try:
        return decode_object(content)
    except DocumentError:
        return {}
