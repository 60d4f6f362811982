"""Files of /proc and /sys that are read once per period."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from kepler_core.errors import MeterError

MAX_FILE_BYTES = 8 * 2**20
"""Maximum size of a file. /proc/softirqs of a machine with 8192 CPUs has about 1 MB."""
_CHUNK_BYTES = 2**16
_MAX_MOUNT_BYTES = 2**20
_MAX_DIGITS = 20
# The kernel writes blanks and backslashes in mount points as octal numbers.
_ESCAPES = ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\"))
_GONE = (errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EBADF)


class KernelFile:
    """A file that stays open. Each read begins at the start of the file (`pread`).

    This is cheaper than opening the file for each read. The kernel makes new content for each read from the start.
    """

    def __init__(self, root: Path, name: str, *, keep_open: bool = True) -> None:
        """Remember the path of the file, e.g. "proc/stat". The file is opened at the first read.

        `keep_open` must be false for a file that a program replaces by another file, instead of writing into it.
        """
        self._keep_open = keep_open
        self.name = f"/{name}"
        self._path = root / name
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Return the content of the file. Raises `MeterError` with the reason if it cannot be read."""
        try:
            try:
                return self._content()
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                self.close()  # The device was removed and came back, e.g. a CPU that was offline.
                return self._content()
        except OSError as error:
            self.close()
            raise MeterError(f"{self.name}: {error.strerror or error}") from error
        finally:
            if not self._keep_open:
                self.close()

    def close(self) -> None:
        """Close the file. This method may be called several times."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _content(self) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        content = bytearray()
        while chunk := os.pread(self._descriptor, _CHUNK_BYTES, len(content)):
            content += chunk
            if len(content) > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"more than {MAX_FILE_BYTES} bytes")
        return bytes(content)


def files_mounted_over(root: Path) -> dict[str, str]:
    """Return the files below /proc that a container replaces, as a mapping from path to type of the file system.

    For example, lxcfs mounts its own /proc/stat into a container. This file has the CPU time of the container, not of
    the machine. The dictionary is empty if /proc/self/mountinfo cannot be read.
    """
    try:
        with open(root / "proc/self/mountinfo", "rb") as file:
            text = file.read(_MAX_MOUNT_BYTES).decode(errors="replace")
    except OSError:
        return {}
    mounted = {}
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 7 or "-" not in fields[6:]:
            continue
        point = fields[4]
        for escape, character in _ESCAPES:
            point = point.replace(escape, character)
        kind = fields[fields.index("-", 6) + 1 :][:1]
        if point.startswith("/proc/"):
            mounted[point] = kind[0] if kind else "unknown"
    return mounted


def unsigned(text: bytes) -> int | None:
    """Return a counter of the kernel; None if the text is not an unsigned number of at most 20 digits."""
    text = text.strip()
    return int(text) if text.isdigit() and len(text) <= _MAX_DIGITS else None
