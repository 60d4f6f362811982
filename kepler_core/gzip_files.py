"""Write gzip files whose bytes depend only on their content, and safely unpack gzip from outside."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from kepler_core.deadlines import TooLargeError
from kepler_core.errors import KeplerError

MAGIC = b"\x1f\x8b"

MAX_OVERHEAD_BYTES = 2**20
"""Maximum number of bytes by which gzip data may be larger than its content. Valid gzip data is almost never larger
than its content."""
MIN_MEMBER_BYTES = 4096
"""Gzip data may consist of several members, and even an empty member takes time to unpack. So gzip data is rejected
if it has more than `MAX_SMALL_MEMBERS` members, and fewer unpacked bytes than this number for each further member."""
MAX_SMALL_MEMBERS = 1024
"""Number of gzip members that are accepted even if they are empty."""

_LEVEL = 6
_WBITS = 16 + zlib.MAX_WBITS
_INPUT_BYTES = 2**14
_OUTPUT_BYTES = 2**20


@contextlib.contextmanager
def compressed_by_name(raw: BinaryIO, name: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Yield a file to write to: `raw` itself or, if `name` ends in .gz, a file that writes gzip to `raw`.

    The gzip header holds neither a name nor a time, so that equal content gives equal bytes.
    """
    if not name.endswith(".gz"):
        yield raw
        return
    with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as file:
        yield file


class GzipError(KeplerError):
    """Bytes are not valid gzip, or are many gzip members with almost no data, whose unpacking would waste time."""


class Gunzip:
    """Unpacks gzip data from files and clients that are not trusted, block by block.

    Unpacking takes time in proportion to the unpacked bytes. The caller must limit the total number of unpacked
    bytes; `unpack` yields them in pieces of at most 1 MiB.
    """

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(_WBITS)
        self._packed = 0
        self._unpacked = 0
        self._members = 1
        self._started = False
        """Whether a part of the current gzip member was read."""

    def unpack(self, block: bytes) -> Iterator[bytes]:
        """Unpack a block and yield its content in pieces. Raises `GzipError` if it is damaged or exceeds a limit."""
        view = memoryview(block)
        for start in range(0, len(view), _INPUT_BYTES):
            # At the end of each gzip member, zlib copies the rest of its input. Small parts keep these copies small.
            part = view[start : start + _INPUT_BYTES]
            self._packed += len(part)
            try:
                yield from self._unpack_part(bytes(part))
            except zlib.error as error:
                raise GzipError(str(error)) from None
            if self._packed - self._unpacked > MAX_OVERHEAD_BYTES:
                raise GzipError(f"{self._packed} packed bytes hold only {self._unpacked} unpacked bytes")

    def finish(self) -> None:
        """Raise `GzipError` if the input is empty or ends in the middle of a gzip member."""
        if self._started and not self._decompressor.eof:
            raise GzipError("the gzip data ends too early")
        if not self._packed:
            raise GzipError("the gzip data is empty")

    def _unpack_part(self, part: bytes) -> Iterator[bytes]:
        more_output = False
        while part or more_output:
            if self._decompressor.eof or not self._started:
                part = self._next_member(part)
                if not part:
                    return
            piece = self._decompressor.decompress(part, _OUTPUT_BYTES)
            self._unpacked += len(piece)
            if piece:
                yield piece
            eof = self._decompressor.eof
            # if the output fills a whole piece, more output may follow, even if all input was consumed
            more_output = len(piece) == _OUTPUT_BYTES and not eof
            part = self._decompressor.unused_data if eof else self._decompressor.unconsumed_tail

    def _next_member(self, part: bytes) -> bytes:
        """Begin another gzip member, and return the input without the zero bytes that may precede the member."""
        if self._decompressor.eof:
            part = part.lstrip(b"\0")
            self._started = False
            if not part:
                return part
            self._decompressor = zlib.decompressobj(_WBITS)
            self._members += 1
            if (self._members - MAX_SMALL_MEMBERS) * MIN_MEMBER_BYTES > self._unpacked:
                raise GzipError(f"{self._members} gzip members hold only {self._unpacked} bytes")
        self._started = True
        return part


def unpacked(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Unpack gzip that arrives in pieces, and yield its content in blocks of at most 1 MiB.

    Raises `TooLargeError` as soon as the content exceeds `max_bytes`, and `GzipError` for damaged gzip.
    """
    gunzip = Gunzip()
    size = 0
    for piece in pieces:
        for block in gunzip.unpack(piece):
            size += len(block)
            if size > max_bytes:
                raise TooLargeError(f"unpacks to more than {max_bytes} bytes")
            yield block
    gunzip.finish()
