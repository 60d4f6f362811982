"""A model store in a local folder.

    <store>/<pipeline>                  a symbolic link to the current version of the pipeline
    <store>/.versions/<pipeline>/<n>/   the files of version n
    <store>/.versions/<pipeline>/<n>.index  the index of version n (`serving_index`), if it has many models
    <store>/.decisions/<pipeline>/      the decisions about the pipeline, one file each
    <store>/.staging/                   the version that is being written
    <store>/.readers                    the locks of versions that are being read (`version_locks`)

Publishing writes a version to `.staging`, flushes it to the disk, renames it into `.versions`, and then
renames a new link over the pipeline's old link. A reader resolves the link once, and then reads all
files from this version. If a writer is killed, the current version stays as it was.
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
from typing import TYPE_CHECKING, Any

from kepler_core.atomic_files import flush_folder, make_folders, write_flushed, write_tree
from kepler_core.errors import NameTakenError, StoreError, VersionTakenError
from kepler_core.models.power_model import MAX_FILE_BYTES, METADATA_FILE
from kepler_core.names import is_name
from kepler_core.store.decisions import DECISIONS, decision_files, is_decision, outdated, read_decision
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Pruned, Store, checked_name
from kepler_core.store.version_locks import VersionLock, VersionLocks

if TYPE_CHECKING:
    from kepler_core.store.serving_index import IndexedModels

VERSIONS = ".versions"
STAGING = ".staging"
LOCK = ".lock"
READERS = ".readers"

_READ_ATTEMPTS = 10
"""Maximum number of attempts to lock the current version. An attempt fails if the version is removed meanwhile."""

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class LocalStore(Store):
    """A store in a folder of the local file system."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.location = str(root)
        self._locks = VersionLocks(self.root / READERS)

    # --- reading ---

    def pipelines(self) -> list[str]:
        try:
            entries = sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from error
        # List an incomplete pipeline, too. The program that reads it gets an error with the reason.
        return [entry.name for entry in entries if is_name(entry.name) and _is_folder_or_link(entry)]

    def exists(self) -> bool:
        return self.root.is_dir()

    def path(self, pipeline: str) -> Path:
        """Return the folder of a pipeline's current version, with links resolved."""
        link = self.root / checked_name(pipeline)
        try:
            return link.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: the link leads to itself
            raise self.no_such_pipeline(pipeline) from error

    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        version, folder, lock = self._locked(pipeline, version)

        # The function `read` has the lock as a default argument. So the lock is held as long as the function exists.
        def read(name: str, max_bytes: int, lock: VersionLock | None = lock) -> bytes:
            return _read(f"{folder}/{name}", max_bytes)

        # Read the manifest first and list the files second: the text of a large manifest takes megabytes of memory.
        # This memory is free again before the list of files needs memory.
        has_manifest = (path := folder / MANIFEST_FILE).is_file() and not path.is_symlink()
        manifest = read_manifest(read(MANIFEST_FILE, MAX_FILE_BYTES), str(folder)) if has_manifest else None
        names = frozenset(_file_names(str(folder)))
        if METADATA_FILE not in names:
            raise StoreError(f"{folder}: no {METADATA_FILE}: half copied, or not a pipeline")
        if version is not None and manifest is None:
            raise StoreError(f"{folder}: no {MANIFEST_FILE}: damaged, because each published version has this file")
        if manifest is not None:
            # use the manifest's string objects as names, so that each name is in memory only once
            names = frozenset((*(name for name in manifest.files if name in names), *(names - manifest.files.keys())))
        return Snapshot(pipeline, version, str(folder), manifest, names, read, folder)

    def _locked(self, pipeline: str, version: int | None) -> tuple[int | None, Path, VersionLock | None]:
        """Lock a version, by default the current version, for reading. Return its number and folder, and the lock."""
        if version is not None:
            lock = self._locks.read(pipeline, version) if is_name(pipeline) else None
            if version not in self.versions(pipeline) or lock is None:
                raise self.no_such_version(pipeline, version)
            return version, (self.root / VERSIONS / pipeline / str(version)).resolve(), lock
        for _ in range(_READ_ATTEMPTS):
            folder = self.path(pipeline)
            if (number := self._version_of(pipeline, folder)) is None:
                return None, folder, None
            # If version `number` was removed in the meantime, another version is current now. Try again.
            if (lock := self._locks.read(pipeline, number)) is not None and folder.is_dir():
                return number, folder, lock
        raise StoreError(f"{self.root}: the current version of {pipeline} is replaced again and again")

    def indexed_models(self, pipeline: str) -> IndexedModels | None:
        version, folder, lock = self._locked(pipeline, None)
        path = _index_path(folder)
        if version is None or path.is_symlink() or not path.is_file():
            return None
        from kepler_core.store.serving_index import MAX_INDEX_BYTES, UnusableIndexError, decode_index

        def read(name: str, max_bytes: int, lock: VersionLock | None = lock) -> bytes:
            return _read(f"{folder}/{name}", max_bytes)

        snapshot = Snapshot(pipeline, version, str(folder), None, frozenset(), read, folder)
        manifest = read(MANIFEST_FILE, MAX_FILE_BYTES)
        try:
            content = _read(str(path), MAX_INDEX_BYTES)
        except StoreError as error:  # the index is optional: the version can be read without it
            raise UnusableIndexError(str(error)) from error
        return decode_index(content, manifest, snapshot)

    def signature(self, pipeline: str) -> str:
        folder = self.path(pipeline)
        if self._version_of(pipeline, folder) is not None:
            return str(folder)  # A published version never changes, so the name of its folder identifies its content.
        digest = hashlib.sha256()
        for name in sorted(_file_names(str(folder))):
            try:
                status = (folder / name).stat()
            except OSError:
                continue  # the file was removed after it was listed, so the next call returns another text
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
        from kepler_core.store.serving_index import make_index

        checked_name(pipeline)
        link = self.root / pipeline
        try:
            with self._writing() as staging:
                _refuse_foreign(link)
                number = self.next_version(pipeline)
                if version not in (None, number):
                    raise VersionTakenError(pipeline, number - 1)
                files = {**files, MANIFEST_FILE: make_manifest(files).encode()}
                index = make_index(pipeline, number, files)
                write_tree(staging, files)
                versions = self.root / VERSIONS / pipeline
                make_folders(versions)
                os.rename(staging, versions / str(number))
                flush_folder(versions)
                staging.mkdir()
                try:
                    if index is not None:
                        write_flushed(staging / "index", index)
                        os.replace(staging / "index", _index_path(versions / str(number)))
                        flush_folder(versions)
                    self._make_current(pipeline, number, staging)
                except BaseException:
                    # Remove the new version, because the caller gets an error instead of the version's number.
                    # But keep the version if it is current: an interruption may arrive after the link was replaced.
                    if not (link.is_symlink() and os.readlink(link) == _link_target(pipeline, number)):
                        shutil.rmtree(versions / str(number), ignore_errors=True)
                        _index_path(versions / str(number)).unlink(missing_ok=True)
                    raise
                return number
        except ValueError as error:
            raise StoreError(f"cannot publish {pipeline}: {error}") from error
        except OSError as error:
            raise _write_error(self.root, error) from error

    def _roll_back(self, pipeline: str, version: int) -> None:
        try:
            with self._writing() as staging:
                if version not in self.versions(pipeline):
                    raise self.no_such_version(pipeline, version)
                self._make_current(pipeline, version, staging)
        except OSError as error:
            raise _write_error(self.root, error) from error

    def prune(self, pipeline: str, keep: int, *, dry_run: bool = False) -> Pruned:
        try:
            if dry_run:
                return self._prune(pipeline, keep, None)
            with self._writing() as staging:
                return self._prune(pipeline, keep, staging)
        except OSError as error:
            raise StoreError(f"cannot remove versions from the store {self.root}: {error.strerror or error}") from error

    def _prune(self, pipeline: str, keep: int, staging: Path | None) -> Pruned:
        """Remove old versions. If `staging` is None, remove nothing, but return what would be removed."""
        current = self.current_version(pipeline)
        versions = self.versions(pipeline)
        removed, in_use = [], []
        for version in versions[:-keep] if current is not None else []:
            if version == current:
                continue
            if (
                self._locks.is_read(pipeline, version)
                if staging is None
                else not self._remove(pipeline, version, staging)
            ):
                in_use.append(version)
            else:
                removed.append(version)
        return Pruned(removed, [version for version in versions if version not in removed], in_use)

    def _remove(self, pipeline: str, version: int, staging: Path) -> bool:
        """Remove a version unless it is being read, and return whether it was removed."""
        lock = self._locks.exclusive(pipeline, version)
        if lock is None:
            return False
        with lock:
            # After the renaming, the version does not exist any more. If this process is killed before it has removed
            # all files, the next writer removes `.staging`.
            folder = self.root / VERSIONS / pipeline / str(version)
            _index_path(folder).unlink(missing_ok=True)
            os.rename(folder, staging / str(version))
        shutil.rmtree(staging / str(version), ignore_errors=True)
        return True

    def record_decision(self, pipeline: str, decision: Mapping[str, Any], page: bytes | None = None) -> None:
        folder = self.root / DECISIONS / checked_name(pipeline)
        files = decision_files(pipeline, decision, page)
        try:
            with self._writing() as staging:
                for name, content in files.items():
                    write_flushed(staging / name, content)
                make_folders(folder)
                for name in files:
                    os.replace(staging / name, folder / name)
                flush_folder(folder)
                for name in outdated(os.listdir(folder)):
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
        decisions = (read_decision(_read(f"{folder}/{name}", MAX_FILE_BYTES)) for name in names)
        return [decision for decision in decisions if decision is not None]

    def check_name(self, pipeline: str) -> None:
        """Raise `NameTakenError` if a folder that does not come from Kepler Core has the pipeline's name."""
        _refuse_foreign(self.root / checked_name(pipeline))

    def check_writable(self, pipeline: str) -> None:
        """Raise `StoreError` if the pipeline cannot be published. The check creates the store's folder."""
        self.check_name(pipeline)
        try:
            with self._writing() as staging:
                write_flushed(staging / "probe", b"")
        except OSError as error:
            raise _write_error(self.root, error) from error

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """Lock the store against other writers and yield an empty staging folder."""
        make_folders(self.root)
        with (self.root / LOCK).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases the lock if this process dies
            (self.root / READERS).touch()
            staging_root = self.root / STAGING
            # This process holds the lock, so all files in `.staging` were left behind by writers that were killed.
            shutil.rmtree(staging_root, ignore_errors=True)
            staging = staging_root / uuid.uuid4().hex
            staging.mkdir(parents=True)
            try:
                yield staging
            finally:
                shutil.rmtree(staging_root, ignore_errors=True)
                # Unlock the file before it is closed. If this process has forked meanwhile, the child also has the file
                # open, so closing the file here would not release the lock.
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _make_current(self, pipeline: str, version: int, staging: Path) -> None:
        # the link's target is relative to the store's folder, so that the store can be moved
        os.symlink(_link_target(pipeline, version), staging / "link")
        os.replace(staging / "link", self.root / pipeline)
        flush_folder(self.root)


def _index_path(folder: Path) -> Path:
    """Return the path of a version's index. `folder` is the folder of the version."""
    return folder.with_name(f"{folder.name}.index")


def _is_folder_or_link(path: Path) -> bool:
    try:
        # is_symlink() comes first: is_dir() follows the link, and fails if the name of the link's target is too long
        return path.is_symlink() or path.is_dir()
    except OSError:
        return False


def _link_target(pipeline: str, version: int) -> str:
    return os.path.join(VERSIONS, pipeline, str(version))


def _refuse_foreign(link: Path) -> None:
    """Raise `NameTakenError` if the pipeline's name is taken by a folder that does not come from Kepler Core."""
    if link.exists() and not link.is_symlink():
        raise NameTakenError(str(link))


def _write_error(root: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write the store {root}: {error.strerror or error}; the store is as it was")


def _file_names(folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to the folder.

    Symbolic links are left out, because they may lead to any place in the file system.
    """
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


def _read(path: str, max_bytes: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size > max_bytes:
                raise StoreError(f"{path}: larger than {max_bytes} bytes")
            # Use a buffer of exactly the file's size. For thousands of small files, larger buffers are slow.
            content = os.read(descriptor, size)
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    return content
