"""What the HTTP process runs: one, because the queue is one."""

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
from kepler_servers.http.adapter import Bridge, when_stopping
from kepler_servers.offline_trainer.app import MAX_BODY, OfflineTrainer
from kepler_servers.offline_trainer.crew import Crew
from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.settings import SETTINGS_VARIABLE, Settings, StateFolder
from kepler_servers.parent_watch import end_with_parent

log = logging.getLogger(__name__)

_LOCK_SECONDS = 15.0
_locks: list[IO[bytes]] = []


def application() -> Bridge:
    """The application of this process; the queue is at work when it returns."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=Settings)
    logging.basicConfig(
        level=logging.DEBUG if settings.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,  # the command line has set it up for commands
    )
    end_with_parent()
    folder = StateFolder(settings.state)
    folder.make()
    # the process before this one may still be ending
    _locks.append(lock(folder, seconds=_LOCK_SECONDS))
    jobs = Jobs(folder.queue, max_queue=settings.max_queue)
    metrics = TrainerMetrics(jobs)
    crew = Crew(settings, folder, jobs, metrics)
    crew.start()
    server = OfflineTrainer(settings, folder, jobs, crew, metrics, token=read_token(settings.token_file))
    when_stopping(lambda: threading.Thread(target=crew.stop, name="stop").start())
    waiting, running = jobs.counts["queued"], jobs.counts["running"]
    log.info("training into %s on %s; %d jobs wait", settings.store, settings.address, waiting + running)
    return Bridge(
        server.app,
        max_body=MAX_BODY,
        quick=("/healthz", "/readyz"),
        uploads={"/train": server.begin_upload},
        refused=lambda status: metrics.observe("other", status, 0.0),
    )


def lock(folder: StateFolder, *, seconds: float = 0.0) -> IO[bytes]:
    """Have the state folder for this process alone, until the file is closed; `UsageError` if another has
    it for longer than that."""
    until = time.monotonic() + seconds
    file = folder.lock.open("ab")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                file.close()
                raise UsageError(f"{folder.root} is used by another offline trainer; give --state") from None
            time.sleep(0.1)
        else:
            return file


def read_token(path: str | None) -> bytes | None:
    """The token in a file; `UsageError` if there is none."""
    if path is None:
        return None
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    if not token.isascii() or not token or len(token.split()) != 1 or len(token) > 1000:
        raise UsageError(f"{path}: not a token: one word of ASCII, e.g. from `openssl rand -hex 32`")
    return token
