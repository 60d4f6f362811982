"""What the offline trainer's HTTP process is told, through its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

TARGET = "kepler_servers.offline_trainer.worker:application"
SETTINGS_VARIABLE = "KEPLER_OFFLINE_TRAINER_SETTINGS"


class Settings(msgspec.Struct, frozen=True):
    """Everything that it needs to know."""

    store: str
    state: str
    """Folder of the queue, the inputs and the results."""
    address: str = ""
    token_file: str | None = None
    jobs: int = 1
    """Trainings at a time."""
    fits: int = 1
    """Fits at a time, of each training."""
    backend: Literal["loky", "threading", "dask"] = "loky"
    scheduler: str | None = None
    max_body: int = 512 * 2**20
    """Bytes of JSON, unpacked."""
    memory_limit: int = 8 * 2**30
    """Bytes of address space of each training process."""
    time_limit: float = 3600.0
    """Seconds of one training."""
    max_queue: int = 100
    keep_inputs: float = 24 * 3600.0
    """Seconds after a job's end."""
    keep_results: float = 168 * 3600.0
    verbose: bool = False


class StateFolder:
    """Where things are below `--state`."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.lock = self.root / "lock"
        self.queue = self.root / "queue.sqlite3"
        self.incoming = self.root / "incoming"
        self.spool = self.root / "spool"
        self.results = self.root / "results"

    def make(self) -> None:
        """Make the folders, for nobody else to read: recordings name containers."""
        for folder in (self.root, self.incoming, self.spool, self.results):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def input(self, job: str) -> Path:
        """The request's body."""
        return self.spool / f"{job}.json"

    def result(self, job: str) -> Path:
        """The trained pipeline."""
        return self.results / f"{job}.zip"
