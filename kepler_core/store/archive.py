"""Import pipelines from zip archives, folders and URLs; export them as zip archives.

Imported content is untrusted: see `safe_zip` for the checks of archives. No imported file is run or unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import attrs

from kepler_core.documents import decode_object
from kepler_core.errors import StoreError
from kepler_core.models.power_model import MAX_FILE_BYTES, METADATA_FILE
from kepler_core.names import is_name
from kepler_core.store.documents import check_documents
from kepler_core.store.download import download
from kepler_core.store.layout import zip_bytes
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.models import count_models
from kepler_core.store.safe_zip import read_archive_file, read_up_to, read_zip
from kepler_core.store.snapshot import Snapshot
from kepler_core.urls import file_path, is_file_url, is_url, shown_url, split_url

MAX_PIPELINE_BYTES = 2**30
"""Maximum total size of the files of a pipeline, after unpacking."""
MAX_PIPELINE_FILES = 200_000


@attrs.frozen(eq=False)
class _Content:
    """The checked content of an archive or a folder."""

    files: dict[str, bytes]
    """The pipeline's files by path, without the manifest."""
    names: tuple[object, ...]
    """Names that the content itself gives to the pipeline, the preferred name first. They may be invalid names."""


def read_pipeline(location: str, name: str | None = None) -> tuple[str, dict[str, bytes]]:
    """Read a pipeline from a zip file, a folder, or an http(s) or file URL; return its name and files.

    The pipeline must be at the top of the archive or folder, or in the only folder there. `name` replaces the
    pipeline's own name. Raises `StoreError` if the location cannot be read, does not contain a pipeline, or if the
    pipeline's files differ from its manifest.
    """
    if is_url(location) and not is_file_url(location):
        scheme = split_url(location).scheme.lower()
        if scheme not in ("http", "https"):
            raise StoreError(
                f"{shown_url(location)}: a pipeline comes from a file, a folder, or an http(s) or file URL"
            )
        where = shown_url(location)
        content = _unpack(download(location), where)
        return name or _own_name(where, content, Path(unquote(split_url(location).path)).stem), content.files
    path = Path(file_path(location) if is_file_url(location) else location)
    if path.is_dir():
        content = _checked(_read_folder(path), str(path))
        return name or _own_name(str(path), content, path.resolve().name), content.files
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: neither a file nor a folder")
    try:
        with path.open("rb") as file:
            archive = read_archive_file(file, str(path))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
    content = _unpack(archive, str(path))
    return name or _own_name(str(path), content, path.stem), content.files


def read_archive(content: bytes, where: str) -> dict[str, bytes]:
    """Return the files of the pipeline in a zip archive.

    The pipeline must be at the top of the archive, or in the archive's only folder.
    """
    return _unpack(content, where).files


def archive_bytes(snapshot: Snapshot) -> bytes:
    """Return a zip archive of a pipeline with a manifest. The manifest names the pipeline.

    The archive has the pipeline's files at its top, like the archives of public model databases. Other programs
    unpack such an archive into a folder that they name after the pipeline. Archives of equal files have equal bytes.
    Raises `StoreError` if a file is missing or damaged.
    """
    snapshot.check_complete()
    names = snapshot.names if snapshot.manifest is None else snapshot.manifest.files
    files = dict(snapshot.read_many(sorted(set(names) - {MANIFEST_FILE})))
    files[MANIFEST_FILE] = make_manifest(files, snapshot.pipeline).encode()
    return zip_bytes(files)


def _unpack(content: bytes, where: str) -> _Content:
    """Return the checked content of a zip archive, or raise `StoreError`."""
    files = read_zip(content, where, max_files=MAX_PIPELINE_FILES, max_total_bytes=MAX_PIPELINE_BYTES)
    return _checked(files, where)


def _checked(files: dict[str, bytes], where: str) -> _Content:
    """Check the files of an archive or a folder, and return them as the content of a pipeline.

    Raises `StoreError` if the files are not a pipeline, or if they differ from the manifest.
    """
    folder = None
    tops = {name.partition("/")[0] for name in files}
    if METADATA_FILE not in files and len(tops) == 1 and f"{(top := min(tops))}/{METADATA_FILE}" in files:
        folder = top
        files = {name.removeprefix(f"{top}/"): data for name, data in files.items()}
    if METADATA_FILE not in files:
        raise StoreError(f"{where}: not a pipeline: no {METADATA_FILE} at its top or in its only folder")
    manifest = read_manifest(files[MANIFEST_FILE], where) if MANIFEST_FILE in files else None
    snapshot = Snapshot("", None, where, manifest, frozenset(files), lambda name, _: files[name])
    snapshot.check_complete()
    for name in sorted(files):
        snapshot.read(name)
    if not count_models(snapshot):
        raise StoreError(
            f"{where}: not a pipeline: no model file "
            "<source>/<AbsPower or DynPower>/<feature group>/<Trainer>_<node type>.zip"
        )
    files = {name: data for name, data in files.items() if name != MANIFEST_FILE}
    check_documents(files, where)
    in_manifest = None if manifest is None else manifest.pipeline
    return _Content(files, (folder, in_manifest, decode_object(files[METADATA_FILE]).get("name")))


def _own_name(where: str, content: _Content, file_name: str) -> str:
    """Return the name of an imported pipeline.

    Up to four names are tried, and the first one that is allowed for a pipeline is returned. The first is the name of
    the pipeline's folder, if this folder is the only entry of the imported file or folder. The second is the name in
    the manifest, the third `name` in the metadata, and the last the name of the imported file or folder.
    """
    for name in (*content.names, file_name):
        if isinstance(name, str) and is_name(name):
            return name
    raise StoreError(f"{where}: it has no name that is allowed for a pipeline; pass a name with --name")


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
                data = read_up_to(file, limit + 1)
            if len(data) > limit:
                raise StoreError(
                    f"{path}: the file is larger than {MAX_FILE_BYTES} bytes, or the whole folder is larger than "
                    f"{MAX_PIPELINE_BYTES} bytes"
                )
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
