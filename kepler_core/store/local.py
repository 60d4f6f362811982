"""A model store in a local folder.

    <store>/<pipeline>                  a link to the current version of the pipeline:
    <store>/.versions/<pipeline>/<n>/   its files
    <store>/.decisions/<pipeline>/      what was decided about it, one file each
    <store>/.staging/                   what is being written

Publishing writes a version to `.staging`, flushes it to the disk, renames it into `.versions` and
then renames a new link over the old one. A reader resolves the link once and sees one version; a
writer that is killed leaves the current version as it was.
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
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.store import (
    DECISIONS,
    MOST_DECISIONS,
    Snapshot,
    Store,
    checked_name,
    decision_name,
    is_decision,
    read_decision,
)

VERSIONS = ".versions"
STAGING = ".staging"
LOCK = ".lock"

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class LocalStore(Store):
    """A folder of pipelines."""

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
        # one that is half copied is there, and says so when it is read
        return [e.name for e in entries if is_name(e.name) and (e.is_dir() or e.is_symlink())]

    def exists(self) -> bool:
        return self.root.is_dir()

    def path(self, pipeline: str) -> Path:
        """The folder of a pipeline's current version, resolved; it stays one version while in use."""
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

        # before the names, so that its text is gone when they come: a large pipeline's takes megabytes
        has_manifest = (path := folder / MANIFEST_FILE).is_file() and not path.is_symlink()
        manifest = read_manifest(read(MANIFEST_FILE), str(folder)) if has_manifest else None
        names = frozenset(_names(str(folder)))
        if METADATA_FILE not in names:
            raise StoreError(f"{folder}: no {METADATA_FILE}: half copied, or not a pipeline")
        if version is not None and manifest is None:
            raise StoreError(f"{folder}: no {MANIFEST_FILE}, which every published version has: damaged")
        if manifest is not None:
            # and the same texts are not kept twice
            names = frozenset((*(name for name in manifest.files if name in names), *(names - manifest.files.keys())))
        return Snapshot(pipeline, version, str(folder), manifest, names, read, folder)

    def signature(self, pipeline: str) -> str:
        folder = self.path(pipeline)
        if self._version_of(pipeline, folder) is not None:
            return str(folder)  # what was published is never changed
        digest = hashlib.sha256()
        for name in sorted(_names(str(folder))):
            try:
                found = (folder / name).stat()
            except OSError:
                continue  # gone since it was listed: the next signature is another one
            digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
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
                    self._point(pipeline, number, staging)
                except BaseException:
                    # or the version could be rolled back to although nobody was told of it; but an
                    # interruption may come when it has just become current
                    if not (link.is_symlink() and os.readlink(link) == _target(pipeline, number)):
                        shutil.rmtree(versions / str(number), ignore_errors=True)
                    raise
                return number
        except OSError as error:
            raise _store_error(self.root, error) from error

    def _roll_back(self, pipeline: str, version: int) -> None:
        if version not in self.versions(pipeline):
            raise self.no_such_version(pipeline, version)
        try:
            with self._writing() as staging:
                self._point(pipeline, version, staging)
        except OSError as error:
            raise _store_error(self.root, error) from error

    def record_decision(self, pipeline: str, decision: Mapping[str, Any]) -> None:
        folder = self.root / DECISIONS / checked_name(pipeline)
        try:
            with self._writing() as staging:
                _write_file(staging / "decision", msgspec.json.encode(decision))
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(staging / "decision", folder / decision_name())
                flush_folder(folder)
                for name in sorted(filter(is_decision, os.listdir(folder)))[:-MOST_DECISIONS]:
                    (folder / name).unlink()
        except OSError as error:
            raise _store_error(self.root, error) from error

    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        folder = self.root / DECISIONS / checked_name(pipeline)
        try:
            names = sorted(filter(is_decision, os.listdir(folder)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error
        read = (read_decision(_read(f"{folder}/{name}")) for name in names)
        return [decision for decision in read if decision is not None]

    def check_writable(self, pipeline: str) -> None:
        """Makes the store's folder."""
        _refuse_foreign(self.root / checked_name(pipeline))
        try:
            with self._writing() as staging:
                _write_file(staging / "probe", b"")
        except OSError as error:
            raise _store_error(self.root, error) from error

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """A staging folder, with the store locked against other writers."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel whatever happens to us
            staging_root = self.root / STAGING
            # only a writer that was killed leaves something here: nobody else writes now
            shutil.rmtree(staging_root, ignore_errors=True)
            staging = staging_root / uuid.uuid4().hex
            staging.mkdir(parents=True)
            try:
                yield staging
            finally:
                shutil.rmtree(staging_root, ignore_errors=True)
                # a process that was forked meanwhile has the file open too, and would hold the lock
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _point(self, pipeline: str, version: int, staging: Path) -> None:
        # the target is relative to where the link ends up, so that a store can be moved
        os.symlink(_target(pipeline, version), staging / "link")
        os.replace(staging / "link", self.root / pipeline)
        flush_folder(self.root)


def _target(pipeline: str, version: int) -> str:
    return os.path.join(VERSIONS, pipeline, str(version))


def _refuse_foreign(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise StoreError(f"{link} is a folder that was not published by kepler-model; choose another name")


def _store_error(root: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write the store {root}: {error.strerror or error}; it is as it was")


def _names(folder: str) -> list[str]:
    """Paths of all files below a folder. Links below it are not followed: they may lead anywhere."""
    found = []
    left = [""]
    while left:
        below = left.pop()
        try:
            with os.scandir(f"{folder}/{below}") as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        found.append(below + entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        left.append(f"{below}{entry.name}/")
        except OSError as error:
            raise StoreError(f"{folder}/{below}: {error.strerror}") from error
    return found


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                raise StoreError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            # exactly as much as there is: a generous buffer for each of thousands of small files is slow
            content = os.read(descriptor, size)
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return content


def _write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    made = {folder}
    for name, content in files.items():
        path = folder / name
        if name.startswith("/") or ".." in Path(name).parts:
            raise StoreError(f"{name!r} is outside of the pipeline")
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = path.parent
        while parent not in made:
            made.add(parent)
            parent = parent.parent
        _write_file(path, content)
    for parent in made:
        flush_folder(parent)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
