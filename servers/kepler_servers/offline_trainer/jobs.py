"""The queue: jobs and all that happened to them, in SQLite. Every change is on the disk before it is told."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import msgspec

QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = ("queued", "running", "done", "failed", "cancelled")
OVER = (DONE, FAILED, CANCELLED)
PREPARING = "preparing"
PUBLISHING = "publishing"

MAX_LINES = 500
"""Log lines that are kept of a job: the last ones."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    pipeline TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    submitted REAL NOT NULL,
    started REAL,
    finished REAL,
    stage TEXT,
    may_be_published INTEGER NOT NULL DEFAULT 0,
    expected INTEGER,
    version INTEGER,
    report TEXT,
    status INTEGER,
    error TEXT,
    has_input INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS stages (job TEXT NOT NULL, name TEXT NOT NULL, started REAL NOT NULL);
CREATE INDEX IF NOT EXISTS stages_by_job ON stages (job);
CREATE TABLE IF NOT EXISTS models (job TEXT NOT NULL, failed INTEGER NOT NULL, model TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS models_by_job ON models (job);
CREATE TABLE IF NOT EXISTS log (job TEXT NOT NULL, at REAL NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS log_by_job ON log (job);
"""
_FORMAT = 1


class QueueFullError(Exception):
    """As many jobs wait as may."""


class QueueFormatError(Exception):
    """The file is another program's, or another version's."""


@attrs.frozen
class Job:
    """A job as it is now. Times are Unix seconds."""

    number: int
    id: str
    key: str | None
    digest: str
    """SHA-256 of the request's JSON."""
    size: int
    """Bytes of the request's JSON."""
    pipeline: str
    state: str
    attempts: int
    """How often its training began."""
    submitted: float
    started: float | None
    finished: float | None
    stage: str | None
    may_be_published: bool
    """A training process was told that it may publish, and what became of that is not known."""
    expected: int | None
    """Models that are trained."""
    version: int | None
    """Of the pipeline in the store."""
    report: str | None
    """JSON, as of `train --json`."""
    status: int | None
    """What a client that waits is answered with where the job failed…"""
    error: str | None
    """…and the JSON that comes with it."""
    has_input: bool

    @property
    def over(self) -> bool:
        return self.state in OVER


@attrs.frozen
class Progress:
    """What happened to a job."""

    stages: list[tuple[str, float]]
    models: list[dict[str, Any]]
    log: list[tuple[float, str, str]]


class Jobs:
    """All jobs that are not forgotten. Methods may be called by any thread; `sqlite3.Error` where the disk
    does not take a change, which then was not made."""

    def __init__(self, path: Path, *, max_queue: int = 100) -> None:
        self._max_queue = max_queue
        self._using = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            (found,) = self._database.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise QueueFormatError(f"{path} is of format {found}; this version writes format {_FORMAT}")
            self._database.executescript(_SCHEMA)
            self._database.execute(f"PRAGMA user_version = {_FORMAT}")
        except sqlite3.DatabaseError as error:
            raise QueueFormatError(f"{path}: {error}") from error
        self._waiting: dict[str, list[Future[None]]] = {}
        self.counts: dict[str, int] = {}
        """How many jobs are in each state; may be read without waiting for the disk."""
        self.new = threading.Condition()
        """Is notified when a job may have been queued."""
        with self._changing():
            pass

    def close(self) -> None:
        with self._using:
            self._database.close()

    # --- reading ---

    def get(self, job: str) -> Job | None:
        return self._one("SELECT * FROM jobs WHERE id = ?", job)

    def by_key(self, key: str) -> Job | None:
        """The job of an idempotency key."""
        return self._one("SELECT * FROM jobs WHERE key = ?", key)

    def page(self, state: str | None, limit: int, offset: int) -> tuple[int, list[Job]]:
        """How many there are, and a page of them, the newest first."""
        which, values = ("", ()) if state is None else ("WHERE state = ?", (state,))
        with self._using:
            (total,) = self._database.execute(f"SELECT count(*) FROM jobs {which}", values).fetchone()  # noqa: S608
            rows = self._database.execute(
                f"SELECT * FROM jobs {which} ORDER BY number DESC LIMIT ? OFFSET ?",  # noqa: S608
                (*values, limit, offset),
            ).fetchall()
        return total, [_job(row) for row in rows]

    def progress(self, job: str) -> Progress:
        with self._using:
            stages = self._database.execute("SELECT name, started FROM stages WHERE job = ? ORDER BY rowid", (job,))
            models = self._database.execute("SELECT model FROM models WHERE job = ? ORDER BY rowid", (job,))
            log = self._database.execute("SELECT at, level, text FROM log WHERE job = ? ORDER BY rowid", (job,))
            return Progress(
                [(row["name"], row["started"]) for row in stages],
                [msgspec.json.decode(row["model"]) for row in models],
                [(row["at"], row["level"], row["text"]) for row in log],
            )

    def counted_models(self, job: str) -> tuple[int, int]:
        """How many models are trained, and how many of them failed."""
        with self._using:
            total, failed = self._database.execute(
                "SELECT count(*), coalesce(sum(failed), 0) FROM models WHERE job = ?", (job,)
            ).fetchone()
        return total, failed

    def over(self, job: str) -> Future[None]:
        """Done when the job is over, or when the server stops."""
        future: Future[None] = Future()
        with self._using:
            found = self.get(job)
            if found is None or found.over:
                future.set_result(None)
            else:
                self._waiting.setdefault(job, []).append(future)
        return future

    def tell_all(self) -> None:
        """The server stops: nobody is to wait any longer."""
        with self._using:
            for job in list(self._waiting):
                self._tell(job)

    # --- changing ---

    def add(self, job: str, *, pipeline: str, digest: str, size: int, key: str | None) -> Job:
        """A new job, queued; or the one that has the key already. `QueueFullError`."""
        with self._changing():
            if key is not None and (known := self.by_key(key)) is not None:
                return known
            if self.counts.get(QUEUED, 0) >= self._max_queue:
                raise QueueFullError
            self._database.execute(
                "INSERT INTO jobs (id, key, digest, size, pipeline, state, submitted) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job, key, digest, size, pipeline, QUEUED, time.time()),
            )
        added = self.get(job)
        assert added is not None
        with self.new:
            self.new.notify_all()
        return added

    def begin(self) -> Job | None:
        """Take the job that waits longest; its training begins now. Not one of a pipeline that is being
        trained: the versions would be published in another order than they were sent."""
        with self._changing():
            found = self._one(
                "SELECT * FROM jobs WHERE state = ? AND pipeline NOT IN (SELECT pipeline FROM jobs WHERE state = ?) "
                "ORDER BY number LIMIT 1",
                QUEUED,
                RUNNING,
            )
            if found is None:
                return None
            self._database.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, started = ? WHERE id = ?",
                (RUNNING, time.time(), found.id),
            )
            if not found.may_be_published:  # else this is what the published version was trained from
                self._forget_rows(found.id, "stages", "models")
        return self.get(found.id)

    def enter(self, job: str, stage: str) -> bool:
        """A part of the work begins; False if the job runs no longer, because it was cancelled."""
        with self._changing():
            changed = self._database.execute(
                "UPDATE jobs SET stage = ? WHERE id = ? AND state = ?", (stage, job, RUNNING)
            ).rowcount
            if stage in (PREPARING, PUBLISHING):
                # whoever prepares has looked: an earlier attempt did not publish
                self._database.execute(
                    "UPDATE jobs SET may_be_published = ? WHERE id = ?", (int(stage == PUBLISHING), job)
                )
                if stage == PREPARING:
                    self._forget_rows(job, "models")
            if changed:
                self._database.execute("INSERT INTO stages VALUES (?, ?, ?)", (job, stage, time.time()))
        return bool(changed)

    def expect(self, job: str, models: int) -> None:
        with self._changing():
            self._database.execute("UPDATE jobs SET expected = ? WHERE id = ?", (models, job))

    def trained(self, job: str, model: Mapping[str, Any]) -> None:
        with self._changing():
            self._database.execute(
                "INSERT INTO models VALUES (?, ?, ?)",
                (job, int("reason" in model), msgspec.json.encode(model).decode()),
            )

    def say(self, job: str, level: str, text: str) -> None:
        """Add a line to its log."""
        with self._changing():
            self._database.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (job, time.time(), level, text))
            self._database.execute(
                "DELETE FROM log WHERE job = ? AND rowid NOT IN "
                "(SELECT rowid FROM log WHERE job = ? ORDER BY rowid DESC LIMIT ?)",
                (job, job, MAX_LINES),
            )

    def finish(self, job: str, report: Mapping[str, Any]) -> None:
        with self._changing():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ?, version = ?, report = ? WHERE id = ? AND state = ?",
                (DONE, time.time(), report["version"], msgspec.json.encode(report).decode(), job, RUNNING),
            )
        self._tell(job)

    def fail(self, job: str, status: int, content: Mapping[str, Any]) -> None:
        with self._changing():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ?, status = ?, error = ? WHERE id = ? AND state = ?",
                (FAILED, time.time(), status, msgspec.json.encode(content).decode(), job, RUNNING),
            )
        self._tell(job)

    def cancel(self, job: str) -> Job | None:
        """The job as it is then: not cancelled if it is over, or is being published."""
        with self._changing():
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ? "
                "WHERE id = ? AND (state = ? OR state = ?) AND NOT may_be_published",
                (CANCELLED, time.time(), job, QUEUED, RUNNING),
            )
        found = self.get(job)
        if found is not None and found.over:
            self._tell(job)
        return found

    def put_back(self, job: str, *, count: bool) -> None:
        """Queue a job again whose training ended without an end; `count`: that was an attempt."""
        with self._changing():
            self._database.execute(
                "UPDATE jobs SET state = ?, attempts = attempts - ? WHERE id = ? AND state = ?",
                (QUEUED, 0 if count else 1, job, RUNNING),
            )
        with self.new:
            self.new.notify_all()

    def running(self) -> list[Job]:
        """Jobs that are being trained, or were when the server died."""
        with self._using:
            rows = self._database.execute("SELECT * FROM jobs WHERE state = ? ORDER BY number", (RUNNING,)).fetchall()
        return [_job(row) for row in rows]

    def over_since(self, before: float, *, with_input: bool) -> list[str]:
        """Jobs that were over at that time; `with_input`: only those whose input is still there."""
        which = "AND has_input" if with_input else ""
        with self._using:
            rows = self._database.execute(f"SELECT id FROM jobs WHERE finished <= ? {which}", (before,)).fetchall()  # noqa: S608
        return [row["id"] for row in rows]

    def input_removed(self, job: str) -> None:
        with self._changing():
            self._database.execute("UPDATE jobs SET has_input = 0 WHERE id = ?", (job,))

    def forget(self, job: str) -> None:
        """Remove a job that is over."""
        with self._changing():
            self._forget_rows(job, "stages", "models", "log")
            self._database.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def known(self) -> set[str]:
        """The ids of all jobs."""
        with self._using:
            return {row["id"] for row in self._database.execute("SELECT id FROM jobs")}

    # --- parts ---

    def _forget_rows(self, job: str, *tables: str) -> None:
        for table in tables:
            self._database.execute(f"DELETE FROM {table} WHERE job = ?", (job,))  # noqa: S608

    def _one(self, statement: str, *values: Any) -> Job | None:
        with self._using:
            row = self._database.execute(statement, values).fetchone()
        return None if row is None else _job(row)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._using:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            rows = self._database.execute("SELECT state, count(*) AS n FROM jobs GROUP BY state").fetchall()
            self.counts = dict.fromkeys(STATES, 0) | {row["state"]: row["n"] for row in rows}

    def _tell(self, job: str) -> None:
        with self._using:
            waiting = self._waiting.pop(job, [])
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


def new_id() -> str:
    """An id that nobody guesses."""
    return uuid.uuid4().hex


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for flag in ("has_input", "may_be_published"):
        values[flag] = bool(values[flag])
    return Job(**values)
