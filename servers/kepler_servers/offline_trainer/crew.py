"""Who works on the queue: a bounded number of training processes, each for one job.

A process that is started for a request checks it, and then trains it if it can begin at once: what it
has imported is not imported again. Between requests there is no process.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kepler_core.messages import printable
from kepler_servers.http.app import RETRY_LATER, AnswerError
from kepler_servers.offline_trainer.jobs import CANCELLED, PUBLISHING, RUNNING, Job, Jobs
from kepler_servers.offline_trainer.messages import (
    Accepted,
    Check,
    Done,
    Expected,
    Logged,
    MayPublish,
    Message,
    Ready,
    Refused,
    Stage,
    Train,
    Trained,
)
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.process import EndedError, TrainerProcess, kill_left_over
from kepler_servers.offline_trainer.settings import Settings, StateFolder

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""A job whose process is killed by others so often is given up."""
CHECK_SECONDS = 120.0
SPARE_SECONDS = 60.0
"""A process that nothing comes for is ended."""
HOUSEKEEPING_SECONDS = 15.0

_IDLE_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class Crew:
    """Checks requests, trains what is queued, and removes what is old."""

    def __init__(self, settings: Settings, folder: StateFolder, jobs: Jobs, metrics: TrainerMetrics) -> None:
        self._settings = settings
        self._folder = folder
        self._jobs = jobs
        self._metrics = metrics
        self._mark = str(folder.root.resolve())
        self._spare: TrainerProcess | None = None
        self._checking = threading.Lock()
        self._running: dict[str, TrainerProcess] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        """Put back what an earlier run left, and begin to work."""
        if killed := kill_left_over(self._mark):
            log.warning("%d processes of an earlier run were still there, and were killed", killed)
        for job in self._jobs.running():
            self._lost(job, "the server was killed while it ran")
        self._remove_unknown()
        for number in range(self._settings.jobs):
            self._threads.append(threading.Thread(target=self._work, name=f"training {number}", daemon=True))
        self._threads.append(threading.Thread(target=self._keep_house, name="housekeeping", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all training processes; what they worked on is queued again."""
        self._stop.set()
        with self._jobs.new:
            self._jobs.new.notify_all()
        for process in list(self._running.values()):
            process.kill()
        if (spare := self._spare) is not None:
            spare.kill()  # whoever waits for its answer has the lock
        with self._checking:
            self._end_spare()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)
        self._jobs.tell_all()

    # --- checking ---

    def warm_up(self) -> None:
        """A request is on its way: have a process ready when it is here."""
        if self._checking.acquire(blocking=False):
            try:
                # where that fails, the check will say so
                with contextlib.suppress(AnswerError, OSError):
                    self._ready_spare()
            finally:
                self._checking.release()

    def check(self, body: Path) -> str:
        """The name of the pipeline that the request in this file trains; `AnswerError` says what is wrong
        with it."""
        with self._checking:
            spare = self._ready_spare()
            spare.send(Check(str(body)))
            try:
                message = spare.receive(CHECK_SECONDS)
            except (EndedError, TimeoutError) as error:
                self._spare = None
                spare.kill()
                code = spare.end()
                if self.stopping:
                    raise stopping_answer() from None
                why = "took too long" if isinstance(error, TimeoutError) else _ended(code, spare)
                log.error("checking a request failed: %s", why)
                raise AnswerError(500, {"msg": f"the request could not be checked: {why}"}) from None
            spare.used_at = time.monotonic()
        match message:
            case Accepted():
                return message.pipeline
            case Refused():
                raise AnswerError(message.status, message.content)
        raise AssertionError(f"{message} is no answer to a check")

    def _ready_spare(self) -> TrainerProcess:
        if self.stopping:
            raise stopping_answer()
        if self._spare is None or not self._spare.alive:
            self._end_spare()
            self._spare = self._new_process()
        return self._spare

    def _end_spare(self) -> None:
        if self._spare is not None:
            self._spare.kill()
            self._spare.end()
            self._spare = None

    def _new_process(self) -> TrainerProcess:
        return TrainerProcess(self._mark, self._settings.memory_limit)

    def _take_process(self) -> TrainerProcess:
        with self._checking:
            spare, self._spare = self._spare, None
        if spare is not None and spare.alive:
            return spare
        if spare is not None:
            spare.end()
        return self._new_process()

    # --- training ---

    def cancel(self, job: str) -> Job | None:
        """The job as it is then; see `Jobs.cancel`."""
        found = self._jobs.cancel(job)
        if found is not None and found.state == CANCELLED and (process := self._running.get(job)) is not None:
            process.kill()
        return found

    def _work(self) -> None:
        while not self.stopping:
            try:
                with self._jobs.new:
                    job = self._jobs.begin()
                    if job is None:
                        self._jobs.new.wait(_IDLE_SECONDS)
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
                self._insist(lambda job=job, content=content: self._jobs.fail(job.id, 500, content))  # type: ignore[misc]
            with self._jobs.new:
                self._jobs.new.notify_all()  # of this pipeline there may be more

    def _train(self, job: Job) -> None:
        settings = self._settings
        try:
            process = self._take_process()
        except OSError as error:
            log.error("job %s: no process can be started, trying again: %s", job.id, error)
            self._insist(lambda: self._jobs.put_back(job.id, count=False))
            self._stop.wait(_RETRY_SECONDS)
            return
        self._running[job.id] = process
        started = time.monotonic()
        how: str | None = None
        late = False
        log.info("job %s: training %s, attempt %d", job.id, job.pipeline, job.attempts)
        try:
            process.send(
                Train(
                    job.id,
                    str(self._folder.input(job.id)),
                    str(self._folder.result(job.id)),
                    settings.store,
                    settings.backend,
                    settings.scheduler,
                    settings.fits,
                    look_first=job.may_be_published,
                )
            )
            while how is None:
                how = self._obey(job, process, process.receive(settings.time_limit - (time.monotonic() - started)))
        except TimeoutError:
            late = True
        except EndedError:
            pass
        finally:
            if how is None:
                # all that it started goes with it
                process.kill()
            code = process.end()
            del self._running[job.id]
        if late:
            message = f"the training took longer than the {settings.time_limit:g} s that it may take"
            how = self._failed(job, 422, message)
        elif how is None:
            how = self._ended_early(job, code, process)
        log.info("job %s: %s after %.1f s", job.id, how, time.monotonic() - started)
        self._metrics.ended.labels(how).inc()
        self._metrics.seconds.observe(time.monotonic() - started)

    def _obey(self, job: Job, process: TrainerProcess, message: Message) -> str | None:
        """Write down what a process says; how the job ended, if it did."""
        jobs = self._jobs
        match message:
            case Stage():
                if not self._insist(lambda: jobs.enter(job.id, message.name)):
                    process.kill()
            case Ready():
                if self._insist(lambda: jobs.enter(job.id, PUBLISHING)):
                    process.send(MayPublish())
                else:
                    process.kill()
            case Expected():
                self._insist(lambda: jobs.expect(job.id, message.models))
            case Trained():
                self._metrics.models.labels("failed" if "reason" in message.model else "trained").inc()
                self._insist(lambda: jobs.trained(job.id, message.model))
            case Logged():
                self._insist(lambda: jobs.say(job.id, message.level, printable(message.text)))
            case Done():
                self._insist(lambda: jobs.finish(job.id, message.report))
                return "done"
            case Refused():
                self._insist(lambda: jobs.fail(job.id, message.status, message.content))
                return "failed"
            case Accepted():
                raise AssertionError("nothing was to be checked")
        return None

    def _ended_early(self, job: Job, code: int, process: TrainerProcess) -> str:
        now = self._jobs.get(job.id)
        if now is None or now.state != RUNNING:
            return "cancelled"
        if self.stopping:
            self._insist(lambda: self._jobs.put_back(job.id, count=False))
            return "lost"
        why = _ended(code, process)
        if code == -signal.SIGKILL:  # somebody's, or the kernel's for want of memory
            return self._lost(now, f"its process was killed ({why})")
        return self._failed(job, 500, f"the training process ended: {why}")

    def _failed(self, job: Job, status: int, why: str) -> str:
        """It failed; unless it may have published before: then whoever tries again looks for that first."""
        now = self._jobs.get(job.id)
        if now is not None and now.state == RUNNING and now.may_be_published:
            return self._lost(now, why)
        self._insist(lambda: self._jobs.fail(job.id, status, {"msg": why}))
        return "failed"

    def _lost(self, job: Job, why: str) -> str:
        """Train it again, unless that has been tried often enough."""
        if job.attempts >= MAX_ATTEMPTS:
            published = "; it may be in the store" if job.may_be_published else ""
            content = {"msg": f"given up after {job.attempts} attempts; at the last {why}{published}"}
            self._insist(lambda: self._jobs.fail(job.id, 500, content))
            return "failed"
        log.warning("job %s: %s; it is queued again", job.id, why)

        def again() -> None:
            self._jobs.say(job.id, "warning", f"attempt {job.attempts}: {why}; it is queued again")
            self._jobs.put_back(job.id, count=True)

        self._insist(again)
        return "lost"

    def _insist(self, change: Callable[[], T]) -> T:
        """Make a change to the queue; while the disk does not take it, try again. What is not written when
        the server stops is found out at its next start."""
        said = False
        while True:
            try:
                return change()
            except sqlite3.Error as error:
                if self.stopping:
                    raise
                if not said:
                    said = True
                    log.error("the queue cannot be written, trying again: %s", error)
                self._stop.wait(_RETRY_SECONDS)

    # --- housekeeping ---

    def _keep_house(self) -> None:
        while not self._stop.wait(HOUSEKEEPING_SECONDS):
            try:
                self.clean_up()
            except Exception:
                log.exception("housekeeping failed")

    def clean_up(self) -> None:
        """Remove what is kept no longer."""
        with self._checking:
            if self._spare is not None and time.monotonic() - self._spare.used_at > SPARE_SECONDS:
                self._end_spare()
        now = time.time()
        for job in self._jobs.over_since(now - self._settings.keep_inputs, with_input=True):
            self._folder.input(job).unlink(missing_ok=True)
            self._jobs.input_removed(job)
        for job in self._jobs.over_since(now - self._settings.keep_results, with_input=False):
            self._folder.input(job).unlink(missing_ok=True)
            self._folder.result(job).unlink(missing_ok=True)
            self._jobs.forget(job)

    def _remove_unknown(self) -> None:
        """Files of requests that never became a job, and of jobs that were forgotten."""
        known = self._jobs.known()
        for folder in (self._folder.incoming, self._folder.spool, self._folder.results):
            for file in folder.iterdir():
                if file.stem not in known or file.suffix not in (".json", ".zip"):
                    file.unlink(missing_ok=True)


def stopping_answer() -> AnswerError:
    """The answer while the server stops."""
    return AnswerError(503, {"msg": "the server is stopping"}, RETRY_LATER)


def _ended(code: int, process: TrainerProcess) -> str:
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}: {words}" if (words := process.last_words()) else how
