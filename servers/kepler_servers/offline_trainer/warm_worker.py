"""The training process that checks requests and has imported already what a training needs.

It is started while a request is still being received, checks it, and trains it if a training can start
at once, so that nothing is imported twice.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from pathlib import Path

from kepler_servers.http.answer import RETRY_LATER, HttpError
from kepler_servers.offline_trainer.answers import http_error
from kepler_servers.offline_trainer.messages import Accepted, Check, Rejected
from kepler_servers.offline_trainer.training_process import ProcessEndedError, TrainingProcess

log = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS = 120.0
"""Longest check of a request. It maps and scans a file of at most `--max-body`."""
IDLE_TIMEOUT_SECONDS = 60.0
"""Time after which a process without requests is ended."""


class WarmWorker:
    """At most one idle training process, used by one thread at a time."""

    def __init__(self, state: str, memory_limit: int) -> None:
        """Start no process yet. `state` and `memory_limit` are those of `TrainingProcess`."""
        self._state = state
        self._memory_limit = memory_limit
        self._process: TrainingProcess | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def prepare(self) -> None:
        """Start the process unless it runs. Return at once if another thread uses the worker."""
        if self._lock.acquire(blocking=False):
            try:
                # An error is reported by `check`, which tries again.
                with contextlib.suppress(HttpError, OSError):
                    self._ready_process()
            finally:
                self._lock.release()

    def check(self, body: Path) -> str:
        """Check the request in a file and return the name of its pipeline.

        Raises `HttpError` if the request is invalid or cannot be checked.
        """
        with self._lock:
            process = self._ready_process()
            process.send(Check(str(body)))
            try:
                message = process.receive(CHECK_TIMEOUT_SECONDS)
            except (ProcessEndedError, TimeoutError) as error:
                self._process = None
                process.kill()
                code = process.end()
                if self._stopping:
                    raise stopping_error() from None
                reason = "took too long" if isinstance(error, TimeoutError) else exit_reason(code, process)
                log.error("checking a request failed: %s", reason)
                raise HttpError(500, f"the request could not be checked: {reason}") from None
            process.last_used = time.monotonic()
        match message:
            case Accepted():
                return message.pipeline
            case Rejected():
                raise http_error(message.status, message.content)
        raise AssertionError(f"{message} does not answer a check")

    def take(self) -> TrainingProcess:
        """Hand over the process, or a new one, for a training. Raises `OSError` if none can be started."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.alive:
            return process
        if process is not None:
            process.end()
        return TrainingProcess(self._state, self._memory_limit)

    def end_if_idle(self) -> None:
        """End the process if the latest request is longer ago than `IDLE_TIMEOUT_SECONDS`."""
        with self._lock:
            if self._process is not None and time.monotonic() - self._process.last_used > IDLE_TIMEOUT_SECONDS:
                self._end()

    def stop(self) -> None:
        """End the process. Running and later calls of `check` raise."""
        self._stopping = True
        if (process := self._process) is not None:
            process.kill()  # makes a thread that waits in `check` release the lock
        with self._lock:
            self._end()

    def _ready_process(self) -> TrainingProcess:
        if self._stopping:
            raise stopping_error()
        if self._process is None or not self._process.alive:
            self._end()
            self._process = TrainingProcess(self._state, self._memory_limit)
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.end()
            self._process = None


def stopping_error() -> HttpError:
    """Return the HTTP error for requests that arrive while the server stops."""
    return HttpError(503, "the server is stopping", RETRY_LATER)


def exit_reason(code: int, process: TrainingProcess) -> str:
    """Return how a process ended, with the last line of its standard error."""
    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{reason}: {line}" if (line := process.last_error_line()) else reason
