"""Test that untrusted gzip data are unpacked in pieces, and in time proportional to their content."""

from __future__ import annotations

import gzip
import random
import time
import zlib

import pytest

from kepler_core.errors import RecordingError
from kepler_core.gzip_files import MAX_SMALL_MEMBERS, MIN_MEMBER_BYTES, Gunzip, GzipError
from kepler_core.recording import read_recording

MIB = 2**20
EMPTY_MEMBER = gzip.compress(b"")


def unpack(packed: bytes, block_bytes: int = MIB) -> bytes:
    """Unpack data in blocks of `block_bytes`, check the size of each unpacked piece, and return the content."""
    gunzip = Gunzip()
    pieces = []
    for start in range(0, len(packed), block_bytes):
        pieces += gunzip.unpack(packed[start : start + block_bytes])
    gunzip.finish()
    assert all(0 < len(piece) <= MIB for piece in pieces)
    return b"".join(pieces)


def noise(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def stored(content: bytes) -> bytes:
    """Return gzip data with `content` as stored (not compressed) blocks."""
    return gzip.compress(content, 0)


CONTENT = noise(50_000) + b"x" * 5 * MIB + b"end"


@pytest.mark.parametrize(
    ("packed", "content"),
    [
        (gzip.compress(CONTENT), CONTENT),
        (stored(CONTENT), CONTENT),
        (stored(noise(5 * MIB)), noise(5 * MIB)),
        (gzip.compress(b"a") + gzip.compress(CONTENT) + gzip.compress(b"b"), b"a" + CONTENT + b"b"),
        (gzip.compress(b"a") + b"\0" * 5000 + gzip.compress(b"b") + b"\0" * 100_000, b"ab"),
        (EMPTY_MEMBER, b""),
        (EMPTY_MEMBER * MAX_SMALL_MEMBERS, b""),
        (gzip.compress(b"y" * MIN_MEMBER_BYTES) * 5000, b"y" * MIN_MEMBER_BYTES * 5000),
        (gzip.compress(b"x" * MIB), b"x" * MIB),
        (gzip.compress(b"x" * (MIB + 1)), b"x" * (MIB + 1)),
    ],
    ids=["compressed", "stored", "noise", "members", "zeros", "empty", "empties", "blocks", "a piece", "a piece and 1"],
)
def test_good_gzip_is_unpacked(packed: bytes, content: bytes) -> None:
    assert unpack(packed) == content
    if len(packed) < 200_000:
        assert unpack(packed, 7) == content
        assert unpack(packed, 16384) == content


PACKED = gzip.compress(b"some text" * 100)
LONG_COMMENT = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff" + b"c" * (40 * MIB) + b"\0" + EMPTY_MEMBER[10:]


def empty_blocks(size: int) -> bytes:
    """Return gzip data of about `size` bytes that consist of empty stored blocks of 5 bytes each."""
    return EMPTY_MEMBER[:10] + b"\0\0\0\xff\xff" * (size // 5) + EMPTY_MEMBER[10:]


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (b"", "empty"),
        (PACKED[:-1], "ends too early"),
        (PACKED[:5], "ends too early"),
        (PACKED + PACKED[:5], "ends too early"),
        (PACKED[:-1] + b"x", "incorrect length check"),
        (PACKED[:-5] + b"x" + PACKED[-4:], "incorrect data check"),
        (PACKED + b"more", "incorrect header check"),
        (zlib.compress(b"x"), "incorrect header check"),
        (PACKED[:20] + b"x" * 10 + PACKED[30:], "Error -3"),
        (EMPTY_MEMBER * (32 * MIB // len(EMPTY_MEMBER)), "members hold only 0 bytes"),
        (gzip.compress(b"x" * 40) * (32 * MIB // 23), "members hold only"),
        (LONG_COMMENT, "packed bytes hold only 0"),
        (empty_blocks(32 * MIB), "packed bytes hold only 0"),
        (PACKED + b"\0" * (32 * MIB), "packed bytes hold only 900"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_and_costly_gzip_is_rejected(packed: bytes, problem: str) -> None:
    started = time.monotonic()
    for block_bytes in (len(packed) or 1, 60_000):
        with pytest.raises(GzipError, match=problem):
            unpack(packed, block_bytes)
    assert time.monotonic() - started < 5.0


def test_a_recording_of_empty_members_is_rejected_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(RecordingError, match=r"damaged gzip file \(1025 gzip members hold only 0 bytes\)"):
        read_recording(EMPTY_MEMBER * (32 * MIB // len(EMPTY_MEMBER)), name="empties.json.gz")
    assert time.monotonic() - started < 5.0
