"""The training pool: takes jobs from the queue and trains each in a process of its own."""

from __future__ import annotations

import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kepler_core.messages import printable
from kepler_servers.offline_trainer.cleanup import remove_expired, remove_unknown_files
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
from kepler_servers.offline_trainer.training_process import ProcessEndedError, TrainingProcess, kill_orphans
from kepler_servers.offline_trainer.warm_worker import WarmWorker, exit_reason

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Number of times that a job is trained before it fails, if its process is killed each time."""
CLEANUP_INTERVAL_SECONDS = 15.0

_QUEUE_POLL_SECONDS = 5.0
_RETRY_SECONDS = 1.0
"""Pause after a process could not be started or a change could not be written."""


class TrainingPool:
    """A bounded number of threads, each with one training process, and the check of new requests."""

    def __init__(self, settings: Settings, folder: StateFolder, jobs: Jobs, metrics: TrainerMetrics) -> None:
        self._settings = settings
        self._folder = folder
        self._jobs = jobs
        self._metrics = metrics
        self._state = str(folder.root.resolve())
        self._warm_worker = WarmWorker(self._state, settings.memory_limit)
        self._running: dict[str, TrainingProcess] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        """Queue the jobs again that an earlier run left running, and start the threads."""
        if killed := kill_orphans(self._state):
            log.warning("killed %d training processes of an earlier run", killed)
        for job in self._jobs.running():
            self._requeue_or_fail(job, "the server was killed while it ran")
        remove_unknown_files(self._jobs, self._folder)
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
        """Start a process for a request that is being received."""
        self._warm_worker.prepare()

    def check(self, body: Path) -> str:
        """Check the request in a file and return the name of its pipeline; see `WarmWorker.check`."""
        return self._warm_worker.check(body)

    def cancel(self, job: str) -> Job | None:
        """Cancel a job and kill its training. Return the job as it is afterwards; see `Jobs.cancel`."""
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
                log.exception("job %s: a defect of the offline trainer", job.id)
                content = {"msg": "a defect of the offline trainer; its log says more"}
                self._persist(lambda job=job, content=content: self._jobs.fail(job.id, 500, content))  # type: ignore[misc]
            with self._jobs.queue_changed:
                self._jobs.queue_changed.notify_all()  # the next job of the same pipeline may start now

    def _train(self, job: Job) -> None:
        try:
            process = self._warm_worker.take()
        except OSError as error:
            log.error("job %s: no process can be started, trying again: %s", job.id, error)
            self._persist(lambda: self._jobs.requeue(job.id, count_attempt=False))
            self._stop.wait(_RETRY_SECONDS)
            return
        self._running[job.id] = process
        started = time.monotonic()
        deadline = started + self._settings.time_limit
        outcome: str | None = None
        timed_out = False
        log.info("job %s: training %s, attempt %d", job.id, job.pipeline, job.attempts)
        try:
            process.send(self._command(job))
            while outcome is None:
                outcome = self._handle(job, process, process.receive(deadline - time.monotonic()))
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
        seconds = time.monotonic() - started
        log.info("job %s: %s after %.1f s", job.id, outcome, seconds)
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
        """Record a message of a training process. Return the job's outcome if it has ended."""
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
                self._persist(lambda: jobs.finish(job.id, message.report))
                return "done"
            case Rejected():
                self._persist(lambda: jobs.fail(job.id, message.status, message.content))
                return "failed"
            case Accepted():
                raise AssertionError("Accepted without Check")
        return None

    # --- trainings that end without a result ---

    def _after_early_exit(self, job: Job, code: int, process: TrainingProcess) -> str:
        """Decide on a job whose process ended without `Done` or `Rejected`, and return the outcome."""
        current = self._jobs.get(job.id)
        if current is None or current.state != RUNNING:
            return "cancelled"
        if self.stopping:
            self._persist(lambda: self._jobs.requeue(job.id, count_attempt=False))
            return "lost"
        reason = exit_reason(code, process)
        if code == -signal.SIGKILL:  # sent by a user, or by the kernel because memory ran out
            return self._requeue_or_fail(current, f"its process was killed ({reason})")
        return self._fail_or_requeue(job, 500, f"the training process ended: {reason}")

    def _fail_or_requeue(self, job: Job, status: int, reason: str) -> str:
        """Set a job failed. If it may have been published, queue it again: the next attempt finds out."""
        current = self._jobs.get(job.id)
        if current is not None and current.state == RUNNING and current.may_be_published:
            return self._requeue_or_fail(current, reason)
        self._persist(lambda: self._jobs.fail(job.id, status, {"msg": reason}))
        return "failed"

    def _requeue_or_fail(self, job: Job, reason: str) -> str:
        """Queue a job again, or set it failed if it had `MAX_ATTEMPTS` attempts."""
        if job.attempts >= MAX_ATTEMPTS:
            published = "; it may be in the store" if job.may_be_published else ""
            content = {"msg": f"failed after {job.attempts} attempts; at the last one {reason}{published}"}
            self._persist(lambda: self._jobs.fail(job.id, 500, content))
            return "failed"
        log.warning("job %s: %s; it is queued again", job.id, reason)

        def requeue() -> None:
            self._jobs.add_log_line(job.id, "warning", f"attempt {job.attempts}: {reason}; it is queued again")
            self._jobs.requeue(job.id, count_attempt=True)

        self._persist(requeue)
        return "lost"

    def _persist(self, change: Callable[[], T]) -> T:
        """Make a change to the queue's database, and repeat it until the disk accepts it.

        Raises `sqlite3.Error` if the server stops meanwhile. The next start requeues the job then.
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
