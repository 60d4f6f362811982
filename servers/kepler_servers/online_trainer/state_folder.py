"""The layout of the folder in which an online trainer stores its state."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from kepler_core.atomic_files import make_folders
from kepler_core.errors import UsageError


@attrs.frozen
class StateFolder:
    """The state folder of one online trainer, which no other online trainer is allowed to use.

    Some names are older than the terms in the code: the sample store is in the folder `memory`, and the log of power
    shifts is in the file `laws.json`. In metrics, JSON keys and recorded decisions, a sample is called an `instant` and
    a power shift a `law_change`. These names do not change, because users depend on them.
    """

    path: Path

    @property
    def samples(self) -> Path:
        """Folder of the sample store."""
        return self.path / "memory"

    @property
    def shifts(self) -> Path:
        """File with the power shifts that were found (`ShiftLog`)."""
        return self.path / "laws.json"

    @property
    def challengers(self) -> Path:
        """Folder of a model store with the challengers of the latest retrainings."""
        return self.path / "challengers"


@contextmanager
def locked_state(folder: Path) -> Iterator[StateFolder]:
    """Create the state folder, and lock it during the `with` block.

    Without the lock, two trainers with the same state folder would overwrite each other's files.
    """
    try:
        make_folders(folder)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder} is in use by another online trainer") from error
        yield StateFolder(folder.resolve())
    finally:
        os.close(descriptor)
