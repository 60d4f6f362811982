"""Tests of `kepler-model health` with running servers, and with servers that answer badly."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import kepler
from support.estimator_process import running_estimator
from support.meter_process import SensorMachine, running_meter
from support.process import PATIENCE, wait_for
from support.prometheus_process import answering
from support.server_process import ServerProcess, free_port
from support.slow_servers import GENEROUS, HEAD, SlowServer

PORT_KEYS = ("MODEL_SERVER_PORT", "OFFLINE_TRAINER_PORT", "ONLINE_TRAINER_PORT", "METER_METRICS_PORT")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration folder with free ports, so that the health checks find no running server."""
    folder = tmp_path / "config"
    folder.mkdir()
    for key in PORT_KEYS:
        (folder / key).write_text(str(free_port()))
    (folder / "ESTIMATOR_SOCKET").write_text(str(tmp_path / "none.sock"))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "store").mkdir()
    process = ServerProcess(tmp_path / "store", tmp_path / "server.log")
    try:
        process.wait_ready("/healthz")
        yield process
    finally:
        process.stop()


def test_a_model_server_without_models_is_healthy_but_not_ready(server: ServerProcess, config: Path) -> None:
    url = f"http://127.0.0.1:{server.port}"
    done = kepler("health", url)
    reason = f"the store {server.log_path.parent / 'store'} has no model yet"
    assert (done.returncode, done.stdout) == (0, f"{url}/healthz: ok: {reason}\n")
    done = kepler("health", "--ready", url)
    assert (done.returncode, done.stdout) == (1, f"{url}/readyz: not ready: {reason}\n")
    (config / "MODEL_SERVER_PORT").write_text(str(server.port))
    done = kepler("health", "-c", config)
    assert (done.returncode, done.stdout) == (0, f"{url}/healthz: ok: {reason}\n")


def test_all_servers_of_the_machine_are_found(server: ServerProcess, config: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, running_estimator(Path(folder) / "e.sock") as estimator:
        (config / "MODEL_SERVER_PORT").write_text(str(server.port))
        (config / "ESTIMATOR_SOCKET").write_text(str(estimator.path))
        done = kepler("health", "-c", config, "--json")
        assert done.returncode == 0
        assert [(one["target"], one["healthy"]) for one in json.loads(done.stdout)] == [
            (f"http://127.0.0.1:{server.port}/healthz", True),
            (str(estimator.path), True),
        ]
        done = kepler("health", "-c", config, "--ready")
        assert done.returncode == 1
        assert f"{estimator.path}: not ready: no model server, URL or store is configured\n" in done.stdout


def test_no_server_is_a_failure(config: Path) -> None:
    done = kepler("health", "-c", config)
    assert done.returncode == 1
    assert done.stderr.startswith("kepler-model: error: no server listens at http://127.0.0.1:")
    (config / "MODEL_SERVER_PORT").write_text("many")
    done = kepler("health", "-c", config)
    assert (done.returncode, done.stderr) == (2, "kepler-model: error: MODEL_SERVER_PORT: 'many' is not a number\n")


def status_of(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_meter_without_an_estimate_is_healthy_but_not_ready(tmp_path: Path) -> None:
    machine = SensorMachine(tmp_path / "machine")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running_meter(machine.root, tmp_path / "tree", "--source", "hwmon", "--metrics-port", str(port)):
        wait_for(lambda: status_of(f"{url}/readyz") == (200, {"not_ready": None}), "the meter is not ready")
        machine.set(0)
        wait_for(
            lambda: status_of(f"{url}/readyz")[0] == 503, "the meter stays ready although the sensor does not measure"
        )
        assert status_of(f"{url}/readyz")[1]["not_ready"]
        assert status_of(f"{url}/healthz")[0] == 200
        assert kepler("health", url).stdout == f"{url}/healthz: ok\n"
        assert kepler("health", url, "--ready").returncode == 1


def test_an_estimator_that_hangs_is_not_healthy(tmp_path: Path) -> None:
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_estimator(Path(folder) / "e.sock", "--metrics-port", str(port)) as estimator,
    ):
        assert status_of(f"http://127.0.0.1:{port}/healthz")[0] == 200
        os.kill(estimator.process.pid, signal.SIGSTOP)
        try:
            for target in (str(estimator.path), f"http://127.0.0.1:{port}"):
                done = kepler("health", "--timeout", "0.5", target)
                assert done.returncode == 1
                assert "within 0.5 s" in done.stdout or "timed out" in done.stdout, done.stdout
        finally:
            os.kill(estimator.process.pid, signal.SIGCONT)


def test_an_endless_answer_is_cut() -> None:
    server = SlowServer(HEAD, repeat=b" ")
    try:
        start = time.monotonic()
        done = kepler("health", "--timeout", "1", server.url)
        assert time.monotonic() - start < GENEROUS
    finally:
        server.close()
    assert done.returncode == 1
    assert done.stdout.endswith("/healthz: no answer: not complete within 1 s\n")


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (500, b"<html>", "HTTP status 500, and the answer is not JSON"),
        (503, b'{"not_ready":"a\\u001b[31m\\nb"}', "not ready: a [31m b"),
        (200, b'{"status":"degraded","store_problem":"gone"}', "degraded: gone"),
        (404, b'{"error":"no such path"}', "not ready: no such path"),
    ],
)
def test_answers_of_any_server(status: int, body: bytes, state: str) -> None:
    with answering(lambda path, headers: (status, {}, body)) as url:
        done = kepler("health", url.replace("http://", "http://user:secret@"))
    assert done.stdout == f"{url}/healthz: {state}\n"
    assert done.returncode == (0 if status == 200 else 1)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("localhost:8100", "neither a URL nor the path of a socket; did you mean http://localhost:8100 ?"),
        ("ftp://host", "not the URL of a server"),
        ("http://host:99999", "Port out of range"),
        ("http://[", "not a URL"),
    ],
)
def test_wrong_targets(target: str, error: str) -> None:
    done = kepler("health", target)
    assert done.returncode in (1, 2)
    assert error in done.stderr
