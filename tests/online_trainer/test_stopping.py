"""Test that the online trainer ends soon after SIGTERM, even while it waits for a server or a file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.online_trainer import PIPELINE
from support.process import ProcessUnderTest, wait_for
from support.prometheus_process import Reply, answering
from support.slow_servers import GENEROUS, SLOW_SERVERS, slow_server

TIME = b'{"status":"success","data":{"resultType":"scalar","result":[1700000000,"1700000000"]}}'
NAMES = ["kepler_container_cpu_cycles_total", "kepler_node_package_joules_total"]


def start_trainer(folder: Path, url: str) -> ProcessUnderTest:
    (folder / "test.yaml").write_text(PIPELINE)
    arguments = ["--server", url, "--store", folder / "store", "--state", folder / "state", "--port", "0"]
    command = ["serve", "online-trainer", "--pipeline", folder / "test.yaml", *arguments]
    return ProcessUnderTest(command, folder / "trainer.log")


def check_stops(trainer: ProcessUnderTest) -> None:
    """Send SIGTERM to the process, and check that it ends in time and without an error."""
    trainer.process.terminate()
    wait_for(lambda: trainer.process.poll() is not None, "the trainer still runs", GENEROUS)
    assert trainer.process.returncode == 0, trainer.log
    assert "stopped" in trainer.log
    trainer.check_log()
    assert "ERROR" not in trainer.log


# `test_prometheus_client.py` tests that the client's requests to all kinds of slow servers end at the event `stop`.
@pytest.mark.parametrize("kind", ["a-silent-server", "a-byte-at-a-time-of-the-head", "a-byte-at-a-time-of-the-body"])
def test_while_a_server_answers_slowly(kind: str, tmp_path: Path) -> None:
    pieces, repeat = SLOW_SERVERS[kind]
    with slow_server(*pieces, repeat=repeat) as server:
        trainer = start_trainer(tmp_path, server.url)
        trainer.wait_until(lambda: server.accepted > 0, "no request is sent")
        check_stops(trainer)


def test_while_several_queries_are_slow(tmp_path: Path) -> None:
    pieces, repeat = SLOW_SERVERS["a-byte-at-a-time-of-the-body"]
    names = json.dumps({"status": "success", "data": NAMES}).encode()
    with slow_server(*pieces, repeat=repeat) as slow:

        def reply(path: str, headers: Mapping[str, str]) -> Reply:
            if "/label/" in path:
                return 200, {}, names
            if "time%28%29" in path:
                return 200, {}, TIME
            return 302, {"Location": f"{slow.url}/slow"}, b""

        with answering(reply) as url:
            trainer = start_trainer(tmp_path, url)
            trainer.wait_until(lambda: slow.accepted >= 2, "no query is sent")
            check_stops(trainer)


def test_during_a_pause_that_the_server_wants(tmp_path: Path) -> None:
    requests: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        requests.append(path)
        return 503, {"Retry-After": "20"}, b""

    with answering(reply) as url:
        trainer = start_trainer(tmp_path, url)
        trainer.wait_until(lambda: bool(requests), "no request is sent")
        check_stops(trainer)


def test_while_the_store_does_not_answer(tmp_path: Path) -> None:
    """The trainer ends even if the file system of its store hangs. A named pipe imitates such a file system."""
    pipe = tmp_path / "store" / ".decisions" / "test" / "00000000000000-00000000.json"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    trainer = start_trainer(tmp_path, "http://127.0.0.1:1")
    trainer.wait_until(lambda: "serving /healthz" in trainer.log, "the rounds do not begin")
    time.sleep(1.0)
    check_stops(trainer)
    assert "in the middle of a round" in trainer.log
