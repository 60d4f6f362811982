"""Atomic writes: if the process is killed, a file has either its old content or its complete new content."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from kepler_core.errors import UsageError


@contextlib.contextmanager
def whole_file(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends. On any error, `path` stays unchanged.

    The content is written to the file `.<name><mark>.part` in the folder of `path`. When the block ends, that
    file is flushed to the disk and renamed to `path`. If several processes may write the same file at the
    same time, each process needs a different `mark`. Raises `OSError`.
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


@contextlib.contextmanager
def whole_folder(path: Path, mark: str = "", *, replace: bool = False) -> Iterator[Path]:
    """Yield a new, empty folder that becomes `path` when the block ends. On any error, `path` stays unchanged.

    The new folder is `.<name><mark>.part` beside `path`. The block must flush the files that it writes there, as
    `write_tree` does. With `replace`, a folder that exists at `path` is first renamed to `.<name><mark>.old`, and
    removed after the new folder has the name `path`. If the process is killed between the two renamings, `path` does
    not exist, and the old content is in `.<name><mark>.old`. Raises `OSError`; without `replace`, also if `path` exists
    and is not an empty folder.
    """
    part, old = (path.with_name(f".{path.name[:100]}{mark}.{suffix}") for suffix in ("part", "old"))
    part.mkdir()
    try:
        yield part
        if replace and path.exists():
            os.rename(path, old)
            try:
                os.rename(part, path)
            except BaseException:
                os.rename(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(part, path)
        flush_folder(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def check_output(output: str) -> None:
    """Raise `UsageError` if the folder of the path `output` does not exist, or if `output` itself is a folder.

    Commands call this function before they read their inputs, so that a typing mistake costs no time.
    """
    path = Path(output)
    if not path.resolve().parent.is_dir():
        raise UsageError(f"cannot write {output}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"cannot write {output}: it is a folder")


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, which maps paths below `folder` to contents, and flush files and folders to the disk.

    Raises `OSError`, and `ValueError` if a path leads outside of the folder.
    """
    folders = {folder}
    for name, content in files.items():
        path = folder / name
        if name.startswith("/") or ".." in Path(name).parts:
            raise ValueError(f"the file name {name!r} leads outside of the folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = path.parent
        while parent not in folders:
            folders.add(parent)
            parent = parent.parent
        write_flushed(path, content)
    for parent in folders:
        flush_folder(parent)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Create a folder and its missing parents, so that they survive a power failure.

    A new folder is an entry in the list of its parent's contents, and this list is flushed to the disk. Without this
    flush, a power failure may remove the new folder with all its files, even if the files were flushed.

    `mode` sets the permissions of `folder`. New parents get the default permissions. Raises `OSError`.
    """
    missing = []
    parent = folder
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    for new in reversed(missing):
        new.mkdir(mode=mode if new == folder else 0o777, exist_ok=True)
        # To flush the parent, this process must open it, which needs the permission to list the parent's contents.
        # A process without this permission may still be allowed to create files there, so the error is ignored.
        with contextlib.suppress(PermissionError):
            flush_folder(new.parent)
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def flush_folder(folder: Path) -> None:
    """Flush the list of a folder's files to the disk, so that renamed files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(folder: int, name: str, content: bytes) -> None:
    """Replace the file `name` in an open folder, so that readers see either the old or the complete new content.

    `folder` is a file descriptor of the folder. Nothing is flushed to the disk: use this function for values that are
    replaced several times per second, and `whole_file` for data that must survive a power failure. On any error, the
    file stays unchanged. Raises `OSError`.
    """
    part = f".{name}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            written = os.write(descriptor, content)
        finally:
            os.close(descriptor)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
