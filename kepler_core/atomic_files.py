"""Files that are there as a whole or not at all, whatever is killed when."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """A file to write into, which has its name once it is whole and on the disk. `OSError`; on any error
    what was there before stays, and nothing of the new one.

    Until then it is `.<name><mark>.part` beside it; where several processes may write the same file, each
    needs a mark of its own.
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
    """Make what was renamed into a folder outlive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
