"""Tests that each kind of client gets a model in a form that it can use.

The clients are Kepler, the estimator of Kepler Core, and the estimator of kepler-model-server 0.7, which loads pickles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.linear_models import ABS, publish
from support.model_server import checked_error, checked_weights, kepler_process
from support.server_process import ServerProcess, serving
from support.small_pipelines import BPF, CAPTURED, SmallModel, linear, pipeline

from kepler_core.store.local import LocalStore

OLD_ESTIMATOR: dict[str, Any] = {
    "metrics": [*BPF, "cpu_architecture"], "output_type": "AbsPower", "source": "rapl-sysfs", "filter": "",
    "trainer_name": "", "spec": {"cores": 96},
}  # fmt: skip
"""A request as the estimator of kepler-model-server 0.7 sends it."""
KEPLER_CORE: dict[str, Any] = {
    "metrics": list(BPF), "output_type": "AbsPower", "source": "rapl-sysfs", "filter": "", "trainer_name": "",
    "machine_spec": {}, "weight": False, "portable": True,
}  # fmt: skip
"""A request as the estimator of Kepler Core sends it."""

LARGE, SMALL = ({"processor": "x", "cores": cores, "chips": 2, "memory": 64, "frequency": 3000} for cores in (96, 8))
NEGATIVE = {"package": linear(50.0, {"bpf_cpu_time_ms": -80.0})}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of a store with a pipeline of Kepler Core and pipelines of kepler-model-server."""
    folder = tmp_path_factory.mktemp("store")
    store = LocalStore(folder)
    publish(folder, ABS, name="trained")
    models = [
        SmallModel("XgboostFitTrainer", 0, mae=2, weights=None, more={"model_class": "xgboost"}),
        SmallModel("XgboostFitTrainer", 1, mae=3, weights=None, more={"model_class": "xgboost"}),
        SmallModel(mae=9),
        SmallModel(node_type=1, mae=9, weights=NEGATIVE),
    ]
    store.publish("public", pipeline(*models, node_types={0: LARGE, 1: SMALL}))
    pickles = SmallModel("XgboostFitTrainer", output_type="DynPower", weights=None)
    store.publish("pickles", pipeline(pickles))
    with serving(folder, tmp_path_factory.mktemp("log") / "server.log") as process:
        yield process


def test_an_old_estimator_gets_an_archive_of_kepler_model_server(server: ServerProcess) -> None:
    for cores, name in ((96, "XgboostFitTrainer_0"), (8, "XgboostFitTrainer_1")):
        answer = server.post({**OLD_ESTIMATOR, "spec": {"cores": cores}})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["x-kepler-model"] == f"public/rapl-sysfs/AbsPower/BPFOnly/{name}"


def test_an_old_estimator_never_gets_an_archive_of_kepler_core(server: ServerProcess) -> None:
    message = checked_error(server.post({**OLD_ESTIMATOR, "pipeline_name": "trained"}), 404)
    assert "the estimator of kepler-model-server cannot load the models of Kepler Core" in message
    assert '"portable": true' in message
    explained = server.post({**OLD_ESTIMATOR, "pipeline_name": "trained"}, "/model?explain=1")
    assert explained.status == 404


def test_an_old_estimator_without_the_key_spec_is_recognised(server: ServerProcess) -> None:
    request = {key: value for key, value in OLD_ESTIMATOR.items() if key != "spec"}
    assert server.post(request).headers["x-kepler-model"].startswith("public/")
    # The estimator of kepler-model-server never sends `values` and `pipeline_name`. So the client is not this
    # estimator, and gets a model of Kepler Core.
    assert server.post({**request, "values": [], "pipeline_name": "trained"}).status == 200


@pytest.mark.parametrize("more", [{}, {"weight": False}, {"machine_spec": LARGE}])
def test_any_other_client_gets_the_archive_of_any_model(server: ServerProcess, more: dict[str, Any]) -> None:
    request = {"metrics": list(BPF), "output_type": "AbsPower", **more}
    for pipeline_name in ("trained", "public"):
        answer = server.post({**request, "pipeline_name": pipeline_name})
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["x-kepler-model"].startswith(f"{pipeline_name}/")


def test_kepler_core_gets_its_own_archive(server: ServerProcess) -> None:
    answer = server.post({**KEPLER_CORE, "pipeline_name": "trained"})
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["x-kepler-model"].startswith("trained/")


@pytest.mark.parametrize("trainer", ["", "XgboostFitTrainer"])
def test_kepler_core_gets_weights_in_place_of_pickles(server: ServerProcess, trainer: str) -> None:
    request = {**KEPLER_CORE, "pipeline_name": "public", "trainer_name": trainer, "machine_spec": LARGE}
    weights = checked_weights(server.post(request))
    assert weights["model_name"] == "SGDRegressorTrainer_0"
    assert weights["machine_spec"] == LARGE
    assert weights["selection"]["stands_in_for"] == "public/rapl-sysfs/AbsPower/BPFOnly/XgboostFitTrainer_0"


def test_kepler_core_gets_weights_that_kepler_does_not_get(server: ServerProcess) -> None:
    request = {**KEPLER_CORE, "pipeline_name": "public", "machine_spec": SMALL}
    answer = server.post(request)
    assert (answer.status, answer.json()["model_name"]) == (200, "SGDRegressorTrainer_1")
    assert answer.json()["package"] == NEGATIVE["package"]
    exact = {**CAPTURED, "machine_spec": SMALL, "loose_node_type": False, "pipeline_name": "public"}
    assert server.post(exact).status == 404


def test_kepler_core_is_told_what_to_do_if_there_are_only_pickles(server: ServerProcess) -> None:
    message = checked_error(server.post({**KEPLER_CORE, "output_type": "DynPower", "pipeline_name": "pickles"}), 404)
    assert "only pickles, no weights" in message
    assert "kepler-model train" in message
    assert server.post({**OLD_ESTIMATOR, "output_type": "DynPower"}).status == 200


def test_kepler_gets_weights_as_before(server: ServerProcess) -> None:
    assert checked_weights(server.post({**CAPTURED, "machine_spec": LARGE}))["model_name"] == "SGDRegressorTrainer_0"


def test_select_shows_what_the_server_sends(server: ServerProcess, tmp_path: Path) -> None:
    store = server.get("/healthz").json()["store"]
    for request in (OLD_ESTIMATOR, KEPLER_CORE, {**OLD_ESTIMATOR, "pipeline_name": "trained"}):
        (tmp_path / "request.json").write_text(json.dumps(request))
        command = kepler_process("select", "-s", store, "--request", tmp_path / "request.json", "--json")
        answer = server.post(request, "/model?explain=1")
        assert (command.returncode == 0) == (answer.status == 200)
        if answer.status == 200:
            assert json.loads(command.stdout) == answer.json()
