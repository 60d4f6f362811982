"""Tests of the estimator with a model server and a store that become unavailable and available again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.estimator_clients import DYN_WATTS, OTHER_WATTS, REQUEST, WATTS, CheckingClient, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import ALL, MACHINE, OTHER, LinearModel, files_of, publish
from support.process import PATIENCE, wait_for
from support.server_process import ServerProcess, free_port, serving

from kepler_core.store import open_store


class RestartableServer:
    """A model server that can be killed, and started again on the same port."""

    def __init__(self, store: Path, folder: Path) -> None:
        self.store = store
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: ServerProcess | None = None

    def start(self) -> None:
        log = self._folder / f"server.{time.monotonic_ns()}.log"
        self._process = ServerProcess(self.store, log, port=self.port)
        self._process.wait_ready()

    def kill(self) -> None:
        """Kill the model server and also its worker processes, which would otherwise continue to serve models."""
        if self._process is not None:
            pid = self._process.process.pid
            workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self._process.process.kill()
            for worker in workers:
                os.kill(int(worker), signal.SIGKILL)
            self._process.process.wait(PATIENCE)
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestartableServer]:
    """A model server that the test must start. The server's store has the models `ALL`."""
    stopped = RestartableServer(tmp_path / "served", tmp_path)
    publish(stopped.store, *ALL)
    yield stopped
    stopped.kill()


def test_a_model_server_answers_for_each_kind_of_request(server: RestartableServer, tmp_path: Path) -> None:
    server.start()
    with running_estimator(tmp_path / "e.sock", "--model-server", server.url) as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS
        assert estimator.ask(watts_request(output_type="DynPower"))["powers"] == DYN_WATTS
        assert estimator.ask(watts_request(source="acpi"))["powers"] == {"platform": [102.0]}
        assert "OtherTrainer" in estimator.ask(watts_request(trainer_name="OtherTrainer"))["msg"]
        assert "mae" in estimator.ask(watts_request(filter="mae:0.1"))["msg"]
        assert estimator.providers_in_use() == [f"model server {server.url}/model"]


def test_a_model_stays_in_use_while_its_server_is_down(server: RestartableServer, tmp_path: Path) -> None:
    server.start()
    with (
        running_estimator(tmp_path / "e.sock", "--model-server", server.url, "--refresh", "1") as estimator,
        CheckingClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 2) as client,
    ):
        assert estimator.ask(REQUEST)["powers"] == WATTS
        assert estimator.providers_in_use() == [f"model server {server.url}/model"]
        server.kill()
        time.sleep(3)  # in 3 s, the estimator asks the killed server twice
        client.wait()
        assert estimator.providers_in_use() == [f"model server {server.url}/model"]
        publish(server.store, OTHER)
        server.start()
        estimator.wait_answer(REQUEST, OTHER_WATTS)
        assert f"{server.url}/model in place of" in estimator.log
        client.wait()
    client.check()
    assert client.seen == {0, 1}


def test_the_model_server_selects_by_machine_trainer_and_filter(server: RestartableServer, tmp_path: Path) -> None:
    near = {**MACHINE, "cores": 8}
    publish(server.store, LinearModel(mae=3, watts={"package": (7.0, {})}), name="near", machine=near)
    publish(server.store, LinearModel(trainer="OtherTrainer", mae=4, watts={"package": (8.0, {})}), name="other")
    server.start()
    (tmp_path / "machine.json").write_text(json.dumps(near))
    arguments = ("--model-server", server.url + "/model", "--machine-spec", tmp_path / "machine.json")
    with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
        reply = estimator.ask(REQUEST)
        assert (reply["powers"], reply["core_ratio"]) == ({"package": [7.0]}, 1.0)
        reply = estimator.ask(watts_request(filter="mae:2"))
        assert (reply["powers"], reply["core_ratio"]) == (WATTS, 0.25)
        assert estimator.ask(watts_request(trainer_name="OtherTrainer"))["powers"] == {"package": [8.0]}
        assert "did you mean OtherTrainer" in estimator.ask(watts_request(trainer_name="OthrTrainer"))["msg"]
        assert estimator.ask(REQUEST)["powers"] == {"package": [7.0]}
        (model,) = (m for m in estimator.status()["models"] if m["filter"] == "" and m["trainer"] == "")
        assert model["model"].startswith("near/")
        assert model["why"]


def test_the_store_provides_models_until_the_server_starts(server: RestartableServer, tmp_path: Path) -> None:
    publish(tmp_path / "local", OTHER)
    arguments = ("--model-server", server.url, "-s", tmp_path / "local", "--refresh", "1")
    with (
        running_estimator(tmp_path / "e.sock", *arguments) as estimator,
        CheckingClient(estimator.path, REQUEST, [OTHER_WATTS, WATTS], 2) as client,
    ):
        assert estimator.ask(REQUEST)["powers"] == OTHER_WATTS
        assert estimator.providers_in_use() == [f"store {tmp_path / 'local'}"]
        assert server.url in estimator.log, "the log must say why the server's model is not used"
        server.start()
        estimator.wait_answer(REQUEST, WATTS)
        assert estimator.providers_in_use() == [f"model server {server.url}/model"]
        client.wait()
    client.check()


def test_requests_fail_until_a_store_appears(server: RestartableServer, tmp_path: Path) -> None:
    arguments = ("--model-server", server.url, "-s", tmp_path / "later", "--refresh", "1")
    with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
        reply = estimator.ask(REQUEST)
        assert reply["powers"] == {}
        assert server.url in reply["msg"]
        reply = estimator.ask(watts_request([[1, 1]] * 5, output_type="DynPower"))
        assert (reply["powers"], bool(reply["msg"])) == ({"package": [0] * 5}, True)
        publish(tmp_path / "later", *ALL)
        estimator.wait_answer(REQUEST, WATTS)
        estimator.wait_answer(watts_request(output_type="DynPower"), DYN_WATTS)


def test_an_estimator_without_providers_says_so(tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock") as estimator:
        reply = estimator.ask(REQUEST)
        assert reply["powers"] == {}
        assert "no model server, URL or store is configured" in reply["msg"]
        assert "no model server, URL or store is configured" in estimator.log
        assert estimator.status()["origins"] == []


def test_a_store_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "file") as estimator:
        assert estimator.ask(REQUEST)["powers"] == {}
        assert estimator.ask(watts_request(output_type="DynPower"))["powers"] == {"package": [0]}


def test_no_request_fails_while_the_store_gets_new_versions(store: Path, tmp_path: Path) -> None:
    with (
        running_estimator(tmp_path / "e.sock", "-s", store) as estimator,
        CheckingClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 8) as client,
    ):
        client.wait(20)
        publish(store, OTHER)
        estimator.wait_answer(REQUEST, OTHER_WATTS)
        client.wait(20)
        publish(store, *ALL)
        estimator.wait_answer(REQUEST, WATTS)
        client.wait(20)
        status = estimator.status()
        assert status["requests"]["failed"] == 0
        assert sum(status["dropped_connections"].values()) == 0
    client.check()
    assert client.seen == {0, 1}


def test_a_broken_version_does_not_replace_a_good_one(store: Path, tmp_path: Path) -> None:
    with (
        running_estimator(tmp_path / "e.sock", "-s", store) as estimator,
        CheckingClient(estimator.path, REQUEST, [WATTS, OTHER_WATTS], 1) as client,
    ):
        client.wait()
        files = files_of(OTHER)
        for name in list(files):
            if name.endswith("SGDRegressorTrainer_0/package.json"):
                files[name] = b"not weights"
        open_store(str(store)).publish("made", files)
        wait_for(lambda: "not a weights file" in estimator.log, "the broken model was not read")
        client.wait()
        publish(store, OTHER)
        estimator.wait_answer(REQUEST, OTHER_WATTS)
    client.check()


def test_settings_from_environment_and_folder(server: RestartableServer, tmp_path: Path) -> None:
    server.start()
    publish(tmp_path / "local", OTHER)
    keys = {"MODEL_SERVER_URL": server.url, "MODEL_PATH": str(tmp_path / "local")}
    with running_estimator(tmp_path / "a.sock", environ=keys) as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS
    with running_estimator(tmp_path / "b.sock", environ={**keys, "MODEL_SERVER_ENABLE": "false"}) as estimator:
        assert estimator.ask(REQUEST)["powers"] == OTHER_WATTS
    (tmp_path / "config").mkdir()
    for key, value in {**keys, "MODEL_SERVER_MODEL_REQ_PATH": "/model"}.items():
        (tmp_path / "config" / key).write_text(value + "\n")
    with running_estimator(tmp_path / "c.sock", "--config-dir", tmp_path / "config") as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_the_service_of_existing_deployments_is_the_default_model_server(tmp_path: Path) -> None:
    service = "kepler-model-server.kepler.svc.cluster.local"
    for number, keys in enumerate(({}, {"MODEL_SERVER_URL": service, "MODEL_SERVER_PORT": "8111"})):
        environ = {"MODEL_SERVER_ENABLE": "true", **keys}
        with running_estimator(tmp_path / f"{number}.sock", environ=environ) as estimator:
            (origin,) = estimator.status()["origins"]
            assert f"http://{service}:{keys.get('MODEL_SERVER_PORT', '8100')}/" in origin


def test_an_invalid_model_server_url_ends_the_command_with_one_line(tmp_path: Path) -> None:
    for url in ("file:///etc/passwd", "localhost:8100", "ftp://host/model", "http://"):
        estimator = EstimatorProcess(tmp_path / "e.sock", "--model-server", url)
        assert estimator.process.wait(PATIENCE) == 2
        assert len(estimator.log.splitlines()) == 1, estimator.log


def test_the_estimator_may_stop_before_the_model_server(tmp_path: Path) -> None:
    publish(tmp_path / "served", *ALL)
    with serving(tmp_path / "served", tmp_path / "s.log") as server:
        url = f"http://127.0.0.1:{server.port}"
        with running_estimator(tmp_path / "e.sock", environ={"MODEL_SERVER_URL": url}) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
