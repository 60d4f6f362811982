"""Receive the body of a training request: unpack it, limit its size, and store it in a file while it arrives."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from kepler_core.atomic_files import flush_folder
from kepler_core.gzip_files import MAGIC, Gunzip, GzipError
from kepler_servers.http.answer import HttpError
from kepler_servers.http.uploads import Upload
from kepler_servers.offline_trainer.disk_full import is_disk_full


def disk_full_error(consequence: str) -> HttpError:
    """Return the HTTP error for a training request that does not fit on the disk."""
    return HttpError(HTTPStatus.INSUFFICIENT_STORAGE, f"the disk is full: {consequence}")


class SpooledBody(Upload):
    """A JSON body, plain or gzipped, that is received and stored as plain JSON in a temporary file."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        length: int | None = None,
        must_be_gzip: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the temporary file in `folder`.

        `max_bytes` limits the unpacked JSON. `length` is the Content-Length header, if any, and `on_close` is
        called when the body is closed. Raises `HttpError` if the body is too large for the limit or the disk.
        """
        self._max_bytes = max_bytes
        self._on_close = on_close
        if length is not None and length > max_bytes:
            raise self._too_large()
        if length is not None and length > shutil.disk_usage(folder).free:
            raise disk_full_error(f"no room for {length} bytes")
        self.path = folder / uuid.uuid4().hex
        self.size = 0
        """Number of bytes of unpacked JSON that were received so far."""
        self._must_be_gzip = must_be_gzip
        self._started = False
        self._gunzip: Gunzip | None = None
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        with _reporting_full_disk():
            self._file = self.path.open("xb", buffering=0)

    def write(self, block: bytes) -> None:
        with self._lock, _reporting_full_disk():
            if not self._started:
                self._started = True
                if block[:2] == MAGIC:
                    self._gunzip = Gunzip()
                elif self._must_be_gzip:
                    raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Encoding: gzip, but the body is not gzip")
            for piece in _unpacked(self._gunzip, block) if self._gunzip is not None else (block,):
                self.size += len(piece)
                if self.size > self._max_bytes:
                    raise self._too_large()
                self._digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]

    def finish(self) -> str:
        """Flush the complete body to the disk, and return the SHA-256 of its JSON as hexadecimal text."""
        with self._lock, _reporting_full_disk():
            if self._gunzip is not None:
                with _reporting_bad_gzip():
                    self._gunzip.finish()
            if not self.size:
                raise HttpError(HTTPStatus.BAD_REQUEST, "the body is empty")
            os.fsync(self._file.fileno())
            self._file.close()
        return self._digest.hexdigest()

    def keep(self, path: Path) -> None:
        """Move the complete file to `path`. `close` does not remove a file that was moved."""
        with self._lock, _reporting_full_disk():
            os.rename(self.path, path)
            flush_folder(path.parent)

    def close(self) -> None:
        """Close the temporary file, and remove it unless `keep` has moved it."""
        with self._lock:
            self._file.close()
            self.path.unlink(missing_ok=True)
        self._on_close()

    def _too_large(self) -> HttpError:
        message = f"a body of more than {self._max_bytes} bytes (unpacked)"
        return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def _unpacked(gunzip: Gunzip, block: bytes) -> Iterator[bytes]:
    with _reporting_bad_gzip():
        yield from gunzip.unpack(block)


@contextmanager
def _reporting_bad_gzip() -> Iterator[None]:
    try:
        yield
    except GzipError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"damaged gzip body: {error.message}") from None


@contextmanager
def _reporting_full_disk() -> Iterator[None]:
    """Context manager that raises an `HttpError` in place of an error that reports a full disk."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full_error("this request was not stored") from error
        raise
