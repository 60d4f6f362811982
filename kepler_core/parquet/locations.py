"""The files of a recording in a local folder or at a URL that fsspec supports, e.g. s3://bucket/folder.

fsspec takes credentials and endpoints from the environment of the process that reads: on a Dask cluster, from the
environment of each worker.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from kepler_core.errors import MissingExtraError, RecordingError
from kepler_core.messages import reason_of
from kepler_core.urls import file_path, is_file_url, is_url, shown_url, without_secrets

READ_TIMEOUT_SECONDS = 60
"""If no byte of an answer from S3 arrives for this time, the read fails."""
_CONNECT_TIMEOUT_SECONDS = 10
_REASON_CHARACTERS = 200


@attrs.frozen
class StoredFile:
    """A file of a recording."""

    location: str
    """Path or URL of the file."""
    name: str
    """Path below the recording's folder; "" if the recording is this file."""
    size: int


def as_location(source: str | Path) -> str:
    """Return a path or URL of a recording without a trailing slash; a file URL becomes a path.

    Raises `RecordingError` if a URL contains a password, a query or a fragment.
    """
    location = str(source).rstrip("/")
    if is_file_url(location):
        return file_path(location)
    if is_url(location) and shown_url(location) != location:
        raise RecordingError(
            "a recording's URL has no user, password, ? or #; credentials come from the environment",
            document=shown_url(location),
        )
    return location


def stored_files(location: str, suffix: str) -> tuple[bool, list[StoredFile]]:
    """Return whether a location is a folder, and the files to read.

    If it is a folder, these are its files with the given suffix, without hidden files. If it is a file, this is the
    file itself. Raises `RecordingError` if there is no such file or folder.
    """
    if is_url(location):
        return _remote_files(location, suffix)
    path = Path(location)
    if not path.exists():
        raise RecordingError("No such file or directory", document=location)
    if not path.is_dir():
        return False, [StoredFile(location, "", path.stat().st_size)]
    files = sorted(file for file in path.rglob(f"*{suffix}") if file.is_file() and not file.name.startswith("."))
    return True, [StoredFile(str(f), f.relative_to(path).as_posix(), f.stat().st_size) for f in files]


def opened_file(location: str) -> AbstractContextManager[BinaryIO]:
    """Open a file of a recording; `OSError` if it cannot be opened."""
    if not is_url(location):
        return Path(location).open("rb")
    filesystem, path = _filesystem(location)
    file: AbstractContextManager[BinaryIO] = filesystem.open(path, "rb")
    return file


def _remote_files(location: str, suffix: str) -> tuple[bool, list[StoredFile]]:
    filesystem, root = _filesystem(location)
    try:
        infos = filesystem.find(root, detail=True)
    except Exception as error:  # file systems of fsspec raise exceptions of different libraries
        reason = without_secrets(reason_of(error, _REASON_CHARACTERS), [])
        raise RecordingError(f"cannot be read: {reason}", document=location) from error
    sizes = {str(name): int(info["size"] or 0) for name, info in sorted(infos.items())}
    if not sizes:
        raise RecordingError("No such file or directory", document=location)
    if list(sizes) == [root]:
        return False, [StoredFile(location, "", sizes[root])]
    names = {name.removeprefix(root).lstrip("/"): size for name, size in sizes.items()}
    chosen = [name for name in names if name.endswith(suffix) and not name.rpartition("/")[2].startswith(".")]
    return True, [StoredFile(f"{location}/{name}", name, names[name]) for name in chosen]


def _filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    protocol = url.partition("://")[0].lower()
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a recording at {url}", "s3", "fsspec") from error
    timeouts = {"connect_timeout": _CONNECT_TIMEOUT_SECONDS, "read_timeout": READ_TIMEOUT_SECONDS}
    options = {"use_listings_cache": False, "config_kwargs": timeouts} if protocol in ("s3", "s3a") else {}
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        if protocol in ("s3", "s3a"):
            raise MissingExtraError(f"a recording at {url}", "s3", "s3fs") from error
        raise RecordingError(f"needs a package: {reason_of(error, _REASON_CHARACTERS)}", document=url) from error
    except ValueError as error:
        raise RecordingError(reason_of(error, _REASON_CHARACTERS), document=url) from error
    return filesystem, str(path).rstrip("/")
