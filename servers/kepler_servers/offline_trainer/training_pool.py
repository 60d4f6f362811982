"""The training pool: threads that take jobs from the queue, and train each job in a separate process."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kepler_core.messages import printable
from kepler_servers.offline_trainer.cleanup import remove_expired, set_unknown_files_aside
from kepler_servers.offline_trainer.job import CANCELLED, PUBLISHING, RUNNING, Job
from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.messages import (
    Accepted,
    Done,
    FitsPlanned,
    LogLine,
    MayPublish,
    Message,
    ModelTrained,
    ReadyToPublish,
    Rejected,
    StageStarted,
    Train,
)
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.settings import Settings, StateFolder
from kepler_servers.offline_trainer.training_process import (
    KILL_SIGNALS,
    ProcessEndedError,
    TrainingProcess,
    kill_orphans,
)
from kepler_servers.offline_trainer.warm_worker import WarmWorker, exit_reason

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Maximum number of attempts to train a job whose process is killed, or for which the disk is full.

Attempts that end because the server is killed or stopped are not included.
"""
FULL_DISK_SECONDS = 10.0
"""Pause of a thread after it has queued a job again because the disk was full."""
CLEANUP_INTERVAL_SECONDS = 15.0

_QUEUE_POLL_SECONDS = 5.0
_RETRY_SECONDS = 1.0
"""Pause before the next attempt to start a process or to write a change to the database."""
_DISK_FULL = "disk full"
"""Outcome of an attempt that failed because the disk was full. The job is then queued again."""
_SERVER_SIGNAL_SECONDS = 2.0
"""If a signal has ended a training process, the server waits for this time before it counts the attempt.

systemd and container runtimes send a signal to all processes of a service, one after another. The training process may
get the signal first. If the server also gets a signal during this time, the attempt is not counted.
"""


class TrainingPool:
    """A fixed number of threads that train jobs in separate processes, and a process that checks new requests."""

    def __init__(self, settings: Settings, folder: StateFolder, jobs: Jobs, metrics: TrainerMetrics) -> None:
        self._settings = settings
        self._folder = folder
        self._jobs = jobs
        self._metrics = metrics
        self._state = str(folder.root.resolve())
        self._warm_worker = WarmWorker(self._state, settings.memory_limit, settings.store)
        self._running: dict[str, TrainingProcess] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        """Requeue jobs that a killed server was training, and start the threads."""
        if killed := kill_orphans(self._state):
            log.warning("killed %d training processes that an earlier server had left running", killed)
        for job in self._jobs.running():
            self._requeue(job, "the server was killed", count_attempt=False)
        set_unknown_files_aside(self._jobs, self._folder)
        for number in range(self._settings.jobs):
            self._threads.append(threading.Thread(target=self._train_jobs, name=f"training {number}", daemon=True))
        self._threads.append(threading.Thread(target=self._clean_up, name="clean-up", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Kill all training processes and queue their jobs again."""
        self._stop.set()
        with self._jobs.queue_changed:
            self._jobs.queue_changed.notify_all()
        for process in list(self._running.values()):
            process.kill()
        self._warm_worker.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)
        self._jobs.complete_all()

    def prepare(self) -> None:
        """Start a process to check a training request, while the request is still being received."""
        self._warm_worker.prepare()

    def check(self, body: Path) -> str:
        """Check the request in a file and return the name of its pipeline; see `WarmWorker.check`."""
        return self._warm_worker.check(body)

    def cancel(self, job: str) -> Job | None:
        """Cancel a job and kill its training process. Return the result of `Jobs.cancel`."""
        current = self._jobs.cancel(job)
        if current is not None and current.state == CANCELLED and (process := self._running.get(job)) is not None:
            process.kill()
        return current

    # --- training ---

    def _train_jobs(self) -> None:
        while not self.stopping:
            try:
                with self._jobs.queue_changed:
                    job = self._jobs.take_next()
                    if job is None:
                        self._jobs.queue_changed.wait(_QUEUE_POLL_SECONDS)
                        continue
            except sqlite3.Error as error:
                log.error("the queue cannot be used: %s", error)
                self._stop.wait(_RETRY_SECONDS)
                continue
            try:
                self._train(job)
            except Exception:
                log.exception("job %s failed because of a defect of the offline trainer", job.id)
                content = {"msg": "a defect of the offline trainer; its log says more"}
                self._persist(lambda job=job, content=content: self._jobs.fail(job.id, 500, content))  # type: ignore[misc]
            with self._jobs.queue_changed:
                self._jobs.queue_changed.notify_all()  # a queued job of the same pipeline can start now

    def _train(self, job: Job) -> None:
        try:
            process = self._warm_worker.take()
        except OSError as error:
            log.error("job %s: the training process cannot be started, trying again: %s", job.id, error)
            self._persist(lambda: self._jobs.requeue(job.id, count_attempt=False))
            self._stop.wait(_RETRY_SECONDS)
            return
        self._running[job.id] = process
        started = time.monotonic()
        deadline = started + self._settings.time_limit
        outcome: str | None = None
        message: Message | None = None
        timed_out = False
        log.info("job %s: training %s, attempt %d", job.id, job.pipeline, job.attempts)
        try:
            process.send(self._command(job))
            while outcome is None:
                message = process.receive(deadline - time.monotonic())
                outcome = self._handle(job, process, message)
        except TimeoutError:
            timed_out = True
        except ProcessEndedError:
            pass
        finally:
            if outcome is None:
                process.kill()
            code = process.end()
            del self._running[job.id]
        if timed_out:
            reason = f"the training took longer than the {self._settings.time_limit:g} s that it may take"
            outcome = self._fail_or_requeue(job, 422, reason)
        elif outcome is None:
            outcome = self._after_early_exit(job, code, process)
        elif outcome == _DISK_FULL:
            outcome = self._requeue(job, "the disk was full", count_attempt=True)
            self._stop.wait(FULL_DISK_SECONDS)
        seconds = time.monotonic() - started
        log.info("job %s: %s: %s after %.1f s%s", job.id, job.pipeline, outcome, seconds, _failures(message))
        self._metrics.ended.labels(outcome).inc()
        self._metrics.seconds.observe(seconds)

    def _command(self, job: Job) -> Train:
        return Train(
            job.id,
            str(self._folder.input(job.id)),
            str(self._folder.result(job.id)),
            self._settings.store,
            self._settings.backend,
            self._settings.scheduler,
            self._settings.fits,
            may_be_published=job.may_be_published,
        )

    def _handle(self, job: Job, process: TrainingProcess, message: Message) -> str | None:
        """Store the content of a training process' message.

        Return the outcome of the training if it has ended, else None.
        """
        jobs = self._jobs
        match message:
            case StageStarted():
                if not self._persist(lambda: jobs.start_stage(job.id, message.name)):
                    process.kill()
            case ReadyToPublish():
                if self._persist(lambda: jobs.start_stage(job.id, PUBLISHING)):
                    process.send(MayPublish())
                else:
                    process.kill()
            case FitsPlanned():
                self._persist(lambda: jobs.set_planned_fits(job.id, message.models))
            case ModelTrained():
                self._metrics.models.labels("failed" if "reason" in message.model else "trained").inc()
                self._persist(lambda: jobs.add_model(job.id, message.model))
            case LogLine():
                self._persist(lambda: jobs.add_log_line(job.id, message.level, printable(message.text)))
            case Done():
                data_sets = sum(not failure.get("trainer") for failure in message.report["failed"])
                self._metrics.models.labels("failed").inc(data_sets)
                self._persist(lambda: jobs.finish(job.id, message.report))
                return "done"
            case Rejected(status=507) if job.attempts < MAX_ATTEMPTS:
                return _DISK_FULL
            case Rejected():
                text = printable(message.content["msg"])
                log.warning("job %s: training %s failed with status %d: %s", job.id, job.pipeline, message.status, text)
                self._persist(lambda: jobs.fail(job.id, message.status, message.content))
                return "failed"
            case Accepted():
                raise AssertionError("a worker sent Accepted although no Check was sent to it")
        return None

    # --- training processes that end without `Done` or `Rejected` ---

    def _after_early_exit(self, job: Job, code: int, process: TrainingProcess) -> str:
        """Queue a job again, or mark it as failed, after its process ended without `Done` or `Rejected`.

        Nothing is changed if the job was cancelled. Returns the outcome of the training.
        """
        killed = -code in KILL_SIGNALS
        if killed and self._is_running(job):
            self._stop.wait(_SERVER_SIGNAL_SECONDS)
        current = self._jobs.get(job.id)
        if current is None or current.state != RUNNING:
            return "cancelled"
        if self.stopping:
            return self._requeue(current, "the server was stopped", count_attempt=False)
        reason = exit_reason(code, process)
        if killed:
            return self._requeue_or_fail(current, f"its process was killed ({reason})")
        return self._fail_or_requeue(job, 500, f"the training process ended: {reason}")

    def _fail_or_requeue(self, job: Job, status: int, reason: str) -> str:
        """Mark a job as failed, unless it may have published a version.

        If it may have published a version, `_requeue_or_fail` queues the job again. The next attempt then finds out
        whether a version was published.
        """
        current = self._jobs.get(job.id)
        if current is not None and current.state == RUNNING and current.may_be_published:
            return self._requeue_or_fail(current, reason)
        self._persist(lambda: self._jobs.fail(job.id, status, {"msg": reason}))
        return "failed"

    def _requeue_or_fail(self, job: Job, reason: str) -> str:
        """Queue a job again, or mark it as failed if it has already had `MAX_ATTEMPTS` attempts."""
        if job.attempts >= MAX_ATTEMPTS:
            published = "; the pipeline may be in the store" if job.may_be_published else ""
            content = {"msg": f"failed after {job.attempts} attempts; in the last attempt, {reason}{published}"}
            self._persist(lambda: self._jobs.fail(job.id, 500, content))
            return "failed"
        return self._requeue(job, reason, count_attempt=True)

    def _requeue(self, job: Job, reason: str, *, count_attempt: bool) -> str:
        """Queue a running job again, and return the outcome of its training ("lost")."""
        uncounted = "" if count_attempt else ", and this attempt is not counted"
        log.warning("job %s: %s; it is queued again%s", job.id, reason, uncounted)

        def requeue() -> None:
            text = f"attempt {job.attempts}: {reason}; it is queued again{uncounted}"
            self._jobs.add_log_line(job.id, "warning", text)
            self._jobs.requeue(job.id, count_attempt=count_attempt)

        self._persist(requeue)
        return "lost"

    def _is_running(self, job: Job) -> bool:
        current = self._jobs.get(job.id)
        return current is not None and current.state == RUNNING

    def _persist(self, change: Callable[[], T]) -> T:
        """Make a change to the queue's database. Repeat the change until it is stored on the disk.

        Raises `sqlite3.Error` if the server stops first. The job then stays in the state running, and the server
        requeues it when it starts again.
        """
        reported = False
        while True:
            try:
                return change()
            except sqlite3.Error as error:
                if self.stopping:
                    raise
                if not reported:
                    reported = True
                    log.error("the queue cannot be written, trying again: %s", error)
                self._stop.wait(_RETRY_SECONDS)

    def _clean_up(self) -> None:
        while not self._stop.wait(CLEANUP_INTERVAL_SECONDS):
            try:
                self._warm_worker.end_if_idle()
                remove_expired(self._jobs, self._folder, self._settings)
            except Exception:
                log.exception("removing expired jobs failed")


def _failures(message: Message | None) -> str:
    """Return a text with the number of failed models and data sets, which is appended to a log line.

    `message` is the last message of a training. The text is empty if there was no failure.
    """
    number = len(message.report["failed"]) if isinstance(message, Done) else 0
    return f", {number} models or data sets failed" if number else ""
