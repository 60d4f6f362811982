"""Read zip archives from untrusted sources.

An archive is refused if it contains a name that leads outside of the archive, a link, or an encrypted
member. It is also refused if it is too large. Sizes are counted while unpacking, because the sizes in an
archive's directory may be wrong.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from typing import IO

from kepler_core.errors import StoreError
from kepler_core.messages import quoted, reason_of
from kepler_core.models.power_model import MAX_FILE_BYTES

MAX_ARCHIVE_BYTES = 512 * 2**20
"""Maximum size of an archive before unpacking."""
MAX_MODEL_BYTES = 512 * 2**20
"""Maximum total size of the files of one model, after unpacking."""
MAX_MODEL_FILES = 1000

_CHUNK_BYTES = 2**20
_MAX_NAME_CHARACTERS = 1024
_SHOWN_NAME_CHARACTERS = 80
_REASON_CHARACTERS = 200
_DRIVE = re.compile(r"[A-Za-z]:")

# Exceptions that the standard library raises for bytes that are not a zip archive, and for damaged archives.
_DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def read_zip(
    content: bytes,
    where: str,
    *,
    only: Collection[str] | None = None,
    max_files: int = MAX_MODEL_FILES,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_total_bytes: int = MAX_MODEL_BYTES,
) -> dict[str, bytes]:
    """Return the files of a zip archive by path. `where` names the archive in errors.

    If `only` is given, only files with these names are unpacked, in whatever folder they are. Raises `StoreError` if
    the archive is damaged, unsafe, or beyond the limits.
    """
    if _max_entries(content) > max_files:
        raise StoreError(f"{where}: more than {max_files} files in the archive")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _checked_members(archive, where)
            files: dict[str, bytes] = {}
            left = max_total_bytes
            for name, info in members.items():
                if only is not None and name.rpartition("/")[2] not in only:
                    continue
                limit = min(left, max_file_bytes)
                with archive.open(info) as member:
                    data = read_up_to(member, limit + 1)
                if len(data) > limit:
                    subject, allowed = (
                        (f"{quoted(name, _SHOWN_NAME_CHARACTERS)} is", max_file_bytes)
                        if limit == max_file_bytes
                        else ("its files are", max_total_bytes)
                    )
                    raise StoreError(f"{where}: {subject} larger than {allowed} bytes unpacked")
                left -= len(data)
                files[name] = data
    except _DAMAGED as error:
        raise StoreError(f"{where}: damaged, or not a zip archive: {reason_of(error, _REASON_CHARACTERS)}") from error
    return files


def file_names(content: bytes, where: str, *, max_files: int = MAX_MODEL_FILES) -> list[str]:
    """Return the paths of the files in a zip archive, without unpacking a file.

    Raises `StoreError` if the archive is damaged, unsafe, or has too many files.
    """
    if _max_entries(content) > max_files:
        raise StoreError(f"{where}: more than {max_files} files in the archive")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return list(_checked_members(archive, where))
    except _DAMAGED as error:
        raise StoreError(f"{where}: damaged, or not a zip archive: {reason_of(error, _REASON_CHARACTERS)}") from error


def read_up_to(file: IO[bytes], limit: int) -> bytes:
    """Read at most `limit` bytes, in chunks, so that a small file does not take a large buffer."""
    parts = []
    while limit > 0 and (part := file.read(min(limit, _CHUNK_BYTES))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def read_archive_file(file: IO[bytes], where: str) -> bytes:
    """Read a whole archive from a file. Raise `StoreError` if it is larger than `MAX_ARCHIVE_BYTES`."""
    parts: list[bytes] = []
    size = 0
    while part := file.read(_CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_ARCHIVE_BYTES:
            raise StoreError(f"{where}: larger than {MAX_ARCHIVE_BYTES} bytes")
    return b"".join(parts)


def _max_entries(content: bytes) -> int:
    """Return an upper bound of the number of entries in the archive's directory.

    The function counts the signature bytes with which each entry begins. It does not use zipfile, which would
    create an object for each entry.
    """
    # search for the directory's end record in the same places where zipfile searches for it
    if content[-22:-18] == b"PK\5\6" and content.endswith(b"\0\0"):
        end = len(content) - 22
    else:
        end = content.rfind(b"PK\5\6", max(0, len(content) - 2**16 - 22))
    if end < 0 or len(content) < end + 22:
        return 0  # not an archive: zipfile raises an error when the caller opens the content
    (size,) = struct.unpack_from("<I", content, end + 12)
    if size == 2**32 - 1 or content[max(0, end - 20) : end].startswith(b"PK\6\7"):
        start = 0  # zip64 states the directory's size elsewhere, so count the signatures in the whole archive
    else:
        start = max(0, end - size - 4)
    return content.count(b"PK\1\2", start, end)


def _checked_members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return the files of an archive by name, or raise `StoreError` if a member is unsafe, e.g. a link."""
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in archive.infolist():
        shown = f"{where}: {quoted(info.orig_filename, _SHOWN_NAME_CHARACTERS)}"
        is_folder = info.orig_filename.endswith("/")
        name = info.orig_filename.removesuffix("/")
        parts = name.split("/")
        if not _is_safe_name(name):
            raise StoreError(f"{shown}: not a name that a file of a pipeline can have")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > is_folder:
            raise StoreError(f"{shown}: a link or a device; only files and folders are read")
        if info.flag_bits & 0x1:
            raise StoreError(f"{shown}: encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(f"{shown}: compressed by a method other than stored and deflated")
        folders.update("/".join(parts[:end]) for end in range(1, len(parts)))
        if is_folder:
            folders.add(name)
        elif name in members:
            raise StoreError(f"{shown}: twice in the archive")
        else:
            members[name] = info
    if both := sorted(folders & set(members)):
        raise StoreError(f"{where}: {quoted(both[0], _SHOWN_NAME_CHARACTERS)}: a file and a folder have this same name")
    return members


def _is_safe_name(name: str) -> bool:
    return not (
        any(part in ("", ".", "..") for part in name.split("/"))
        or "\\" in name
        or _DRIVE.match(name)
        or not name.isprintable()
        or len(name) > _MAX_NAME_CHARACTERS
    )
