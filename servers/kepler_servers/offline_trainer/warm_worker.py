"""The warm worker: an idle training process that has already imported the modules for checks and trainings.

The process is started while a training request is still being received. It checks the request. If a thread of the
training pool is free, the same process also trains the pipeline of the request. So no modules are imported a second
time.
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
from kepler_servers.offline_trainer.messages import NAME_TAKEN_STATUS, Accepted, Check, Message, Rejected
from kepler_servers.offline_trainer.training_process import KILL_SIGNALS, ProcessEndedError, TrainingProcess

log = logging.getLogger(__name__)

CHECK_TIMEOUT_SECONDS = 120.0
"""Time limit for the check of a training request, whose size is at most `--max-body`."""
CHECK_ATTEMPTS = 3
"""Maximum number of attempts to check a training request if the checking process is killed."""
IDLE_TIMEOUT_SECONDS = 60.0
"""Time without requests after which the idle process is ended."""


class WarmWorker:
    """Holder of at most one idle training process, which one thread at a time can use."""

    def __init__(self, state: str, memory_limit: int, store: str) -> None:
        """Store the arguments of `TrainingProcess` and the location of the store. `prepare` or `check` starts the
        process."""
        self._store = store
        self._state = state
        self._memory_limit = memory_limit
        self._process: TrainingProcess | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def prepare(self) -> None:
        """Start the process if it is not running. Do nothing if another thread is using the worker."""
        if self._lock.acquire(blocking=False):
            try:
                # errors are ignored here: `check` tries again to start the process, and raises an error if it fails
                # again
                with contextlib.suppress(HttpError, OSError):
                    self._ready_process()
            finally:
                self._lock.release()

    def check(self, body: Path) -> str:
        """Check the training request in a file and return the name of its pipeline.

        Raises `HttpError` if the request is invalid or cannot be checked.
        """
        with self._lock:
            for attempt in range(1, CHECK_ATTEMPTS + 1):
                process = self._ready_process()
                process.send(Check(str(body), self._store))
                try:
                    message = process.receive(CHECK_TIMEOUT_SECONDS)
                except (ProcessEndedError, TimeoutError) as error:
                    code = self._end()
                    if self._stopping:
                        raise stopping_error() from None
                    reason = "took too long" if isinstance(error, TimeoutError) else exit_reason(code, process)
                    if -code in KILL_SIGNALS and isinstance(error, ProcessEndedError) and attempt < CHECK_ATTEMPTS:
                        log.warning("the process that checked a training request ended (%s); checking again", reason)
                        continue
                    log.error("a training request could not be checked: %s", reason)
                    raise HttpError(500, f"the request could not be checked: {reason}") from None
                process.last_used = time.monotonic()
                return _pipeline_name(message)
        raise AssertionError("the last attempt returns a name or raises an error")

    def take(self) -> TrainingProcess:
        """Return the idle process, or a new process if there is none.

        Raises `OSError` if a new process cannot be started.
        """
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.alive:
            return process
        if process is not None:
            process.end()
        return TrainingProcess(self._state, self._memory_limit)

    def end_if_idle(self) -> None:
        """End the process if it has received no request for `IDLE_TIMEOUT_SECONDS`."""
        with self._lock:
            if self._process is not None and time.monotonic() - self._process.last_used > IDLE_TIMEOUT_SECONDS:
                self._end()

    def stop(self) -> None:
        """End the process. Running and later calls of `check` raise `HttpError`."""
        self._stopping = True
        if (process := self._process) is not None:
            process.kill()  # then `check` in another thread returns, and releases the lock
        with self._lock:
            self._end()

    def _ready_process(self) -> TrainingProcess:
        if self._stopping:
            raise stopping_error()
        if self._process is None or not self._process.alive:
            self._end()
            self._process = TrainingProcess(self._state, self._memory_limit)
        return self._process

    def _end(self) -> int:
        """End the process, if there is one, and return its exit code as in `subprocess.Popen.returncode`."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        return process.end()


def _pipeline_name(message: Message) -> str:
    """Return the pipeline name that the checking process has sent. Raises `HttpError` if it rejected the request."""
    match message:
        case Accepted():
            return message.pipeline
        case Rejected():
            if message.status == NAME_TAKEN_STATUS:
                log.warning("a training request was rejected: %s", message.content["msg"])
            raise http_error(message.status, message.content)
    raise AssertionError(f"{message} is not an answer to a check")


def stopping_error() -> HttpError:
    """Return the HTTP error for training requests that arrive while the server is stopping."""
    return HttpError(503, "the server is stopping", RETRY_LATER)


def exit_reason(code: int, process: TrainingProcess) -> str:
    """Return the exit code or signal of an ended process, with the last line of its standard error."""
    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{reason}: {line}" if (line := process.last_error_line()) else reason
