"""Tests of the model server with Kepler's public model database as its store."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.model_server import checked_error, checked_weights
from support.paths import SHARED
from support.server_process import ServerProcess, serving
from support.small_pipelines import BPF, CAPTURED, COUNTERS
from support.weight_sweep import sweep

from kepler_core.selection import read_catalogue
from kepler_core.store import open_store

DATABASE = SHARED / "data" / "model_db"
UNSAFE_NODE_TYPE = "2"
"""Node type of the public model database whose linear weights give negative watts on a busy machine."""

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATABASE.is_dir(), reason=f"the public model database is missing: {DATABASE}"),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(DATABASE, tmp_path_factory.mktemp("log") / "database.log") as process:
        yield process


def test_captured_request(database: ServerProcess) -> None:
    answer = checked_weights(database.post(CAPTURED))
    stored = json.loads((DATABASE / "ec2-0.7.11/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.json").read_bytes())
    assert {key: answer[key] for key in stored} == stored
    assert answer["selection"]["node_type"]["match"] == "nearest"
    assert answer["selection"]["node_type"]["similarity"] > 0.99


def test_each_machine_gets_the_weights_of_its_node_type(database: ServerProcess) -> None:
    for number, node_type in database.get("/node-types").json()["ec2-0.7.11"].items():
        request = {**CAPTURED, "metrics": COUNTERS, "machine_spec": node_type["machine_spec"]}
        served = "0" if number == UNSAFE_NODE_TYPE else number
        answer = checked_weights(database.post(request))
        assert answer["model_name"] == f"SGDRegressorTrainer_{served}"
        assert answer["selection"]["node_type"]["match"] == ("exact" if number == served else "nearest")


def test_a_node_type_without_safe_weights(database: ServerProcess) -> None:
    """For a machine whose node type has no safe weights, the server chooses another node type, and states the reason.

    If the request does not allow another node type, the answer has status 404 and the same reason.
    """
    spec = database.get("/node-types").json()["ec2-0.7.11"][UNSAFE_NODE_TYPE]["machine_spec"]
    request = {**CAPTURED, "metrics": [*BPF, *COUNTERS], "machine_spec": spec}
    why = (
        "package: the power falls to -30.4 W if features rise to 3 times their highest values in training, "
        "because cpu_instructions has a weight of -33.2 W"
    )
    dropped = checked_weights(database.post(request))["selection"]["candidates"]["dropped"]
    assert why in next(drop["why"] for drop in dropped if drop["by"] == "weights")
    given = {key: value for key, value in request.items() if key != "machine_spec"} | {"node_type": 2}
    for without in ({**request, "loose_node_type": False}, given):
        message = checked_error(database.post(without), 404)
        assert f"node type 2 has no linear weights that are safe to serve: 1 × {why}" in message
    models = database.get("/models?trainer=SGDRegressorTrainer&node-type=2").json()["models"]
    assert [(model["weights"], why in model["no_weights"]) for model in models] == [(False, True)]


def test_no_served_weights_wrap_around() -> None:
    """Kepler's power from served weights is between 0 W and a megawatt, for features up to 3 times their maximum."""
    models = read_catalogue(open_store(str(DATABASE))).models
    served = [model for model in models if model.weights is not None]
    assert len(served) == 10
    assert [text for model in served for text in sweep(model)] == []


def test_each_machine_gets_the_archive_of_its_node_type(database: ServerProcess) -> None:
    for number, node_type in database.get("/node-types").json()["ec2-0.7.11"].items():
        request = {
            **CAPTURED, "metrics": COUNTERS, "machine_spec": node_type["machine_spec"], "weight": False,
            "trainer_name": "",
        }  # fmt: skip
        answer = database.post(request)
        assert answer.status == 200
        selection = json.loads(answer.headers["x-kepler-selection"])
        assert (selection["node_type"]["match"], selection["node_type"]["number"]) == ("exact", int(number))
        assert answer.body == (DATABASE / "ec2-0.7.11" / f"{selection['model']}.zip").read_bytes()


def test_unknown_machine(database: ServerProcess) -> None:
    spec = {"vendor": "amd", "processor": "amd_epyc_7763", "cores": 64, "chips": 1, "memory": 128, "frequency": 3500}
    node_type = checked_weights(database.post({**CAPTURED, "machine_spec": spec}))["selection"]["node_type"]
    assert node_type["match"] == "nearest"
    assert node_type["similarity"] < 0.7
    assert node_type["attributes"]["processor"] == 0
    message = checked_error(database.post({**CAPTURED, "machine_spec": spec, "loose_node_type": False}), 404)
    assert "the nearest is type" in message


def test_node_types_by_number(database: ServerProcess) -> None:
    request = {key: value for key, value in CAPTURED.items() if key != "machine_spec"}
    for number in (0, 3):
        node_type = checked_weights(database.post({**request, "node_type": number}))["selection"]["node_type"]
        assert (node_type["match"], node_type["number"]) == ("given", number)


def test_best_models(database: ServerProcess) -> None:
    best = database.get("/best-models?energy-source=intel_rapl").json()
    assert best["AbsPower"] == {"CounterOnly": "XgboostFitTrainer_1", "BPFOnly": "XgboostFitTrainer_1"}
    assert set(best) == {"AbsPower", "DynPower"}
