"""A small file system at a folder, for tests of full and read-only disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "3m") -> Iterator[None]:
    """Mount a tmpfs at a new folder during the `with` block. Skip the test if the process does not run as root.

    `size` is the size of the tmpfs, in the form of the mount option `size`, e.g. "64k" or "3m".
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill_disk(file: Path) -> None:
    """Write a file that takes all space of its disk."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while opened.write(b"x" * 4096):
            pass


def make_read_only(folder: Path) -> None:
    """Forbid writing to the file system that `small_disk` mounted at a folder."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
