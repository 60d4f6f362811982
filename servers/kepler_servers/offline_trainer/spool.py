"""A body on its way to the disk: unpacked and counted while it arrives, gone if the request fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from kepler_core.atomic_files import flush_folder
from kepler_servers.http.adapter import RefusedError, Upload

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS
_PIECE = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(what: str) -> RefusedError:
    """The answer where there is no room."""
    return RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, f"the disk is full: {what}")


def is_full(error: OSError) -> bool:
    """Whether this says that there is no room."""
    return error.errno in _FULL


class SpooledBody(Upload):
    """A JSON body, plain or gzipped, as plain JSON in a file."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        announced: int | None = None,
        must_be_gzip: bool = False,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """`announced`: the size that the client says (packed); `closed` is called at the end."""
        self._max_bytes = max_bytes
        self._closed = closed
        if announced is not None and announced > max_bytes:
            raise self._too_large()
        if announced is not None and announced > shutil.disk_usage(folder).free:
            raise disk_full(f"no room for {announced} bytes")
        self.path = folder / uuid.uuid4().hex
        self.size = 0
        """Bytes of JSON."""
        self._must_be_gzip = must_be_gzip
        self._begun = False
        self._inflate: zlib._Decompress | None = None
        self._digest = hashlib.sha256()
        self._using = threading.Lock()
        with _spooling():
            self._file = self.path.open("xb", buffering=0)

    def write(self, block: bytes) -> None:
        with self._using, _spooling():
            if not self._begun:
                self._begun = True
                if block[:2] == _GZIP_MAGIC:
                    self._inflate = zlib.decompressobj(_GZIP)
                elif self._must_be_gzip:
                    raise RefusedError(HTTPStatus.BAD_REQUEST, "Content-Encoding: gzip, but the body is not gzip")
            for piece in self._unpacked(block) if self._inflate is not None else (block,):
                self.size += len(piece)
                if self.size > self._max_bytes:
                    raise self._too_large()
                self._digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[self._file.write(view) :]

    def finish(self) -> str:
        """The body is complete: flush it to the disk; the digest (SHA-256) of the JSON."""
        with self._using, _spooling():
            if not self.size:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is empty")
            if self._inflate is not None and not self._inflate.eof:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "the gzip body ends too early")
            os.fsync(self._file.fileno())
            self._file.close()
        return self._digest.hexdigest()

    def keep(self, path: Path) -> None:
        """Move the finished file, for good, to where it is not removed by `close`."""
        with self._using, _spooling():
            os.rename(self.path, path)
            flush_folder(path.parent)

    def close(self) -> None:
        with self._using:
            self._file.close()
            self.path.unlink(missing_ok=True)
        self._closed()

    def _unpacked(self, block: bytes) -> Iterator[bytes]:
        try:
            full = False
            while block or full:
                assert self._inflate is not None
                if self._inflate.eof:  # a gzip file may be several, one after the other
                    self._inflate = zlib.decompressobj(_GZIP)
                piece = self._inflate.decompress(block, _PIECE)
                yield piece
                # all of the input may be taken, and more come out of it
                full = len(piece) == _PIECE and not self._inflate.eof
                block = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        except zlib.error as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"damaged gzip body: {error}") from None

    def _too_large(self) -> RefusedError:
        message = f"a body of more than {self._max_bytes} bytes (unpacked)"
        return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


class _spooling:  # noqa: N801
    """No room on the disk is an answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and is_full(error):
            raise disk_full("nothing of this request is kept") from error
