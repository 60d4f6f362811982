"""Tests that the four servers start with the volume, the ConfigMap and the arguments of existing deployments."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.containers import Containers, containers
from support.estimator_clients import ask, watts_request
from support.linear_models import ABS, files_of
from support.process import ProcessUnderTest
from support.prometheus_process import prometheus
from support.server_process import free_port
from support.trainer_server import request

from kepler_core.simulate import Simulation, recording
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore

TRAIN_SECONDS = 180


@pytest.fixture
def deployment() -> Iterator[Containers]:
    """Yield containers with a volume and a ConfigMap, as in existing deployments. The ConfigMap is still empty."""
    with containers() as shared:
        yield shared


def status_of(port: int, path: str, body: Any = None) -> int:
    """Send a request, with `body` as JSON if it is not None. Return the status of the answer, or 0 if there is none."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=TRAIN_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for_status(process: ProcessUnderTest, port: int, path: str, status: int) -> None:
    process.wait_until(lambda: status_of(port, path) == status, f"{path} never has status {status}")


def test_model_server_and_estimator(deployment: Containers) -> None:
    port = free_port()
    (deployment.volume / "initial.zip").write_bytes(zip_bytes(files_of(ABS)))
    deployment.set(
        {
            "MODEL_SERVER_PORT": str(port),
            "MODEL_SERVER_ENABLE": "true",
            "MODEL_SERVER_URL": f"http://127.0.0.1:{port}",
            "INITIAL_PIPELINE_URL": "file:///mnt/initial.zip",
            "MODEL_CONFIG": 'NODE_COMPONENTS_ESTIMATOR = "true"\nNODE_TOTAL_ESTIMATOR=true\n',
        }
    )
    with (
        deployment.running("model-server", "-l", "debug") as server,
        deployment.running("estimator", "-l", "debug") as estimator,
    ):
        wait_for_status(server, port, "/best-models", 200)
        socket = deployment.tmp / "estimator.sock"
        estimator.wait_until(socket.exists, "the estimator does not listen")
        reply = ask(socket, watts_request())
        assert reply["powers"] == {"package": [51.2], "dram": [8.4]}, reply
    assert "store /mnt/models: the folder did not exist; created an empty one" in server.log
    assert LocalStore(deployment.volume / "models").pipelines() == ["made"]


def test_model_server_without_any_key_is_not_ready_but_runs(deployment: Containers) -> None:
    port = free_port()
    with deployment.running("model-server", environ={"MODEL_SERVER_PORT": str(port)}) as server:
        wait_for_status(server, port, "/best-models", 503)
        assert status_of(port, "/healthz") == 200
    assert (deployment.volume / "models").is_dir()


def test_offline_trainer(deployment: Containers) -> None:
    port = free_port()
    deployment.set({"OFFLINE_TRAINER_PORT": str(port)})
    deployment.set({"OFFLINE_TRAINER_HOST": "0.0.0.0", "OFFLINE_TRAINER_INSECURE": "true"})
    with deployment.running("offline-trainer", "-l", "WARN") as trainer:
        wait_for_status(trainer, port, "/readyz", 200)
        assert status_of(port, "/train", request()) == 200
        assert " INFO " not in trainer.log
    assert LocalStore(deployment.volume / "models").versions("small") == [1]
    assert (deployment.volume / "state" / "offline-trainer" / "queue.sqlite3").exists()


def test_online_trainer(deployment: Containers) -> None:
    content = recording(Simulation(containers=3, timestamps=100, accelerator=False))
    newest = max(time for series in content.values() for item in series for time, _ in item["values"])
    offset = int(time.time()) - 60 - newest
    for series in content.values():
        for item in series:
            item["values"] = [[moment + offset, value] for moment, value in item["values"]]
    port = free_port()
    with prometheus(deployment.folder / "prometheus", content) as server:
        deployment.set(
            {
                "PROM_SERVER": server.url,
                "PROM_QUERY_INTERVAL": "20",
                "PROM_QUERY_STEP": "3",
                "PROM_HEADERS": "",
                "PROM_SSL_DISABLE": "true",
                "ONLINE_TRAINER_HOST": "0.0.0.0",
                "ONLINE_TRAINER_PORT": str(port),
            }
        )
        with deployment.running("online-trainer") as trainer:
            wait_for_status(trainer, port, "/readyz", 200)
            assert f"fetching from {server.url} every 20 s" in trainer.log
    assert (deployment.volume / "state" / "online-trainer" / "memory").is_dir()
    assert (deployment.volume / "models").is_dir()


def test_the_option_for_the_configuration_folder(deployment: Containers) -> None:
    port = free_port()
    (deployment.volume / "MODEL_SERVER_PORT").write_text(str(port))
    with deployment.running("model-server", "-c", "/mnt") as server:
        wait_for_status(server, port, "/readyz", 503)
