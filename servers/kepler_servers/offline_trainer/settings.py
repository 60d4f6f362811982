"""The settings that the command hands to the HTTP process in an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

TARGET = "kepler_servers.offline_trainer.worker:application"
SETTINGS_VARIABLE = "KEPLER_OFFLINE_TRAINER_SETTINGS"


class Settings(msgspec.Struct, frozen=True):
    """All settings of an offline trainer."""

    store: str
    """Folder or URL of the model store."""
    state: str
    """Folder of the queue, the inputs and the results."""
    address: str = ""
    """host:port that the server listens on, for the log."""
    token_file: str | None = None
    jobs: int = 1
    """Number of trainings that run at the same time."""
    fits: int = 1
    """Number of fits that run at the same time in each training."""
    backend: Literal["loky", "threading", "dask"] = "loky"
    scheduler: str | None = None
    """Address of the Dask scheduler."""
    max_body: int = 512 * 2**20
    """Largest request, in bytes of unpacked JSON."""
    memory_limit: int = 8 * 2**30
    """Address space of each training process, in bytes."""
    time_limit: float = 3600.0
    """Longest training, in seconds."""
    max_queue: int = 100
    """Largest number of queued jobs."""
    keep_inputs: float = 24 * 3600.0
    """Time between a job's end and the removal of its input, in seconds."""
    keep_results: float = 168 * 3600.0
    """Time between a job's end and the removal of the job and its zip, in seconds."""
    verbose: bool = False


class StateFolder:
    """The paths below `--state`."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.lock = self.root / "lock"
        self.queue = self.root / "queue.sqlite3"
        self.incoming = self.root / "incoming"
        self.spool = self.root / "spool"
        self.results = self.root / "results"

    def create(self) -> None:
        """Create the folders, readable by their owner only: recordings contain container names."""
        for folder in (self.root, self.incoming, self.spool, self.results):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def input(self, job: str) -> Path:
        """Return the path of a job's request."""
        return self.spool / f"{job}.json"

    def result(self, job: str) -> Path:
        """Return the path of the zip that a job trained."""
        return self.results / f"{job}.zip"
