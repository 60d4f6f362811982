"""The unix sockets that the estimator listens on."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import attrs

from kepler_core.errors import UsageError

DEFAULT_PATHS = ("/tmp/estimator.sock", "/tmp/estimator.socket")  # noqa: S108 - Kepler's source fixes the first
SOCKET_MODE = 0o660
_BACKLOG = 4096
_PROBE_TIMEOUT_SECONDS = 2.0


@attrs.frozen(eq=False)
class Listening:
    """A listening socket and its file."""

    listener: socket.socket
    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the socket's file, so that no new client can connect.

        A file that another process has put there meanwhile stays.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self.path).st_ino == self.inode:
                self.path.unlink()

    def close(self) -> None:
        """Remove the file and stop listening."""
        self.remove()
        self.listener.close()


def listen(paths: Iterable[str]) -> list[Listening]:
    """Listen on each path, or on none of them.

    Replaces socket files that a killed process left. Raises `UsageError` if another process listens on
    a path, or if the path is a file of another kind.
    """
    sockets: list[Listening] = []
    try:
        for path in paths:
            # One path may be a link to the other.
            if os.path.realpath(path) not in (os.path.realpath(listening.path) for listening in sockets):
                sockets.append(_listen(Path(path)))
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    return sockets


def _listen(path: Path) -> Listening:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~SOCKET_MODE)  # a chmod after `bind` would be too late: others could connect before it
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
    """Remove a socket file or link that a dead process left. Raises `UsageError` for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    if stat.S_ISLNK(mode) and not path.exists():
        path.unlink()  # a link to a socket that no longer exists
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
