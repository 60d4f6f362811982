"""The unix sockets that the estimator listens on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from kepler_core.errors import UsageError

DEFAULT_PATHS = ("/tmp/estimator.sock", "/tmp/estimator.socket")  # noqa: S108 - Kepler always uses the first path
SOCKET_MODE = 0o660
_BACKLOG = 4096
_PROBE_TIMEOUT_SECONDS = 2.0
_LOCK_TIMEOUT_SECONDS = 10.0
_LOCK_POLL_SECONDS = 0.02


@attrs.frozen(eq=False)
class Listening:
    """A unix socket that the estimator listens on, and the socket file that clients connect to."""

    listener: socket.socket
    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the socket file, so that no new client can connect.

        If another process has replaced the socket file in the meantime, its file is not removed.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self.path).st_ino == self.inode:
                self.path.unlink()

    def close(self) -> None:
        """Remove the socket file and stop listening."""
        self.remove()
        self.listener.close()


def listen(paths: Iterable[str]) -> list[Listening]:
    """Listen on all paths. If listening on one path fails, listen on no path.

    Replaces socket files that a killed process has left behind. Raises `UsageError` if another process
    listens on a path, or if there is a file at the path that is not a socket.
    """
    sockets: list[Listening] = []
    try:
        for path in paths:
            # Two paths lead to the same socket file if one path is a symbolic link to the other: listen there once.
            if os.path.realpath(path) not in (os.path.realpath(listening.path) for listening in sockets):
                sockets.append(_listen(Path(path)))
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def _listen(path: Path) -> Listening:
    # Without the lock, two processes could start at the same time: A finds an old socket file; B replaces this file by
    # its own socket file; A removes the file of B; and no client can connect to B.
    with _locked(path):
        _remove_stale(path)
        return _bind(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from listening on the path: lock the file `<path>.lock`, and remove this file at the end.

    Raises `UsageError` if another process has the lock for longer than `_LOCK_TIMEOUT_SECONDS`.
    """
    lock = Path(f"{path}.lock")
    end = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the lock file between the calls of `open` and `flock`. The lock on a
            # removed file has no effect, because a third process can create and lock a new file at the path.
            if lock.stat(follow_symlinks=False).st_ino == os.fstat(descriptor).st_ino:
                break
        except (BlockingIOError, FileNotFoundError):
            if time.monotonic() >= end:
                os.close(descriptor)
                raise UsageError(f"cannot listen on {path}: another process has locked {lock}") from None
        os.close(descriptor)
        time.sleep(_LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _bind(path: Path) -> Listening:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode is set by a umask, because other users could connect between `bind` and a later `chmod`.
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return Listening(listener, path, os.lstat(path).st_ino)


def _remove_stale(path: Path) -> None:
    """Remove a socket file that no process listens on, or a symbolic link without a target.

    Raises `UsageError` if there is any other file at the path.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    if stat.S_ISLNK(mode) and not path.exists():
        path.unlink()  # a symbolic link whose target no longer exists
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise UsageError(f"cannot listen on {path}: there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    raise UsageError(f"cannot listen on {path}: another process listens there")
