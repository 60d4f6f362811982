"""Tests of the process that checks training requests: what happens if this process is killed during a check."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.process import PATIENCE, wait_for
from support.trainer_server import TrainerFolder, request

from kepler_servers.http.answer import HttpError
from kepler_servers.offline_trainer import warm_worker
from kepler_servers.offline_trainer.warm_worker import WarmWorker


@pytest.fixture
def worker(own: TrainerFolder) -> Iterator[WarmWorker]:
    worker = WarmWorker(str(own.state), 2**32, str(own.root / "store"))
    yield worker
    worker.stop()


def begin_check(worker: WarmWorker, own: TrainerFolder, body: Path) -> tuple[int, Future[str]]:
    """Let a suspended process begin a check, and kill the process. Return its id and the future of the check."""
    worker.prepare()
    wait_for(own.training_processes, "the process does not start")
    (pid,) = own.training_processes()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(worker.check, body)
        time.sleep(0.2)
        assert not result.done()
        os.kill(pid, signal.SIGKILL)
    return pid, result


def test_a_request_is_checked_again_if_the_checking_process_is_killed(
    worker: WarmWorker, own: TrainerFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps(request(name="small")))
    pid, result = begin_check(worker, own, body)
    assert result.result(PATIENCE) == "small"
    assert "ended (signal SIGKILL); checking again" in caplog.text
    assert pid not in own.training_processes()


def test_a_request_fails_if_every_checking_process_is_killed(
    worker: WarmWorker, own: TrainerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_worker, "CHECK_ATTEMPTS", 1)
    body = tmp_path / "body"
    body.write_text(json.dumps(request(name="small")))
    _, result = begin_check(worker, own, body)
    with pytest.raises(HttpError, match="the request could not be checked: signal SIGKILL") as error:
        result.result(PATIENCE)
    assert error.value.status == 500
    assert worker.check(body) == "small"
