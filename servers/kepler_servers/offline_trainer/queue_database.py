"""Open the database of the job queue. If it is damaged or cannot be written, raise an error with a one-line reason.

A damaged database is never repaired, replaced or removed, because it may be the only record of jobs that
the server has accepted.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kepler_core.errors import UsageError

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


class QueueError(UsageError):
    """The queue's database cannot be used."""


def open_queue(path: Path) -> sqlite3.Connection:
    """Open or create the database at `path`, and check that it is undamaged.

    Raises `QueueError` if the database is damaged, cannot be written, or is not the database of a queue.
    """
    _check_write_ahead_log(path)
    with _reporting(path):
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        with _reporting(path):
            database.row_factory = sqlite3.Row
            _check_undamaged(database, path)
            _check_schema(database, path)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _check_write_ahead_log(path: Path) -> None:
    """Raise `QueueError` if the database is missing or empty, but its write-ahead log has content.

    SQLite would remove this log, which may contain jobs.
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        if log.stat().st_size and not (path.exists() and path.stat().st_size):
            raise _damaged(path, f"it is missing or empty, but there is a write-ahead log of it, {log.name}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise QueueError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_undamaged(database: sqlite3.Connection, path: Path) -> None:
    (problem,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise _damaged(path, " ".join(problem.split()))


def _check_schema(database: sqlite3.Connection, path: Path) -> None:
    """Check that the database is empty, or has the tables and columns of a queue. Otherwise, raise `QueueError`."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, _FORMAT):
        raise QueueError(
            f"{path} has format {version}, but this version of kepler-model uses format {_FORMAT}: use the version "
            "of kepler-model that wrote it, or give another --state"
        )
    tables = _tables(database)
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(_SCHEMA)
        expected = _tables(empty)
    if tables and tables != expected:
        raise QueueError(f"{path} does not have the tables of a queue: move it elsewhere, or give another --state")


def _tables(database: sqlite3.Connection) -> dict[str, set[str]]:
    """Return the column names of each table in the database."""
    names = [
        row[0]
        for row in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
    ]
    columns = "SELECT name FROM pragma_table_info(?)"
    return {name: {row[0] for row in database.execute(columns, (name,))} for name in names}


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Context manager that raises `QueueError` in place of the errors of SQLite."""
    try:
        yield
    except sqlite3.Error as error:
        # the low byte of the code is the kind of the error; the other bytes are details
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise _damaged(path, str(error)) from error
        if code == sqlite3.SQLITE_BUSY:
            raise QueueError(f"{path} is locked by another program; end that program") from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise QueueError(f"{path} cannot be written ({error}): is the disk full?") from error
        raise QueueError(f"{path} cannot be written ({error}): check the permissions of its folder") from error


def _damaged(path: Path, problem: str) -> QueueError:
    return QueueError(
        f"{path} is damaged ({problem}): restore it, or move the files {path.name}* elsewhere to start with an empty "
        f"queue; the requests of its jobs stay in {path.parent}"
    )
