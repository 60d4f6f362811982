"""Atomic writes: a file has its complete new content or its old one, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends. On any error, `path` stays unchanged.

    The content is written to `.<name><mark>.part` beside it, flushed to the disk and renamed. If several
    processes may write the same file, each needs a `mark` of its own. Raises `OSError`.
    """
    part = path.with_name(f".{path.name[:100]}{mark}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def flush_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that renamed files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
