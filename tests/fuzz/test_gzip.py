"""Fuzz the unpacking of gzip: bodies of `POST /train`, and recordings."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from support.fuzzing import fuzz

from kepler_core.errors import RecordingError
from kepler_core.gzip_files import Gunzip, GzipError
from kepler_core.recording import read_recording
from kepler_servers.http.answer import HttpError
from kepler_servers.offline_trainer.spool import SpooledBody

MAX_BODY_BYTES = 10_000

contents = st.binary(max_size=50) | st.integers(0, 30_000).map(lambda size: b"{}" * size)
members = st.builds(gzip.compress, contents, st.sampled_from([0, 1, 9]))
pieces = members | st.binary(max_size=20) | st.integers(0, 50).map(bytes) | st.just(gzip.compress(b"") * 1100)
packed_bodies = st.lists(pieces, min_size=1, max_size=6).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Generate gzip data in which up to three pieces are replaced by random bytes."""
    packed = bytearray(draw(packed_bodies))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(packed)))
        packed[start : start + draw(st.integers(0, 30))] = draw(st.binary(max_size=10))
    return bytes(packed)


def unpacked(packed: bytes, block_bytes: int) -> bytes | None:
    """Unpack `packed` in blocks of `block_bytes`. Return the content, or None if `Gunzip` rejects the data."""
    gunzip = Gunzip()
    content = b""
    try:
        for start in range(0, len(packed), block_bytes):
            content += b"".join(gunzip.unpack(packed[start : start + block_bytes]))
        gunzip.finish()
    except GzipError as error:
        message = str(error)
        assert message.isprintable()
        return None
    return content


def check_agreement(packed: bytes, block_bytes: int) -> None:
    """Check that `Gunzip` unpacks the same content as the standard library, whatever the size of the blocks is."""
    content = unpacked(packed, len(packed) or 1)
    assert unpacked(packed, block_bytes) == content
    if content is not None:
        assert gzip.decompress(packed) == content


def check_body(packed: bytes, block_bytes: int, must_be_gzip: bool) -> None:
    """Check that a body is stored or rejected, and that no file is left behind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = SpooledBody(folder, max_bytes=MAX_BODY_BYTES, must_be_gzip=must_be_gzip)
        try:
            for start in range(0, len(packed), block_bytes):
                body.write(packed[start : start + block_bytes])
            body.finish()
            assert body.size == body.path.stat().st_size <= MAX_BODY_BYTES
        except HttpError as error:
            assert error.status in (400, 413)  # noqa: PT017 - the body may be stored or rejected
        finally:
            body.close()
        assert not list(folder.iterdir())


def check(drawn: tuple[bytes, int, bool]) -> None:
    packed, block_bytes, must_be_gzip = drawn
    check_agreement(packed, block_bytes)
    check_body(packed, block_bytes, must_be_gzip)
    with contextlib.suppress(RecordingError):
        read_recording(packed, name="recording.json.gz")


def test_packed_bodies_and_recordings() -> None:
    fuzz(st.tuples(damaged(), st.integers(1, 5000), st.booleans()), check)
