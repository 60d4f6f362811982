"""The upload of a training request: unpacked and counted while it arrives, stored in a file."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from kepler_core.atomic_files import flush_folder
from kepler_servers.http.answer import HttpError
from kepler_servers.http.uploads import Upload
from kepler_servers.offline_trainer.disk_full import is_disk_full

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_BLOCK_BYTES = 2**20


def disk_full_error(consequence: str) -> HttpError:
    """Return the HTTP error for a request that the disk has no room for."""
    return HttpError(HTTPStatus.INSUFFICIENT_STORAGE, f"the disk is full: {consequence}")


class SpooledBody(Upload):
    """A JSON body, plain or gzipped, that is stored as plain JSON in a file until `keep` or `close`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        length: int | None = None,
        must_be_gzip: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the file in `folder`.

        `max_bytes` limits the unpacked JSON. `length` is the announced Content-Length, and `on_close` is
        called when the request has ended. Raises `HttpError` if the body cannot be stored.
        """
        self._max_bytes = max_bytes
        self._on_close = on_close
        if length is not None and length > max_bytes:
            raise self._too_large()
        if length is not None and length > shutil.disk_usage(folder).free:
            raise disk_full_error(f"no room for {length} bytes")
        self.path = folder / uuid.uuid4().hex
        self.size = 0
        """Number of JSON bytes that were received so far."""
        self._must_be_gzip = must_be_gzip
        self._started = False
        self._decompressor: zlib._Decompress | None = None
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        with _reporting_full_disk():
            self._file = self.path.open("xb", buffering=0)

    def write(self, block: bytes) -> None:
        with self._lock, _reporting_full_disk():
            if not self._started:
                self._started = True
                if block[:2] == _GZIP_MAGIC:
                    self._decompressor = zlib.decompressobj(_GZIP_WBITS)
                elif self._must_be_gzip:
                    raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Encoding: gzip, but the body is not gzip")
            for piece in self._unpacked(block) if self._decompressor is not None else (block,):
                self.size += len(piece)
                if self.size > self._max_bytes:
                    raise self._too_large()
                self._digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]

    def finish(self) -> str:
        """Flush the complete body to the disk and return the SHA-256 of its JSON."""
        with self._lock, _reporting_full_disk():
            if not self.size:
                raise HttpError(HTTPStatus.BAD_REQUEST, "the body is empty")
            if self._decompressor is not None and not self._decompressor.eof:
                raise HttpError(HTTPStatus.BAD_REQUEST, "the gzip body ends too early")
            os.fsync(self._file.fileno())
            self._file.close()
        return self._digest.hexdigest()

    def keep(self, path: Path) -> None:
        """Move the finished file to `path`, where `close` does not remove it."""
        with self._lock, _reporting_full_disk():
            os.rename(self.path, path)
            flush_folder(path.parent)

    def close(self) -> None:
        """Remove the file unless it was kept."""
        with self._lock:
            self._file.close()
            self.path.unlink(missing_ok=True)
        self._on_close()

    def _unpacked(self, block: bytes) -> Iterator[bytes]:
        try:
            more_output = False
            while block or more_output:
                assert self._decompressor is not None
                if self._decompressor.eof:  # a gzip file may have several members
                    self._decompressor = zlib.decompressobj(_GZIP_WBITS)
                piece = self._decompressor.decompress(block, _BLOCK_BYTES)
                yield piece
                # A full piece may be followed by more output even if all input was consumed.
                more_output = len(piece) == _BLOCK_BYTES and not self._decompressor.eof
                block = self._decompressor.unused_data if self._decompressor.eof else self._decompressor.unconsumed_tail
        except zlib.error as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"damaged gzip body: {error}") from None

    def _too_large(self) -> HttpError:
        message = f"a body of more than {self._max_bytes} bytes (unpacked)"
        return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


@contextmanager
def _reporting_full_disk() -> Iterator[None]:
    """Turn an error that means a full disk into `HttpError`."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full_error("nothing of this request is kept") from error
        raise
