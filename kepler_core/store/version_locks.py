"""Locks on versions of pipelines in a local store, so that no version is removed while a process reads it.

A reader of a version holds a shared lock on it. A process that removes a version needs an exclusive lock on it.
All locks are locks on single bytes of one file in the store's folder. Each version has its own byte. The
position of this byte is a digest of the pipeline's name and the version's number. So a process needs only one
file descriptor for the read locks of a store, however many versions it reads. The kernel releases the locks of
a process that dies.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import hashlib
import os
import struct
import threading
import weakref
from pathlib import Path

_TYPES = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
_CONFLICT = (errno.EAGAIN, errno.EACCES)
_LOCK_STRUCT = "hhqqi0q"
"""`struct flock` of Linux: type, origin of the position, position, length, process id."""


class VersionLock:
    """A lock that is held until the object is garbage-collected."""


class VersionLocks:
    """The locks of one `LocalStore` object."""

    def __init__(self, path: Path) -> None:
        """Create the object without opening `path`, the file whose bytes are locked."""
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._descriptor: int | None = None
        self._process = os.getpid()
        self._mutex = threading.Lock()
        self._readers: collections.Counter[int] = collections.Counter()
        """Number of this process's read locks on each byte of the lock file, by the position of the byte."""
        self._released: collections.deque[int] = collections.deque()
        """Positions of the locks whose objects were garbage-collected, but which are not yet released."""

    def read(self, pipeline: str, version: int) -> VersionLock | None:
        """Lock a version for reading. Return None if the version is being removed.

        If the store has no lock file or its file system has no locks, the returned object locks nothing.
        """
        lock = VersionLock()
        if os.getpid() != self._process:
            self._reset()  # after a fork, forget the locks and the file descriptor, which belong to the parent
        with self._mutex:
            descriptor = self._open()
            if descriptor is None:
                return lock
            position = _position(pipeline, version)
            if not self._readers[position]:
                try:
                    _set(descriptor, "read", position)
                except OSError as error:
                    return None if error.errno in _CONFLICT else lock
            self._readers[position] += 1
        # The garbage collector may call `_release` in any thread at any time, even in a thread that holds the mutex.
        # So `_release` never waits for the mutex.
        weakref.finalize(lock, self._release, position, self._process).atexit = False
        self._unlock_released()
        return lock

    def is_read(self, pipeline: str, version: int) -> bool:
        """Return whether a process holds a read lock on a version. Raises `OSError` if the file cannot be locked."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            query = struct.pack(_LOCK_STRUCT, fcntl.F_WRLCK, os.SEEK_SET, _position(pipeline, version), 1, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, query)
            return bool(struct.unpack(_LOCK_STRUCT, answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(descriptor)

    def exclusive(self, pipeline: str, version: int) -> ExclusiveLock | None:
        """Lock a version for its removal, or return None if a process holds a read lock on it.

        Raises `OSError` if the file cannot be locked.
        """
        # Open the file a second time. On the descriptor of the read locks, this lock would replace a read lock.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _set(descriptor, "write", _position(pipeline, version))
        except OSError as error:
            os.close(descriptor)
            if error.errno in _CONFLICT:
                return None
            raise
        return ExclusiveLock(descriptor)

    def _open(self) -> int | None:
        """Return the descriptor for read locks, or None if there is no lock file that can be opened."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            weakref.finalize(self, os.close, self._descriptor).atexit = False
        return self._descriptor

    def _release(self, position: int, process: int) -> None:
        if process == os.getpid():
            self._released.append(position)
            self._unlock_released()

    def _unlock_released(self) -> None:
        """Release the locks at the positions in `_released`. If another thread has the mutex, that thread does it."""
        while self._released and self._mutex.acquire(blocking=False):
            try:
                position = self._released.popleft()
                self._readers[position] -= 1
                if not self._readers[position]:
                    del self._readers[position]
                    assert self._descriptor is not None
                    _set(self._descriptor, "none", position)
            finally:
                self._mutex.release()


class ExclusiveLock:
    """An exclusive lock on a version, held during a `with` block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _position(pipeline: str, version: int) -> int:
    digest = hashlib.sha256(f"{pipeline}/{version}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _set(descriptor: int, kind: str, position: int) -> None:
    # F_OFD_SETLK sets a lock that belongs to the open file. (A lock of F_SETLK would belong to the process.) So the
    # locks of two open files conflict even within one process.
    lock = struct.pack(_LOCK_STRUCT, _TYPES[kind], os.SEEK_SET, position, 1, 0)
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
