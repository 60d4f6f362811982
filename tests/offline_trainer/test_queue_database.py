"""Tests of damaged, unwritable or foreign queue files: the server reports one line, and deletes no accepted request."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import PATIENCE, wait_for
from support.small_disk import fill_disk, make_read_only, small_disk
from support.trainer_server import MODEL_TRAINED, Breakpoints, TrainerFolder, request, start, training

from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.queue_database import QueueError, open_queue

JOBS = 200
"""Number of jobs in the queue of the tests. The jobs take many pages of the SQLite database."""


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """Write a queue with `JOBS` jobs, close it, and return its path."""
    path = tmp_path / "queue.sqlite3"
    jobs = Jobs(path, max_queue=JOBS)
    for number in range(JOBS):
        jobs.add(f"{number:032x}", pipeline="small", digest="0" * 64, size=1, key=f"key-{number}" * 20)
    jobs.close()
    return path


def copy_of_a_running_server(queue: Path) -> None:
    """Replace the queue by the files that a killed server leaves behind: a database and its write-ahead log."""
    folder = queue.parent / "killed"
    folder.mkdir()
    jobs = Jobs(queue, max_queue=2 * JOBS)
    jobs.add("f" * 32, pipeline="small", digest="0" * 64, size=1, key=None)
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{queue}{suffix}", folder)
    jobs.close()
    for file in folder.iterdir():
        shutil.copy(file, queue.parent)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def without_database(queue: Path) -> None:
    copy_of_a_running_server(queue)
    queue.unlink()


def with_empty_database(queue: Path) -> None:
    copy_of_a_running_server(queue)
    os.truncate(queue, 0)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda queue: queue.write_text("no database " * 1000), "is damaged"),
    "truncated": (lambda queue: os.truncate(queue, queue.stat().st_size // 2), "is damaged"),
    "truncated in its header": (lambda queue: os.truncate(queue, 50), "is damaged"),
    "zeros": (lambda queue: queue.write_bytes(bytes(8192)), "is damaged"),
    "overwritten page": (lambda queue: overwrite(queue, 3 * 4096, b"\xff" * 4096), "is damaged"),
    "overwritten schema": (lambda queue: overwrite(queue, 100, b"\xff" * 3996), "is damaged"),
    "lost database beside a log": (without_database, "write-ahead log"),
    "empty database beside a log": (with_empty_database, "write-ahead log"),
    "newer format": (lambda queue: execute(queue, "PRAGMA user_version = 2"), "has format 2"),
    "missing table": (lambda queue: execute(queue, "DROP TABLE log"), "tables of a queue"),
    "missing column": (lambda queue: execute(queue, "ALTER TABLE jobs DROP COLUMN stage"), "tables of a queue"),
    "another program's": (
        lambda queue: (queue.unlink(), execute(queue, "CREATE TABLE places (url TEXT)")),
        "tables of a queue",
    ),
    "folder": (lambda queue: (queue.unlink(), queue.mkdir()), "cannot be"),
    "link that leads to itself": (lambda queue: (queue.unlink(), queue.symlink_to(queue)), "cannot be"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_queue_is_reported_in_one_line_and_stays(queue: Path, case: str) -> None:
    make_unusable, message = UNUSABLE[case]
    make_unusable(queue)
    before = {path.name: path.read_bytes() for path in queue.parent.iterdir() if path.is_file()}
    for _ in range(2):
        with pytest.raises(QueueError) as caught:
            open_queue(queue)
        text = str(caught.value)
        assert message in text, text
        assert str(queue) in text
        assert "\n" not in text
    after = {path.name: path.read_bytes() for path in queue.parent.iterdir() if path.is_file()}
    # SQLite may change queue.sqlite3-shm, the shared-memory index, because it can compute the index again
    for name in before.keys() - {"queue.sqlite3-shm"}:
        assert after[name] == before[name], name


def test_a_queue_that_a_kill_left_behind_keeps_its_jobs(queue: Path) -> None:
    copy_of_a_running_server(queue)
    overwrite(Path(f"{queue}-shm"), 0, b"\xff" * 200)
    jobs = Jobs(queue)
    assert len(jobs.ids()) == JOBS + 1
    jobs.close()


def test_an_empty_file_becomes_a_queue(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    path.touch()
    jobs = Jobs(path)
    assert not jobs.ids()
    jobs.close()


def test_a_queue_that_another_program_locks(queue: Path) -> None:
    with contextlib.closing(sqlite3.connect(queue, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(QueueError, match="locked by another program"):
            open_queue(queue)
    open_queue(queue).close()


@pytest.mark.parametrize(
    ("size", "make_unwritable", "message"),
    [
        ("1m", make_read_only, "Read-only|readonly|unable to open"),
        ("64k", lambda disk: fill_disk(disk / "filler"), "full"),
    ],
    ids=["read-only", "full"],
)
def test_a_folder_that_cannot_be_written(
    own: TrainerFolder, size: str, make_unwritable: Callable[[Path], object], message: str
) -> None:
    disk = own.root / "disk"
    with small_disk(disk, size):
        state = disk / "state"
        for folder in ("incoming", "spool", "results"):
            (state / folder).mkdir(parents=True)
        make_unwritable(disk)
        server = start(own.root, "--state", str(state))
        assert server.process.wait(PATIENCE) == 2, server.log
        (line,) = server.log.splitlines()
        assert any(word in line for word in message.split("|")), line


def test_a_damaged_queue_ends_the_server_and_keeps_the_requests(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set(MODEL_TRAINED)
    server = start(own.root, environ=breakpoints.environ)
    server.wait_ready()
    running = server.submit(request(name="running"))
    server.submit(request(name="queued"))
    breakpoints.wait(MODEL_TRAINED)
    server.kill()
    inputs = own.inputs()
    assert len(inputs) == 2
    wait_for(lambda: not own.processes(), "the training processes go on")
    # `close` moves the write-ahead log into the database.
    open_queue(own.state / "queue.sqlite3").close()
    overwrite(own.state / "queue.sqlite3", 0, b"damaged" * 10)

    server = start(own.root, environ=breakpoints.environ)
    assert server.process.wait(PATIENCE) == 2, server.log
    (line,) = server.log.splitlines()
    assert "queue.sqlite3 is damaged" in line
    assert "move the files queue.sqlite3* elsewhere" in line
    assert own.inputs() == inputs

    for file in own.state.glob("queue.sqlite3*"):
        file.rename(own.root / file.name)
    breakpoints.clear(MODEL_TRAINED)
    for _ in range(2):
        with training(own.root, environ=breakpoints.environ) as server:
            assert server.get("/jobs").json()["total"] == 0
            assert {path.name for path in (own.state / "set-aside").iterdir()} == inputs
    with training(own.root, environ=breakpoints.environ) as server:
        body = (own.state / "set-aside" / f"{running.rpartition('/')[2]}.json").read_bytes()
        server.until(server.submit(body), "done")
    assert own.versions("running") == [1]
