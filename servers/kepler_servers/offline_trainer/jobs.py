"""The job queue, an SQLite database. A method that changes the queue returns only after the change is on the disk."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kepler_servers.offline_trainer.job import (
    CANCELLED,
    DONE,
    FAILED,
    PREPARING,
    PUBLISHING,
    QUEUED,
    RUNNING,
    STATES,
    Job,
    JobHistory,
)
from kepler_servers.offline_trainer.queue_database import open_queue

MAX_LOG_LINES = 500
"""Number of log lines that are stored per job. Older lines of the job are deleted."""


class QueueFullError(Exception):
    """The queue already contains the largest allowed number of queued jobs."""


class Jobs:
    """The jobs in the queue's database. All methods are thread-safe.

    If a change cannot be written to the disk, it is rolled back and the method raises `sqlite3.Error`.
    """

    def __init__(self, path: Path, *, max_queue: int = 100) -> None:
        """Open or create the database at `path`. Raises `QueueError` as `open_queue` does."""
        self._max_queue = max_queue
        self._lock = threading.RLock()
        self._database = open_queue(path)
        self._waiting: dict[str, list[Future[None]]] = {}
        self.counts: dict[str, int] = {}
        """Number of jobs in each state. Reading this attribute never waits for the disk."""
        self.queue_changed = threading.Condition()
        """Wakes the training threads when `take_next` may return a job."""
        self._count()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # --- reading ---

    def get(self, job: str) -> Job | None:
        return self._select("SELECT * FROM jobs WHERE id = ?", job)

    def by_key(self, key: str) -> Job | None:
        """Return the job that was submitted with an idempotency key; None if there is no such job."""
        return self._select("SELECT * FROM jobs WHERE key = ?", key)

    def page(self, state: str | None, limit: int, offset: int) -> tuple[int, list[Job]]:
        """Return the number of all jobs in `state`, and a page of these jobs, the newest job first.

        If `state` is None, jobs in any state count.
        """
        where, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        with self._lock:
            (total,) = self._database.execute(f"SELECT count(*) FROM jobs {where}", values).fetchone()  # noqa: S608
            rows = self._database.execute(
                f"SELECT * FROM jobs {where} ORDER BY number DESC LIMIT ? OFFSET ?",  # noqa: S608
                (*values, limit, offset),
            ).fetchall()
        return total, [_job(row) for row in rows]

    def history(self, job: str) -> JobHistory:
        """Return the stages, models and log lines of a job."""
        with self._lock:
            stages = self._database.execute("SELECT name, started FROM stages WHERE job = ? ORDER BY rowid", (job,))
            models = self._database.execute("SELECT model FROM models WHERE job = ? ORDER BY rowid", (job,))
            log = self._database.execute("SELECT at, level, text FROM log WHERE job = ? ORDER BY rowid", (job,))
            return JobHistory(
                [(row["name"], row["started"]) for row in stages],
                [msgspec.json.decode(row["model"]) for row in models],
                [(row["at"], row["level"], row["text"]) for row in log],
            )

    def count_models(self, job: str) -> tuple[int, int]:
        """Return the number of all models, trained or failed, and the number of failed models."""
        with self._lock:
            total, failed = self._database.execute(
                "SELECT count(*), coalesce(sum(failed), 0) FROM models WHERE job = ?", (job,)
            ).fetchone()
        return total, failed

    def running(self) -> list[Job]:
        """Return the running jobs. When the server starts, these are jobs that a killed server was training."""
        with self._lock:
            rows = self._database.execute("SELECT * FROM jobs WHERE state = ? ORDER BY number", (RUNNING,)).fetchall()
        return [_job(row) for row in rows]

    def finished_before(self, moment: float, *, with_input: bool) -> list[str]:
        """Return the ids of the jobs that had ended by `moment` (Unix seconds).

        If `with_input`, only jobs that have an input file are returned.
        """
        condition = "AND has_input" if with_input else ""
        with self._lock:
            rows = self._database.execute(f"SELECT id FROM jobs WHERE finished <= ? {condition}", (moment,)).fetchall()  # noqa: S608
        return [row["id"] for row in rows]

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        with self._lock:
            return {row["id"] for row in self._database.execute("SELECT id FROM jobs")}

    # --- waiting ---

    def completion(self, job: str) -> Future[None]:
        """Return a future that completes when the job has ended, or when the server stops."""
        future: Future[None] = Future()
        with self._lock:
            current = self.get(job)
            if current is None or current.is_final:
                future.set_result(None)
            else:
                self._waiting.setdefault(job, []).append(future)
        return future

    def complete_all(self) -> None:
        """Complete all futures that `completion` returned, because the server stops."""
        with self._lock:
            for job in list(self._waiting):
                self._complete(job)

    # --- changing ---

    def add(self, job: str, *, pipeline: str, digest: str, size: int, key: str | None) -> Job:
        """Queue a new job and return it; if a job with the idempotency key exists, return that job instead.

        Raises `QueueFullError` if the largest allowed number of jobs is queued.
        """
        with self._transaction():
            if key is not None and (existing := self.by_key(key)) is not None:
                return existing
            if self.counts.get(QUEUED, 0) >= self._max_queue:
                raise QueueFullError
            self._database.execute(
                "INSERT INTO jobs (id, key, digest, size, pipeline, state, submitted) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job, key, digest, size, pipeline, QUEUED, time.time()),
            )
        added = self.get(job)
        assert added is not None
        with self.queue_changed:
            self.queue_changed.notify_all()
        return added

    def take_next(self) -> Job | None:
        """Change the state of the oldest queued job to running, and return the job; None if no job can run.

        While a job of a pipeline is running, other jobs of this pipeline stay queued, because versions must be
        published in the order in which the requests arrived.
        """
        with self._transaction():
            job = self._select(
                "SELECT * FROM jobs WHERE state = ? AND pipeline NOT IN (SELECT pipeline FROM jobs WHERE state = ?) "
                "ORDER BY number LIMIT 1",
                QUEUED,
                RUNNING,
            )
            if job is None:
                return None
            self._database.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, started = ? WHERE id = ?",
                (RUNNING, time.time(), job.id),
            )
            # If a previous attempt may have published a version, its stages and models are kept, because they describe
            # this version.
            if not job.may_be_published:
                self._delete_rows(job.id, "stages", "models")
        return self.get(job.id)

    def start_stage(self, job: str, stage: str) -> bool:
        """Record that a running job entered a stage. Return False if the job is no longer running."""
        with self._transaction():
            changed = self._database.execute(
                "UPDATE jobs SET stage = ? WHERE id = ? AND state = ?", (stage, job, RUNNING)
            ).rowcount
            if stage in (PREPARING, PUBLISHING):
                # An attempt in the stage `publishing` may publish a version. An attempt enters the stage `preparing`
                # only if no earlier attempt has published a version, so `may_be_published` is then false again.
                self._database.execute(
                    "UPDATE jobs SET may_be_published = ? WHERE id = ?", (int(stage == PUBLISHING), job)
                )
                if stage == PREPARING:
                    self._delete_rows(job, "models")
            if changed:
                self._database.execute("INSERT INTO stages VALUES (?, ?, ?)", (job, stage, time.time()))
        return bool(changed)

    def set_planned_fits(self, job: str, models: int) -> None:
        """Record the number of models that the training will fit."""
        with self._transaction():
            self._database.execute("UPDATE jobs SET expected = ? WHERE id = ?", (models, job))

    def add_model(self, job: str, model: Mapping[str, Any]) -> None:
        """Add a model to the job's models in the database. A model whose training failed has the key `reason`."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO models VALUES (?, ?, ?)",
                (job, int("reason" in model), msgspec.json.encode(model).decode()),
            )

    def add_log_line(self, job: str, level: str, text: str) -> None:
        """Append a line to the job's log and delete the oldest lines beyond `MAX_LOG_LINES`."""
        with self._transaction():
            self._database.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (job, time.time(), level, text))
            self._database.execute(
                "DELETE FROM log WHERE job = ? AND rowid NOT IN "
                "(SELECT rowid FROM log WHERE job = ? ORDER BY rowid DESC LIMIT ?)",
                (job, job, MAX_LOG_LINES),
            )

    def finish(self, job: str, report: Mapping[str, Any]) -> None:
        """Mark a running job as done, and store the report of its training."""
        with self._transaction():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ?, version = ?, report = ? WHERE id = ? AND state = ?",
                (DONE, time.time(), report["version"], msgspec.json.encode(report).decode(), job, RUNNING),
            )
        self._complete(job)

    def fail(self, job: str, status: int, content: Mapping[str, Any]) -> None:
        """Change the state of a running job to failed. `status` and `content` are the HTTP answer for its clients."""
        with self._transaction():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ?, status = ?, error = ? WHERE id = ? AND state = ?",
                (FAILED, time.time(), status, msgspec.json.encode(content).decode(), job, RUNNING),
            )
        self._complete(job)

    def cancel(self, job: str) -> Job | None:
        """Cancel a job, unless it has ended or is being published. Return its new row; None for an unknown job."""
        with self._transaction():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ? "
                "WHERE id = ? AND (state = ? OR state = ?) AND NOT may_be_published",
                (CANCELLED, time.time(), job, QUEUED, RUNNING),
            )
        current = self.get(job)
        if current is not None and current.is_final:
            self._complete(job)
        return current

    def requeue(self, job: str, *, count_attempt: bool) -> None:
        """Change the state of a running job back to queued.

        If `count_attempt` is false, the interrupted attempt is not counted.
        """
        with self._transaction():
            self._database.execute(
                "UPDATE jobs SET state = ?, attempts = attempts - ? WHERE id = ? AND state = ?",
                (QUEUED, 0 if count_attempt else 1, job, RUNNING),
            )
        with self.queue_changed:
            self.queue_changed.notify_all()

    def mark_input_removed(self, job: str) -> None:
        """Record that the file with the job's training request was removed."""
        with self._transaction():
            self._database.execute("UPDATE jobs SET has_input = 0 WHERE id = ?", (job,))

    def remove(self, job: str) -> None:
        """Delete a job and its history."""
        with self._transaction():
            self._delete_rows(job, "stages", "models", "log")
            self._database.execute("DELETE FROM jobs WHERE id = ?", (job,))

    # --- internals ---

    def _delete_rows(self, job: str, *tables: str) -> None:
        for table in tables:
            self._database.execute(f"DELETE FROM {table} WHERE job = ?", (job,))  # noqa: S608

    def _select(self, statement: str, *values: Any) -> Job | None:
        with self._lock:
            row = self._database.execute(statement, values).fetchone()
        return None if row is None else _job(row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._count()

    def _count(self) -> None:
        """Update the attribute `counts` from the database."""
        rows = self._database.execute("SELECT state, count(*) AS n FROM jobs GROUP BY state").fetchall()
        self.counts = dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in rows}

    def _complete(self, job: str) -> None:
        with self._lock:
            futures = self._waiting.pop(job, [])
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for flag in ("has_input", "may_be_published"):
        values[flag] = bool(values[flag])
    return Job(**values)
