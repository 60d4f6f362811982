"""Unix sockets to listen on."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import attrs

from kepler_core.errors import UsageError

DEFAULT_PATHS = ("/tmp/estimator.sock", "/tmp/estimator.socket")  # noqa: S108 - what Kepler dials
MODE = 0o660
_BACKLOG = 4096


@attrs.frozen(eq=False)
class Listening:
    """A socket and the file that it is known by."""

    listener: socket.socket
    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the file, if it is still this socket's: nobody new finds it."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self.path).st_ino == self.inode:
                self.path.unlink()

    def close(self) -> None:
        """Remove the file and stop listening."""
        self.remove()
        self.listener.close()


def listen(paths: Iterable[str]) -> list[Listening]:
    """Listen on each path. A file that a killed process left is replaced; `UsageError` where another
    process listens, or something else is there."""
    found: list[Listening] = []
    try:
        for path in paths:
            # one may be a link to the other
            if os.path.realpath(path) not in (os.path.realpath(made.path) for made in found):
                found.append(_listen(Path(path)))
    except BaseException:
        for made in found:
            made.close()
        raise
    return found


def _listen(path: Path) -> Listening:
    _make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~MODE)  # so that it is never open to more than it should be
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return Listening(listener, path, os.lstat(path).st_ino)


def _make_room(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    if stat.S_ISLNK(mode) and not path.exists():
        path.unlink()  # to a socket that is gone
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise UsageError(f"cannot listen on {path}: there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {error.strerror or error}") from error
    raise UsageError(f"cannot listen on {path}: another process listens there")
