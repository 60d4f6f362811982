"""A small disk that a chaos run can fill. It has the store and the state folders of the servers."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_MIB = 384


class Disk:
    """A folder that can be made full: a tmpfs, or an ordinary folder if the permission to mount a tmpfs is missing.

    On a tmpfs, `fill` writes a file until no space is left. For an ordinary folder, `fill` sets the limit
    RLIMIT_FSIZE of the servers' processes to 0. Each write of these processes to a file then fails, also in other
    folders. The error is then EFBIG instead of ENOSPC.
    """

    def __init__(self, folder: Path, mounted: bool, processes: Callable[[], Iterable[int]]) -> None:
        """Set the folder of the disk. The function `processes` returns the ids of the run's processes.

        If the folder is not a tmpfs (`mounted` is false), `fill` limits the file sizes of these processes.
        """
        self.folder = folder
        self.mounted = mounted
        self.full = threading.Event()
        self._ballast = folder / "ballast"
        self._processes = processes

    @property
    def how(self) -> str:
        """Text for the report: how `fill` makes the disk full."""
        return f"a tmpfs of {DISK_MIB} MiB" if self.mounted else "RLIMIT_FSIZE of 0 bytes for all processes"

    def fill(self) -> None:
        """Make the disk full.

        To keep the disk full, call this method repeatedly, because new processes start, and existing processes delete
        files.
        """
        self.full.set()
        if not self.mounted:
            self._limit(0)
            return
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            for size in (2**20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def free(self) -> None:
        """Make the disk writable again, after `fill`."""
        if self.mounted:
            self._ballast.unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)
        self.full.clear()

    def _limit(self, size: int) -> None:
        for pid in self._processes():
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def mounted_disk(folder: Path, processes: Callable[[], Iterable[int]], mount: bool) -> Iterator[Disk]:
    """Yield a disk. It is a tmpfs if `mount` is true and the permissions allow a mount.

    The tmpfs is unmounted at the end.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    mounted = mount and os.geteuid() == 0
    mounted = mounted and subprocess.run(command, check=False, capture_output=True).returncode == 0
    disk = Disk(folder, mounted, processes)
    try:
        yield disk
    finally:
        disk.free()
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
