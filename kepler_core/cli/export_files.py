"""Write the files and folders of `store export`, as a whole or not at all."""

from __future__ import annotations

import os
import shlex
import uuid
from pathlib import Path

from kepler_core.atomic_files import whole_file, whole_folder, write_tree
from kepler_core.errors import StoreError, UsageError


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; raise `StoreError` if it cannot be written."""
    try:
        with whole_file(target, f".{uuid.uuid4().hex}") as file:
            file.write(content)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error


def new_folder(output: str, force: bool) -> Path:
    """Return the path of the folder to write; raise `UsageError` if the folder exists and may not be replaced."""
    from kepler_core.model_db import README, REPORT_FOLDER
    from kepler_core.models.power_model import METADATA_FILE

    target = Path(os.path.abspath(output))
    if not target.parent.is_dir():
        raise UsageError(
            f"cannot write {output}: there is no folder {target.parent}; create it with "
            f"mkdir -p {shlex.quote(str(target.parent))}"
        )
    if os.path.lexists(target):
        if not force:
            raise UsageError(f"{output} already exists; --force replaces it")
        # replace only an exported pipeline; never remove e.g. a home folder, or a pipeline or model in a store
        names = (METADATA_FILE, README, REPORT_FOLDER)
        if target.is_symlink() or not all((target / name).exists() for name in names):
            raise UsageError(f"{output} is not the folder of an exported pipeline, and is not replaced")
    return target


def write_folder(target: Path, files: dict[str, bytes], force: bool) -> None:
    """Write a folder as a whole or not at all; raise `StoreError` if it cannot be written."""
    try:
        with whole_folder(target, f".{uuid.uuid4().hex}", replace=force) as folder:
            write_tree(folder, files)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
