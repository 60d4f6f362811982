"""A lock, so that no two meters publish in the same folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from kepler_core.errors import OutputError


class PublishLock:
    """A locked file. The kernel unlocks it when the process ends, also if the process is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the file, and create it and its folder if they are missing.

        Does nothing if this object has locked the file already. If the locked file was removed, another process
        could create and lock a new file at the path. In this case, this method creates and locks a new file itself.

        Raises `OutputError` if another process has locked the file, and `OSError` if the file cannot be created.
        """
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                    return
            self.release()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise OutputError(f"another meter publishes in {self._path.parent}") from None
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Unlock the file. The file is not removed, because another process may wait for its lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
