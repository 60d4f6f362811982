"""A client of the offline trainer, for programs and people."""

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

from kepler_core.errors import KeplerError, UsageError

SOCKET_SECONDS = 150.0
TRIES = 4
"""A request whose connection broke is sent again: its key makes it the same job."""

_BLOCK = 2**18
_GZIP_MAGIC = b"\x1f\x8b"
_RETRY_SECONDS = 1.0
_LATER = (502, 503, 504)


class TrainerError(KeplerError):
    """The offline trainer does not answer, or says no."""

    def __init__(self, message: str, status: int | None = None, content: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.content = content or {}


@attrs.frozen
class Submission:
    """A request that is sent from files, never whole in memory."""

    members: Mapping[str, Any]
    """What goes before the recordings."""
    recordings: Mapping[str, Path]
    """Key of the request -> file, JSON, plain or gzipped."""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.recordings.values())

    def body(self, sent: Callable[[int], None]) -> Iterator[bytes]:
        """The request, gzipped; `sent` is told how many more bytes of the files are in it."""
        packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        for block in self._plain(sent):
            if packed := packer.compress(block):
                yield packed
        yield packer.flush()

    def _plain(self, sent: Callable[[int], None]) -> Iterator[bytes]:
        yield msgspec.json.encode(self.members)[:-1]
        separator = b"," if self.members else b""
        for key, path in self.recordings.items():
            yield separator + msgspec.json.encode(key) + b":"
            yield from _content(path, sent)
            separator = b","
        yield b"}"


def _content(path: Path, sent: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        at = 0
        try:
            with gzip.open(raw, "rb") if packed else contextlib.nullcontext(raw) as file:
                while block := file.read(_BLOCK):
                    yield block
                    sent(raw.tell() - at)
                    at = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UsageError(f"{path}: damaged gzip file ({error})") from error


class TrainerClient:
    """Sends requests to an offline trainer, and follows its jobs."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        """`url` such as http://host:8102; `UsageError` if it is none."""
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise UsageError(f"--server {url[:100]!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(f"--server {url[:100]!r}: expected http(s)://host:port")
        self.url = url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._token = token

    def submit(self, submission: Submission, sent: Callable[[int], None] = lambda more: None) -> dict[str, Any]:
        """The job that the request has become. `sent` is told how far it is, negative where it begins again."""
        key = uuid.uuid4().hex
        headers = {
            "Content-Type": "application/json", "Content-Encoding": "gzip", "Prefer": "respond-async",
            "Idempotency-Key": key,
        }  # fmt: skip
        so_far = 0

        def count(more: int) -> None:
            nonlocal so_far
            so_far += more
            sent(more)

        def again() -> Iterator[bytes]:
            count(-so_far)
            return submission.body(count)

        return self._json("POST", "/train", again, headers, patient=True)

    def job(self, job: str) -> dict[str, Any]:
        """The job as it is now."""
        return self._json("GET", f"/jobs/{job}", patient=True)

    def download(self, job: str, path: Path) -> None:
        """The trained pipeline of a job that is done, into a file."""
        begun = path.with_name(path.name + ".part")
        try:
            with self._answered("GET", f"/jobs/{job}/result") as response, begun.open("wb") as file:
                shutil.copyfileobj(response, file)
                if response.length:
                    raise TrainerError(f"{self.url}: {response.length} bytes of the result did not come")
            begun.replace(path)
        finally:
            begun.unlink(missing_ok=True)

    def _json(
        self,
        method: str,
        path: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        patient: bool,
    ) -> dict[str, Any]:
        for attempt in range(TRIES):
            try:
                with self._answered(method, path, body, headers) as response:
                    return _object(response.read())
            except TrainerError as error:
                if not patient or attempt == TRIES - 1 or error.status not in (None, *_LATER):
                    raise
                time.sleep(_RETRY_SECONDS * 2**attempt)
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def _answered(
        self,
        method: str,
        path: str,
        body: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """A 2xx; `TrainerError` for anything else."""
        connection = self._connection()
        sent = dict(headers or {})
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            try:
                connection.request(
                    method, self._path + path, None if body is None else body(), sent, encode_chunked=body is not None
                )
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # it may have said why before it closed
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                content = _object(response.read(2**20))
                message = content.get("msg") or f"{response.status} {response.reason}"
                raise TrainerError(f"{self.url}: {message}", response.status, content)
            yield response
        except (OSError, http.client.HTTPException) as error:
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise TrainerError(f"{self.url}: {what}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=SOCKET_SECONDS, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=SOCKET_SECONDS)


def _object(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
