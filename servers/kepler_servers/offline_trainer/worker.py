"""The HTTP process of the offline trainer. There is only one such process, because it owns the queue's database."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import IO

import msgspec

from kepler_core.errors import UsageError
from kepler_core.logs import LEVELS, configure_logging
from kepler_core.parent_watch import end_with_parent
from kepler_core.urls import shown_location
from kepler_servers.http.adapter import RsgiAdapter
from kepler_servers.http.server import when_stopping
from kepler_servers.offline_trainer.app import MAX_BODY_BYTES, OfflineTrainer
from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.settings import SETTINGS_VARIABLE, Settings, StateFolder
from kepler_servers.offline_trainer.training_pool import TrainingPool

log = logging.getLogger(__name__)

_LOCK_TIMEOUT_SECONDS = 15.0
"""Time limit for waiting until the previous HTTP process has ended.

Granian, the HTTP server, starts a new HTTP process when the old process fails.
"""

_locks: list[IO[bytes]] = []
"""The open lock file of the state folder. It must stay open until the process ends."""


def application() -> RsgiAdapter:
    """Start the training pool and return the application of this process.

    If the state folder cannot be used, log the reason and end this process. Granian then starts another process.
    """
    try:
        return _application()
    except UsageError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from None


def _application() -> RsgiAdapter:
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=Settings)
    configure_logging(LEVELS[settings.log_level], as_json=settings.log_format == "json")
    end_with_parent()
    folder = StateFolder(settings.state)
    folder.create()
    _locks.append(lock(folder, timeout=_LOCK_TIMEOUT_SECONDS))
    jobs = Jobs(folder.queue, max_queue=settings.max_queue)
    metrics = TrainerMetrics(jobs)
    pool = TrainingPool(settings, folder, jobs, metrics)
    pool.start()
    server = OfflineTrainer(settings, folder, jobs, pool, metrics, token=read_token(settings.token_file))
    when_stopping(lambda: threading.Thread(target=pool.stop, name="stop").start())
    unfinished = jobs.counts["queued"] + jobs.counts["running"]
    location = shown_location(settings.store)
    log.info("publishing to store %s, listening on %s; %d jobs wait", location, settings.address, unfinished)
    return RsgiAdapter(server.app, max_body=MAX_BODY_BYTES)


def lock(folder: StateFolder, *, timeout: float = 0.0) -> IO[bytes]:
    """Lock the state folder for this process until the returned file is closed.

    Raises `UsageError` if the lock's file cannot be written, or if another process still holds the lock after
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    try:
        file = folder.lock.open("ab")
    except OSError as error:
        raise UsageError(f"--state {folder.root}: lock: {error.strerror or error}") from error
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                file.close()
                raise UsageError(f"{folder.root} is used by another offline trainer; give another --state") from None
            time.sleep(0.1)
        else:
            return file


def read_token(path: str | None) -> bytes | None:
    """Return the access token in a file; None if `path` is None. Raises `UsageError` for an unusable file."""
    if path is None:
        return None
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if not token.isascii() or not token or len(token.split()) != 1 or len(token) > 1000:
        raise UsageError(f"{path}: not a token: one word of ASCII, e.g. from `openssl rand -hex 32`")
    return token
