"""Pipelines that come from somewhere else: zip archives, folders, URLs; and archives for elsewhere.

Nothing in an archive is believed: names that lead outside, links, encryption, and sizes beyond the
limits are refused, the sizes counted while unpacking. No file's content is ever run or unpickled.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import stat
import struct
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import msgspec

from kepler_core.errors import StoreError
from kepler_core.models.power_model import MAX_FILE_BYTES, METADATA_FILE
from kepler_core.names import is_name
from kepler_core.store.layout import zip_bytes
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.models import count_models
from kepler_core.store.store import Snapshot, is_url, shown_url, split_url

MAX_ARCHIVE_BYTES = 512 * 2**20
"""Of a pipeline's archive, packed."""
MAX_PIPELINE_BYTES = 2**30
"""Of all files of a pipeline, unpacked."""
MAX_PIPELINE_FILES = 200_000
MAX_MODEL_BYTES = 512 * 2**20
"""Of all files of one model, unpacked."""
MAX_MODEL_FILES = 1000

SOCKET_SECONDS = 30
DOWNLOAD_SECONDS = 900

_CHUNK = 2**20
_MAX_NAME = 1024
_DRIVE = re.compile(r"[A-Za-z]:")

# What the standard library raises for bytes that are no archive, or a damaged one.
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


def read_pipeline(location: str, name: str | None = None) -> tuple[str, dict[str, bytes]]:
    """A pipeline's name (the one given, else its own) and files from a zip file, a folder, or an
    http(s) or file URL.

    `StoreError` where it cannot be had, is no pipeline, or is not as its manifest says.
    """
    if is_url(location) and not location.lower().startswith("file://"):
        scheme = split_url(location).scheme.lower()
        if scheme not in ("http", "https"):
            raise StoreError(
                f"{shown_url(location)}: a pipeline comes from a file, a folder, or an http(s) or file URL"
            )
        where = shown_url(location)
        folder, files = _unpack(download(location), where)
        return name or _name(where, folder, Path(unquote(split_url(location).path)).stem, files), files
    path = Path(unquote(split_url(location).path) if is_url(location) else location)
    if path.is_dir():
        files = _checked(_read_folder(path), str(path))
        return name or _name(str(path), None, path.resolve().name, files), files
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: neither a file nor a folder")
    try:
        with path.open("rb") as file:
            content = _bounded(file, str(path))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
    folder, files = _unpack(content, str(path))
    return name or _name(str(path), folder, path.stem, files), files


def read_archive(content: bytes, where: str) -> dict[str, bytes]:
    """The files of a pipeline from its zip archive; the pipeline may lie in one folder in it."""
    return _unpack(content, where)[1]


def archive_bytes(snapshot: Snapshot) -> bytes:
    """A pipeline as a zip archive with its manifest, in a folder of its name; the same bytes for the
    same files. `StoreError` where one is missing or damaged."""
    snapshot.check_complete()
    names = snapshot.names if snapshot.manifest is None else snapshot.manifest.files
    files = dict(snapshot.read_many(sorted(set(names) - {MANIFEST_FILE})))
    files[MANIFEST_FILE] = make_manifest(files).encode()
    return zip_bytes({f"{snapshot.pipeline}/{name}": data for name, data in files.items()})


def read_zip(
    content: bytes,
    where: str,
    *,
    only: Collection[str] | None = None,
    max_files: int = MAX_MODEL_FILES,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_total_bytes: int = MAX_MODEL_BYTES,
) -> dict[str, bytes]:
    """The files of a zip archive, by path; `StoreError` for one that is damaged, hostile or beyond the limits.

    With `only`, files of other names (without folders) are not unpacked.
    """
    if _entries(content) > max_files:
        raise StoreError(f"{where}: more than {max_files} files in the archive")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, where)
            files: dict[str, bytes] = {}
            left = max_total_bytes
            for name, info in members.items():
                if only is not None and name.rpartition("/")[2] not in only:
                    continue
                limit = min(left, max_file_bytes)
                with archive.open(info) as member:
                    data = _read_up_to(member, limit + 1)
                if len(data) > limit:
                    what, most = (
                        (f"{_shown(name)} is", max_file_bytes)
                        if limit == max_file_bytes
                        else ("its files are", max_total_bytes)
                    )
                    raise StoreError(f"{where}: {what} larger than {most} bytes unpacked")
                left -= len(data)
                files[name] = data
    except _DAMAGED as error:
        raise StoreError(f"{where}: damaged, or not a zip archive: {_first_line(error)}") from error
    return files


# --- archives ---


def _entries(content: bytes) -> int:
    """At most so many entries can the archive's directory have, told without building an object for each."""
    # the very places where zipfile looks for it
    if content[-22:-18] == b"PK\5\6" and content.endswith(b"\0\0"):
        end = len(content) - 22
    else:
        end = content.rfind(b"PK\5\6", max(0, len(content) - 2**16 - 22))
    if end < 0 or len(content) < end + 22:
        return 0  # no archive, as will be said
    (size,) = struct.unpack_from("<I", content, end + 12)
    if size == 2**32 - 1 or content[max(0, end - 20) : end].startswith(b"PK\6\7"):
        start = 0  # zip64: its size stands elsewhere
    else:
        start = max(0, end - size - 4)
    return content.count(b"PK\1\2", start, end)


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name; `StoreError` for anything that a pipeline has no use for."""
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in archive.infolist():
        name = info.orig_filename
        shown = f"{where}: {_shown(name)}"
        kind = stat.S_IFMT(info.external_attr >> 16)
        is_folder = name.endswith("/")
        name = name.removesuffix("/")
        parts = name.split("/")
        if (
            any(part in ("", ".", "..") for part in parts)
            or "\\" in name
            or _DRIVE.match(name)
            or not name.isprintable()
            or len(name) > _MAX_NAME
        ):
            raise StoreError(f"{shown}: not a name that a file of a pipeline can have")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > is_folder:
            raise StoreError(f"{shown}: a link or a device; only files and folders are read")
        if info.flag_bits & 0x1:
            raise StoreError(f"{shown}: encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(f"{shown}: packed by a method other than stored and deflated")
        folders.update("/".join(parts[:end]) for end in range(1, len(parts)))
        if is_folder:
            folders.add(name)
        elif name in members:
            raise StoreError(f"{shown}: twice in the archive")
        else:
            members[name] = info
    if both := sorted(folders & set(members)):
        raise StoreError(f"{where}: {_shown(both[0])}: a file and a folder of one name")
    return members


def _read_up_to(file: Any, most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(min(most, _CHUNK))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _unpack(content: bytes, where: str) -> tuple[str | None, dict[str, bytes]]:
    """The one folder that all is in, if it is, and the pipeline's files."""
    files = read_zip(
        content,
        where,
        max_files=MAX_PIPELINE_FILES,
        max_total_bytes=MAX_PIPELINE_BYTES,
    )
    folder = None
    tops = {name.partition("/")[0] for name in files}
    if METADATA_FILE not in files and len(tops) == 1 and f"{(top := min(tops))}/{METADATA_FILE}" in files:
        folder = top
        files = {name.removeprefix(f"{top}/"): data for name, data in files.items()}
    return folder, _checked(files, where)


# --- what a pipeline must have ---


def _checked(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    """The files without their manifest, if they are a pipeline and as it says."""
    if METADATA_FILE not in files:
        raise StoreError(f"{where}: not a pipeline: no {METADATA_FILE} at its top or in its only folder")
    manifest = read_manifest(files[MANIFEST_FILE], where) if MANIFEST_FILE in files else None
    snapshot = Snapshot("", None, where, manifest, frozenset(files), files.__getitem__)
    snapshot.check_complete()
    for name in sorted(files):
        snapshot.read(name)
    if not count_models(snapshot):
        raise StoreError(
            f"{where}: not a pipeline: no model, "
            "<source>/<AbsPower or DynPower>/<feature group>/<Trainer>_<node type>.zip"
        )
    snapshot.read_json(METADATA_FILE)
    return {name: data for name, data in files.items() if name != MANIFEST_FILE}


def _name(where: str, folder: str | None, fallback: str, files: dict[str, bytes]) -> str:
    """The folder's name in the archive, else what the metadata says, else that of the file or folder."""
    said = msgspec.json.decode(files[METADATA_FILE], type=dict[str, Any]).get("name")
    for name in (folder, said, fallback):
        if isinstance(name, str) and is_name(name):
            return name
    raise StoreError(f"{where}: it has no name that a pipeline can have; give it one (--name)")


# --- folders ---


def _read_folder(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MAX_PIPELINE_BYTES
    try:
        for path in _walk(folder):
            name = path.relative_to(folder).as_posix()
            if not path.is_file() or path.is_symlink():
                raise StoreError(f"{path}: a link or a device; only files and folders are read")
            if len(files) == MAX_PIPELINE_FILES:
                raise StoreError(f"{folder}: more than {MAX_PIPELINE_FILES} files")
            limit = min(left, MAX_FILE_BYTES)
            with path.open("rb") as file:
                data = _read_up_to(file, limit + 1)
            if len(data) > limit:
                raise StoreError(f"{path}: larger than {MAX_FILE_BYTES} bytes, or the folder than {MAX_PIPELINE_BYTES}")
            left -= len(data)
            files[name] = data
    except OSError as error:
        raise StoreError(f"{error.filename or folder}: {error.strerror or error}") from error
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


# --- URLs ---


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if split_url(newurl).scheme.lower() not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, "not http(s)", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str) -> bytes:
    where = shown_url(url)
    if "@" in split_url(url).netloc:
        raise StoreError(f"{where}: user and password in a URL are not supported")
    # a redirect may lead to another scheme; of all openers only those for http are needed
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=SOCKET_SECONDS) as answer:
            content = _bounded(answer, where, time.monotonic() + DOWNLOAD_SECONDS)
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) != len(content):
                raise StoreError(f"{where}: {len(content)} of {length} bytes came")
            return content
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise StoreError(f"{where}: redirects in a circle, or to a URL that is not http(s)") from error
        raise StoreError(f"{where}: the server answers {error.code} {_first_line(error.reason)}") from error
    except urllib.error.URLError as error:
        raise StoreError(f"{where}: {_first_line(error.reason)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StoreError(f"{where}: {_first_line(error)}") from error


def _bounded(file: BinaryIO | Any, where: str, deadline: float | None = None) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := file.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > MAX_ARCHIVE_BYTES:
            raise StoreError(f"{where}: larger than {MAX_ARCHIVE_BYTES} bytes")
        if deadline is not None and time.monotonic() > deadline:
            raise StoreError(f"{where}: did not come within {DOWNLOAD_SECONDS} s")
    return b"".join(parts)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _first_line(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
