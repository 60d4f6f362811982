"""A model store in a local folder.

    <store>/<pipeline>                  a symbolic link to the current version of the pipeline
    <store>/.versions/<pipeline>/<n>/   the files of version n
    <store>/.decisions/<pipeline>/      the decisions about the pipeline, one file each
    <store>/.staging/                   the version that is being written

Publishing writes a version to `.staging`, flushes it to the disk, renames it into `.versions`, and
then renames a new link over the old one. A reader resolves the link once and reads one version. If a
writer is killed, the current version stays as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.atomic_files import flush_folder
from kepler_core.errors import StoreError, VersionTakenError
from kepler_core.models.power_model import MAX_FILE_BYTES, METADATA_FILE
from kepler_core.names import is_name
from kepler_core.store.decisions import DECISIONS, MAX_DECISIONS, decision_name, is_decision, read_decision
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store, checked_name

VERSIONS = ".versions"
STAGING = ".staging"
LOCK = ".lock"

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class LocalStore(Store):
    """A store in a folder of the local file system."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.location = str(root)

    # --- reading ---

    def pipelines(self) -> list[str]:
        try:
            entries = sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from error
        # an incomplete pipeline is listed too: reading it raises an error with the reason
        return [entry.name for entry in entries if is_name(entry.name) and _is_folder_or_link(entry)]

    def exists(self) -> bool:
        return self.root.is_dir()

    def path(self, pipeline: str) -> Path:
        """Return the folder of a pipeline's current version, with links resolved."""
        link = self.root / checked_name(pipeline)
        try:
            return link.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
            raise self.no_such_pipeline(pipeline) from error

    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        if version is None:
            folder = self.path(pipeline)
            version = self._version_of(pipeline, folder)
        elif version in self.versions(pipeline):
            folder = (self.root / VERSIONS / pipeline / str(version)).resolve()
        else:
            raise self.no_such_version(pipeline, version)

        def read(name: str) -> bytes:
            return _read(f"{folder}/{name}")

        # Read before the names are listed: a large manifest's text takes megabytes, freed by then.
        has_manifest = (path := folder / MANIFEST_FILE).is_file() and not path.is_symlink()
        manifest = read_manifest(read(MANIFEST_FILE), str(folder)) if has_manifest else None
        names = frozenset(_file_names(str(folder)))
        if METADATA_FILE not in names:
            raise StoreError(f"{folder}: no {METADATA_FILE}: half copied, or not a pipeline")
        if version is not None and manifest is None:
            raise StoreError(f"{folder}: no {MANIFEST_FILE}, which every published version has: damaged")
        if manifest is not None:
            # use the manifest's strings, so that memory holds each name once
            names = frozenset((*(name for name in manifest.files if name in names), *(names - manifest.files.keys())))
        return Snapshot(pipeline, version, str(folder), manifest, names, read, folder)

    def signature(self, pipeline: str) -> str:
        folder = self.path(pipeline)
        if self._version_of(pipeline, folder) is not None:
            return str(folder)  # published versions never change
        digest = hashlib.sha256()
        for name in sorted(_file_names(str(folder))):
            try:
                status = (folder / name).stat()
            except OSError:
                continue  # removed since it was listed: the next signature differs
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def versions(self, pipeline: str) -> list[int]:
        folder = self.root / VERSIONS / checked_name(pipeline)
        try:
            return sorted(int(entry.name) for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error

    def current_version(self, pipeline: str) -> int | None:
        return self._version_of(pipeline, self.path(pipeline))

    def _version_of(self, pipeline: str, folder: Path) -> int | None:
        versions = (self.root / VERSIONS / pipeline).resolve()
        return int(folder.name) if folder.parent == versions and _NUMBER.fullmatch(folder.name) else None

    # --- writing ---

    def _publish(self, pipeline: str, files: Mapping[str, bytes], version: int | None) -> int:
        checked_name(pipeline)
        link = self.root / pipeline
        try:
            with self._writing() as staging:
                _refuse_foreign(link)
                number = self.next_version(pipeline)
                if version not in (None, number):
                    raise VersionTakenError(pipeline, number - 1)
                _write_tree(staging, {**files, MANIFEST_FILE: make_manifest(files).encode()})
                versions = self.root / VERSIONS / pipeline
                versions.mkdir(parents=True, exist_ok=True)
                os.rename(staging, versions / str(number))
                flush_folder(versions)
                staging.mkdir()
                try:
                    self._make_current(pipeline, number, staging)
                except BaseException:
                    # Remove the version, because the caller gets an error instead of its number. But an
                    # interruption may arrive just after it became current: then it stays.
                    if not (link.is_symlink() and os.readlink(link) == _link_target(pipeline, number)):
                        shutil.rmtree(versions / str(number), ignore_errors=True)
                    raise
                return number
        except OSError as error:
            raise _write_error(self.root, error) from error

    def _roll_back(self, pipeline: str, version: int) -> None:
        if version not in self.versions(pipeline):
            raise self.no_such_version(pipeline, version)
        try:
            with self._writing() as staging:
                self._make_current(pipeline, version, staging)
        except OSError as error:
            raise _write_error(self.root, error) from error

    def record_decision(self, pipeline: str, decision: Mapping[str, Any]) -> None:
        folder = self.root / DECISIONS / checked_name(pipeline)
        try:
            with self._writing() as staging:
                _write_file(staging / "decision", msgspec.json.encode(decision))
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(staging / "decision", folder / decision_name())
                flush_folder(folder)
                for name in sorted(filter(is_decision, os.listdir(folder)))[:-MAX_DECISIONS]:
                    (folder / name).unlink()
        except OSError as error:
            raise _write_error(self.root, error) from error

    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        folder = self.root / DECISIONS / checked_name(pipeline)
        try:
            names = sorted(filter(is_decision, os.listdir(folder)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error
        decisions = (read_decision(_read(f"{folder}/{name}")) for name in names)
        return [decision for decision in decisions if decision is not None]

    def check_writable(self, pipeline: str) -> None:
        """Raise `StoreError` if the pipeline cannot be published. Creates the store's folder."""
        _refuse_foreign(self.root / checked_name(pipeline))
        try:
            with self._writing() as staging:
                _write_file(staging / "probe", b"")
        except OSError as error:
            raise _write_error(self.root, error) from error

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Lock the store against other writers and yield an empty staging folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it if this process dies
            staging_root = self.root / STAGING
            # with the lock held, anything in here was left behind by a writer that was killed
            shutil.rmtree(staging_root, ignore_errors=True)
            staging = staging_root / uuid.uuid4().hex
            staging.mkdir(parents=True)
            try:
                yield staging
            finally:
                shutil.rmtree(staging_root, ignore_errors=True)
                # A process forked meanwhile shares the open file, so closing alone would not unlock it.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _make_current(self, pipeline: str, version: int, staging: Path) -> None:
        # the link is relative to the store, so that the store can be moved
        os.symlink(_link_target(pipeline, version), staging / "link")
        os.replace(staging / "link", self.root / pipeline)
        flush_folder(self.root)


def _is_folder_or_link(path: Path) -> bool:
    try:
        # links first: following one fails if its target's name is too long
        return path.is_symlink() or path.is_dir()
    except OSError:
        return False


def _link_target(pipeline: str, version: int) -> str:
    return os.path.join(VERSIONS, pipeline, str(version))


def _refuse_foreign(link: Path) -> None:
    """Raise `StoreError` if the pipeline's name is that of a folder that Kepler Core did not publish."""
    if link.exists() and not link.is_symlink():
        raise StoreError(f"{link} is a folder that was not published by kepler-model; choose another name")


def _write_error(root: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write the store {root}: {error.strerror or error}; it is as it was")


def _file_names(folder: str) -> list[str]:
    """Return the paths of all files below a folder. Links are not followed: they may lead anywhere."""
    names = []
    remaining = [""]
    while remaining:
        below = remaining.pop()
        try:
            with os.scandir(f"{folder}/{below}") as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        names.append(below + entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        remaining.append(f"{below}{entry.name}/")
        except OSError as error:
            raise StoreError(f"{folder}/{below}: {error.strerror}") from error
    return names


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                raise StoreError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            # a buffer of exactly the file's size: larger ones are slow for thousands of small files
            content = os.read(descriptor, size)
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return content


def _write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by path below a folder, and flush them and their folders to the disk."""
    folders = {folder}
    for name, content in files.items():
        path = folder / name
        if name.startswith("/") or ".." in Path(name).parts:
            raise StoreError(f"{name!r} is outside of the pipeline")
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = path.parent
        while parent not in folders:
            folders.add(parent)
            parent = parent.parent
        _write_file(path, content)
    for parent in folders:
        flush_folder(parent)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
