"""Tests of the start, the settings, the worker processes and the stop of the model server."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
from support.live_store import LiveStore
from support.model_server import (
    LARGE_ZIP,
    MINIMAL,
    MODELS,
    checked_error,
    checked_weights,
    kepler_process,
    post_bytes,
    read_all,
    total,
)
from support.process import PATIENCE, wait_for
from support.server_process import ServerProcess, ask, free_port, serving
from support.small_pipelines import CAPTURED, SmallModel, linear, pipeline
from support.web_server import web_server

from kepler_core.store.archive import archive_bytes
from kepler_core.store.local import LocalStore

# --- stop ---


def wait_port_closed(server: ServerProcess) -> None:
    def refused() -> bool:
        try:
            server.raw().close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for(refused, "the port is still open")


def test_sigterm_lets_requests_finish(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log") as server:
        request = post_bytes(CAPTURED, close=True)
        half_sent = [server.raw() for _ in range(8)]
        for connection in half_sent:
            connection.sendall(request[:-200])
        half_read = []
        for _ in range(4):
            client = server.connect()
            client.request("GET", f"/models/made/{LARGE_ZIP.path}.zip")
            response = client.getresponse()
            assert response.read(1000)
            half_read.append((client, response))
        idle = server.connect()
        ask(idle, "GET", "/healthz")
        server.process.send_signal(signal.SIGTERM)
        wait_port_closed(server)
        for connection in half_sent:
            connection.sendall(request[-200:])
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
            connection.close()
        expected = store.snapshot("made").read(f"{LARGE_ZIP.path}.zip")
        for client, response in half_read:
            assert len(response.read()) == len(expected) - 1000
            client.close()
        idle.close()
        assert server.process.wait(PATIENCE) == 0


def test_sigint_stops_too(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0


# --- workers ---


def test_two_workers_add_up_their_counters(store: LocalStore, tmp_path: Path) -> None:
    with serving(store.root, tmp_path / "log", "--workers", "2") as server:
        before = total(server.metrics(), "kepler_model_server_requests_total", endpoint="model", status="200")
        for _ in range(40):
            checked_weights(server.post(CAPTURED))
        # Any of the two workers may answer a request for metrics. The answer must be the sum over the two workers.
        for _ in range(6):
            samples = server.metrics()
            requests = total(samples, "kepler_model_server_requests_total", endpoint="model", status="200")
            assert requests - before == 40
            assert total(samples, "kepler_model_server_request_seconds_count", endpoint="model") == 40
            assert total(samples, "kepler_model_server_models", pipeline="made") == len(MODELS)
            assert total(samples, "kepler_model_server_store_up") == 1


def test_two_workers_serve_a_new_pipeline(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish("first", pipeline(SmallModel()))
    with serving(store.root, tmp_path / "log", "--workers", "2") as server:
        store.publish("second", pipeline(SmallModel(weights={"package": linear(77.0)})))
        request = {**MINIMAL, "weight": True, "pipeline_name": "second"}
        wait_for(
            lambda: all(server.post(request).status == 200 for _ in range(10)), "not all workers serve the new one"
        )


def test_dead_worker_is_replaced(store: LocalStore, tmp_path: Path) -> None:
    server = ServerProcess(store.root, tmp_path / "log")
    try:
        server.wait_ready()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)

        def answers() -> bool:
            try:
                return server.post(CAPTURED).status == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_for(answers, "no worker answers any more")
    finally:
        assert server.stop() == 0


# --- INITIAL_PIPELINE_URL ---


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    """A folder with the zip archives of two pipelines, which are named `local` and `remote`."""
    source = LocalStore(tmp_path / "source")
    folder = tmp_path / "zips"
    folder.mkdir()
    for name in ("local", "remote"):
        source.publish(name, pipeline(SmallModel(weights={"package": linear(11.0)})))
        (folder / f"{name}.zip").write_bytes(archive_bytes(source.snapshot(name)))
    return folder


def test_initial_pipelines(tmp_path: Path, zips: Path) -> None:
    """If one of two initial pipelines cannot be downloaded, the server imports the other one, and retries later."""
    port = free_port()
    urls = f"file://{zips / 'local.zip'} , http://127.0.0.1:{port}/remote.zip,"
    store = LocalStore(tmp_path / "store")
    environ = {"INITIAL_PIPELINE_URL": urls}
    with serving(store.root, tmp_path / "log", environ=environ, ready_path="/healthz") as server:
        live = LiveStore(store, server)
        live.wait_for_bias("local", 11.0)
        wait_for(lambda: f"http://127.0.0.1:{port}/remote.zip" in server.log, "the log does not name the missing one")
        assert live.bias("remote") is None
        with web_server(zips, port):
            live.wait_for_bias("remote", 11.0)
        assert store.versions("local") == store.versions("remote") == [1]


def test_initial_pipelines_of_the_store_are_not_published_again(tmp_path: Path, zips: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish("local", pipeline(SmallModel(weights={"package": linear(11.0)})))
    urls = f"file://{zips / 'local.zip'},file://{tmp_path / 'nothing.zip'}"
    environ = {"INITIAL_PIPELINE_URL": urls}
    with serving(store.root, tmp_path / "log", environ=environ, ready_path="/healthz") as server:
        wait_for(lambda: "nothing.zip" in server.log, "the log does not name the missing one")
        assert LiveStore(store, server).bias("local") == 11.0
    assert store.versions("local") == [1]


def test_initial_pipelines_do_not_lock_the_store(tmp_path: Path) -> None:
    """Worker processes that start during an import do not inherit the store's lock. Otherwise it would stay locked."""
    source = LocalStore(tmp_path / "source")
    names = [f"p{number}" for number in range(60)]
    for name in names:
        source.publish(name, pipeline(SmallModel()))
        (tmp_path / f"{name}.zip").write_bytes(archive_bytes(source.snapshot(name)))
    store = LocalStore(tmp_path / "store")
    urls = ",".join(f"file://{tmp_path / name}.zip" for name in names)
    with serving(store.root, tmp_path / "log", environ={"INITIAL_PIPELINE_URL": urls}, ready_path="/metrics"):
        wait_for(lambda: store.pipelines() == sorted(names), "they are not all imported")
        command = kepler_process("store", "rollback", "-s", store.root, "p0", "1")
        assert command.returncode == 0, command.stderr


# --- settings ---


@pytest.fixture
def config(store: LocalStore, tmp_path: Path) -> Path:
    """A configuration folder with files for single keys, and with a file that has several lines KEY=VALUE."""
    folder = tmp_path / "kepler.config"
    folder.mkdir()
    lines = [f"MODEL_PATH={store.root}", "MODEL_SERVER_PORT=1", "MODEL_SERVER_MODEL_REQ_PATH=/lines", "ERROR_KEY=mae"]
    (folder / "MODEL_CONFIG").write_text("\n".join(lines))
    (folder / "MODEL_SERVER_MODEL_REQ_PATH").write_text("/file")
    (folder / "ERROR_KEY").write_text("dram_mae")
    return folder


def test_environment_overrides_the_configuration_folder(config: Path, tmp_path: Path) -> None:
    port = free_port()
    (config / "MODEL_SERVER_PORT").write_text(f"{port}\n")
    environ = {"CONFIG_PATH": str(config), "MODEL_SERVER_MODEL_REQ_PATH": "/environment"}
    with serving(None, tmp_path / "log", environ=environ, port=port, port_option=False) as server:
        weights = checked_weights(server.post(CAPTURED, "/environment"))
        assert weights["selection"]["error"] == {"dram_mae": 1, "compared_by": "dram_mae on the same data"}
        for path in ("/model", "/file", "/lines"):
            checked_error(server.post(CAPTURED, path), 404)
        assert "/environment" in server.get("/openapi.json").json()["paths"]


def test_options_override_the_environment(store: LocalStore, config: Path, tmp_path: Path) -> None:
    environ = {"CONFIG_PATH": str(config), "MODEL_SERVER_PORT": "2", "MODEL_PATH": str(tmp_path / "nothing")}
    with serving(store.root, tmp_path / "log", environ=environ, port=free_port()) as server:
        checked_weights(server.post(CAPTURED, "/file"))


def usage_error(*arguments: str | Path, **environ: str) -> str:
    """Start the model server with settings that it must reject, and return its error message."""
    clean = {key: value for key, value in os.environ.items() if key != "MODEL_PATH"}
    command = kepler_process("serve", "model-server", "--host", "127.0.0.1", *arguments, environ={**clean, **environ})
    assert command.returncode == 2, command.stderr
    assert command.stdout == ""
    assert len(command.stderr.splitlines()) == 1, command.stderr
    return command.stderr


def test_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in usage_error("--store", tmp_path, "--port", str(port))


@pytest.mark.parametrize("port", ["abc", "70000", "-1", "81.5", "nan", "inf"])
def test_wrong_ports(tmp_path: Path, port: str) -> None:
    assert "MODEL_SERVER_PORT" in usage_error("--store", tmp_path, MODEL_SERVER_PORT=port)


def test_other_wrong_settings(tmp_path: Path) -> None:
    assert "MODEL_PATH" in usage_error()
    message = usage_error("--store", tmp_path, "--port", str(free_port()), MODEL_SERVER_MODEL_REQ_PATH="model")
    assert "MODEL_SERVER_MODEL_REQ_PATH" in message
    assert "no-such-host" in usage_error("--store", tmp_path, "--host", "no-such-host.invalid")


@pytest.mark.parametrize("name", ["local", "ec2-0.7.11"])
def test_a_folder_that_another_server_left_is_served_as_it_is(tmp_path: Path, zips: Path, name: str) -> None:
    """The server does not download a pipeline whose folder is in the store already.

    For the pipeline ec2-0.7.11, a download would fail, because this test has no archive ec2-0.7.11.zip.
    """
    source = LocalStore(tmp_path / "source")
    shutil.copytree(source.snapshot("local").folder, tmp_path / "store" / name, symlinks=True)
    store = LocalStore(tmp_path / "store")
    environ = {"INITIAL_PIPELINE_URL": f"file://{zips / name}.zip"}
    (store.root / name / "manifest.json").unlink()
    with serving(store.root, tmp_path / "log", environ=environ, ready_path="/best-models") as server:
        assert server.log.count(f"pipeline {name} is already in the store as a folder; it is served as it is") == 1
        assert "initial pipelines are missing" not in server.log
    assert store.versions(name) == []
