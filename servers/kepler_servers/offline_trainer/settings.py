"""The settings that the command `offline-trainer` passes to the HTTP process in an environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from kepler_core.atomic_files import make_folders

TARGET = "kepler_servers.offline_trainer.worker:application"
SETTINGS_VARIABLE = "KEPLER_OFFLINE_TRAINER_SETTINGS"


class Settings(msgspec.Struct, frozen=True):
    """All settings of an offline trainer, from the command line."""

    store: str
    """Folder or URL of the model store."""
    state: str
    """Folder for the job queue, the training requests and the result files."""
    address: str = ""
    """Address (host:port) on which the server listens. It is used only for a log line."""
    allowed_hosts: tuple[str, ...] | None = None
    """Hosts that the request headers Host and Origin may name in addition to loopback names. None allows any host."""
    token_file: str | None = None
    jobs: int = 1
    """Number of trainings that run at the same time."""
    fits: int = 1
    """Number of model fits that each training runs at the same time."""
    backend: Literal["loky", "threading", "dask"] = "loky"
    scheduler: str | None = None
    """Address of the Dask scheduler; None if no address is configured."""
    max_body: int = 512 * 2**20
    """Maximum size of a training request, in bytes of unpacked JSON."""
    memory_limit: int = 8 * 2**30
    """Limit for the address space of each training process, in bytes. 0 means no limit."""
    time_limit: float = 3600.0
    """Time limit of a training, in seconds."""
    max_queue: int = 100
    """Maximum number of jobs in the state `queued`."""
    keep_inputs: float = 24 * 3600.0
    """Time between a job's end and the removal of its input file (the training request), in seconds."""
    keep_results: float = 168 * 3600.0
    """Time between a job's end and the removal of the job and its result file (a zip), in seconds."""
    log_level: str = "info"
    log_format: str = "text"


class StateFolder:
    """Paths of the files and folders in the state folder (option `--state`)."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.lock = self.root / "lock"
        self.queue = self.root / "queue.sqlite3"
        self.incoming = self.root / "incoming"
        self.spool = self.root / "spool"
        self.results = self.root / "results"
        self.set_aside = self.root / "set-aside"
        """Folder for inputs and results whose jobs are not in the queue. It is created when there are such files."""

    def create(self) -> None:
        """Create the folders. Only their owner can read them, because recordings contain container names."""
        for folder in (self.root, self.incoming, self.spool, self.results):
            make_folders(folder, 0o700)

    def input(self, job: str) -> Path:
        """Return the path of the input file of a job, which contains its training request."""
        return self.spool / f"{job}.json"

    def result(self, job: str) -> Path:
        """Return the path of the result file of a job: a zip of the trained pipeline."""
        return self.results / f"{job}.zip"
