"""Test that untrusted zip archives are unpacked within limits, or refused with an error of one line."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import StoreError
from kepler_core.store.layout import zip_bytes
from kepler_core.store.safe_zip import read_zip


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def member(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # assigned here, because `ZipInfo(…)` would change unsafe names
    info.external_attr = mode << 16
    return info


def refused(content: bytes, match: str, **limits: Any) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        read_zip(content, "x.zip", **limits)
    text = str(caught.value)
    assert text.startswith("x.zip: ")
    assert "\n" not in text
    assert "\0" not in text
    assert len(text) < 400


def test_read_zip() -> None:
    files = {"a": b"1", "b/c": b"2" * 9999, "ü/é": b""}
    assert read_zip(zip_bytes(files), "x.zip") == files
    assert read_zip(zipped(*files.items(), ("folder/", b""), method=zipfile.ZIP_STORED), "x.zip") == files
    assert read_zip(zip_bytes(files), "x.zip", only={"c"}) == {"b/c": b"2" * 9999}
    assert read_zip(b"first some other program" + zip_bytes(files), "x.zip") == files
    assert read_zip(zipped(), "x.zip") == {}


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "//host/share",
        "a//b",
        "./a",
        "..",
        "C:/evil",
        "c:evil",
        "..\\evil",
        "a\\b",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "x" * 2000,
        "",
        "/",
    ],
)
def test_hostile_names(name: str) -> None:
    refused(zipped((member(name), b"x")), "not a name")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFSOCK])
def test_links_and_devices(kind: int) -> None:
    refused(zipped((member("a", kind | 0o777), b"/etc/passwd")), "a link or a device")


def test_two_members_of_one_name() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped(("a", b"1"), ("a", b"2"))
    refused(content, "twice")
    refused(zipped(("a", b"1"), ("a/b", b"2")), "a file and a folder")
    refused(zipped(("a/", b""), ("a", b"2")), "a file and a folder")


def test_encryption_and_unsupported_methods() -> None:
    content = bytearray(zipped(("a", b"1")))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    refused(bytes(content), "encrypted")
    refused(zipped(("a", b"1"), method=zipfile.ZIP_LZMA), "method other than")
    refused(zipped(("a", b"1"), method=zipfile.ZIP_BZIP2), "method other than")


def test_limits_of_unpacked_sizes() -> None:
    bomb = zipped(("a", bytes(50 * 2**20)))
    assert len(bomb) < 100_000
    refused(bomb, "'a' is larger than 1000000 bytes", max_file_bytes=10**6)
    refused(bomb, "its files are larger than 1000000 bytes", max_total_bytes=10**6)
    refused(zipped(*((str(i), bytes(1000)) for i in range(11))), "its files are", max_total_bytes=10_000)
    refused(zipped(*((str(i), b"") for i in range(11))), "more than 10 files", max_files=10)
    assert len(read_zip(zipped(*((str(i), bytes(1000)) for i in range(10))), "x", max_files=10, max_total_bytes=10_000))


@pytest.mark.parametrize("claimed", [0, 10, 10**6 - 1, 2**32 - 2])
def test_a_member_that_is_larger_than_its_stated_size(claimed: int) -> None:
    content = bytearray(zipped(("a", bytes(5 * 2**20))))
    for mark, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, claimed)
    refused(bytes(content), "larger than|damaged", max_file_bytes=10**6)


def test_a_directory_with_more_members_than_it_states() -> None:
    """The limit `max_files` applies to the real number of files in the zip, not to the number that the zip states.

    In this test, the zip states a number that is too small. Python's zipfile ignores this number.
    """
    content = bytearray(zipped(*((str(i), b"") for i in range(50))))
    struct.pack_into("<HH", content, len(content) - 14, 1, 1)
    refused(bytes(content), "more than 10 files", max_files=10)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\5\6", b"<html>not found</html>", zip_bytes({"a": b"content", "b": b"more"})[:-9]],
)
def test_content_that_is_not_a_zip(content: bytes) -> None:
    refused(content, "not a zip archive")


def check_one_line(error: StoreError) -> None:
    assert "\n" not in str(error)


@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    for extra in (b"", b"PK\5\6" + bytes(18)):
        try:
            read_zip(content + extra, "x.zip")
        except StoreError as error:
            check_one_line(error)


@given(st.data())
def test_mutated_zips(data: st.DataObject) -> None:
    """A damaged archive is read, or refused with a `StoreError`. No file name that is read has a part `..`."""
    files = {"a": b"some content, some content", "b/c": b"more"}
    content = bytearray(zip_bytes(files))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        files = read_zip(bytes(content), "x.zip", max_total_bytes=1000)
    except StoreError as error:
        check_one_line(error)
    else:
        assert all(part not in ("", "..") for name in files for part in name.split("/"))
