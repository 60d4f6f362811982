"""Client of the offline trainer. It submits recordings from files, reads the state of jobs and downloads results."""

from __future__ import annotations

import contextlib
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
from kepler_core.gzip_files import MAGIC, Gunzip, GzipError
from kepler_core.messages import quoted
from kepler_core.urls import secrets_of, shown_url, without_secrets

SOCKET_TIMEOUT_SECONDS = 150.0
"""Timeout of the socket; longer than `warm_worker.CHECK_TIMEOUT_SECONDS`, the server's limit for a check."""
MAX_TRIES = 4
"""Maximum number of times that a failing request is sent. The header Idempotency-Key prevents a second job."""

_BLOCK_BYTES = 2**18
_MAX_ERROR_BYTES = 2**20
_MAX_JSON_BYTES = 64 * 2**20
_FIRST_RETRY_SECONDS = 1.0
_RETRIED_STATUSES = (502, 503, 504)


class TrainerError(KeplerError):
    """The offline trainer does not answer, or answers with an error."""

    def __init__(self, message: str, status: int | None = None, content: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status of the answer; None if there was no answer."""
        self.content = content or {}
        """The JSON object in the answer's body; empty if the body is not a JSON object."""


@attrs.frozen
class Submission:
    """A training request. Its recordings stay in files until they are sent block by block."""

    members: Mapping[str, Any]
    """The members of the request's JSON object, without the recordings."""
    recordings: Mapping[str, Path]
    """JSON files with the recordings, by the key of the recording in the request. The files may be gzipped."""

    @property
    def size(self) -> int:
        """Total size of the files with the recordings, in bytes."""
        return sum(path.stat().st_size for path in self.recordings.values())

    def body(self, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the request as gzipped JSON. Call `advance` with the number of bytes of each block read from a file."""
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
        gunzip = Gunzip() if raw.read(len(MAGIC)) == MAGIC else None
        raw.seek(0)
        try:
            while block := raw.read(_BLOCK_BYTES):
                yield from gunzip.unpack(block) if gunzip is not None else (block,)
                advance(len(block))
            if gunzip is not None:
                gunzip.finish()
        except GzipError as error:
            raise UsageError(f"damaged gzip file ({error.message})", document=str(path)) from error


class TrainerClient:
    """HTTP client of one offline trainer. All methods raise `TrainerError` if a request fails."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """`url` is http(s)://host:port, optionally followed by a path. Raises `UsageError` for any other URL."""
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            # The message does not quote `error`, because its text may contain the beginning of a password.
            raise UsageError(f"--server {quoted(shown_url(url), 100)}: expected http(s)://host:port") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(f"--server {quoted(shown_url(url), 100)}: expected http(s)://host:port")
        self.url = shown_url(url).rstrip("/")
        """The URL as messages show it, without secrets."""
        self._secrets = [*secrets_of(url), token or ""]
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._token = token

    def submit(self, submission: Submission, advance: Callable[[int], None] = lambda count: None) -> dict[str, Any]:
        """Send a training request and return its job.

        `advance` is called with the number of bytes that were read from the recordings' files since its last
        call. Before the request is sent again, `advance` is called with a negative number, so that the
        caller's total starts from 0 again.
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
        """Return the answer of `GET /jobs/<id>`: the state and the history of a job."""
        return self._json("GET", f"/jobs/{job}")

    def download(self, job: str, path: Path) -> None:
        """Download the result of a job, which is the zip of the trained pipeline, to the file `path`."""
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
        """Send a request and return the JSON object of the answer; repeat the request after a temporary error."""
        for attempt in range(MAX_TRIES):
            try:
                with self._response(method, path, body, headers) as response:
                    content = response.read(_MAX_JSON_BYTES + 1)
                if len(content) > _MAX_JSON_BYTES:
                    raise TrainerError(f"{self.url}: the answer has more than {_MAX_JSON_BYTES} bytes")
                return _json_object(content)
            except TrainerError as error:
                if attempt == MAX_TRIES - 1 or error.status not in (None, *_RETRIED_STATUSES):
                    raise
                time.sleep(_FIRST_RETRY_SECONDS * 2**attempt)
        raise AssertionError("not reached, because the last attempt returns or raises")

    @contextlib.contextmanager
    def _response(
        self,
        method: str,
        path: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and yield the response; raise `TrainerError` if its status is not 2xx."""
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
                # The server has closed the connection before it got the whole request. If it has sent an error answer
                # first, this answer can still be read.
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                content = _json_object(response.read(_MAX_ERROR_BYTES))
                message = content.get("msg") or f"{response.status} {response.reason}"
                message = without_secrets(str(message), self._secrets)
                raise TrainerError(f"{self.url}: {message}", response.status, content)
            yield response
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise TrainerError(f"{self.url}: {without_secrets(reason, self._secrets)}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=SOCKET_TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=SOCKET_TIMEOUT_SECONDS)


def _json_object(content: bytes) -> dict[str, Any]:
    """Decode a JSON object; return an empty dict if the content is anything else."""
    try:
        return decode_object(content)
    except DocumentError:
        return {}
