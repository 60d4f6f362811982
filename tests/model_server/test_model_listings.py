"""Tests of GET /models, /best-models, /node-types and /healthz."""

from __future__ import annotations

import json

import pytest
from support.model_server import (
    BEST,
    LARGE_ZIP,
    MACHINE,
    MODELS,
    NEGATIVE_WEIGHTS,
    OTHER_MACHINE,
    SECRET,
    WEIGHTS,
    WITHOUT_WEIGHTS,
    checked_error,
    checked_weights,
)
from support.server_process import ServerProcess

from kepler_core.store.local import LocalStore

MODEL_URL = f"/models/made/{BEST.path}"

# --- lists ---


def test_best_models(server: ServerProcess) -> None:
    assert server.get("/best-models").json() == {
        "AbsPower": {
            "Basic": "UnsafeTrainer_0", "CounterOnly": "XgboostFitTrainer_0", "BPFOnly": "XgboostFitTrainer_0",
        },
        "DynPower": {"BPFOnly": "SGDRegressorTrainer_0"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "best"),
    [
        (
            "energy-source=acpi&output-type=AbsPower&feature-group=BPFOnly&node-type=0&filter=mae:6",
            {"AbsPower": {"BPFOnly": "SGDRegressorTrainer_0"}},
        ),
        ("energy-source=hmc", {"AbsPower": {}, "DynPower": {}}),
        ("filter=features:bpf_cpu_time_ms", {"AbsPower": {}, "DynPower": {}}),
    ],
)
def test_best_models_with_conditions(server: ServerProcess, query: str, best: dict[str, dict[str, str]]) -> None:
    assert server.get(f"/best-models?{query}").json() == best


def test_models_are_ordered_by_error(server: ServerProcess) -> None:
    page = server.get("/models").json()
    assert page["total"] == len(MODELS) == len(page["models"])
    errors = [model["errors"]["mae"] for model in page["models"]]
    assert errors == sorted(errors)


def test_models_name_the_problem_of_their_weights(server: ServerProcess) -> None:
    model = server.get("/models").json()["models"][0]
    assert model["trainer"] == NEGATIVE_WEIGHTS.trainer
    assert model["weights"] is False
    assert "W at idle" in model["no_weights"]


@pytest.mark.parametrize(
    ("query", "total"),
    [("trainer=XgboostFitTrainer", 3), ("node-type=1", 2), ("energy-source=acpi", 1), ("output-type=DynPower", 1),
     ("feature-group=Basic", 1), ("pipeline=made", 10), ("pipeline=../x", 0), ("filter=mae:2", 4), ("pipeline=", 10),
     ("trainer=SGDRegressorTrainer&filter=mae:4;package_mae:3", 1), ("filter=r2:0.5", 0)],
)  # fmt: skip
def test_models_with_conditions(server: ServerProcess, query: str, total: int) -> None:
    assert server.get(f"/models?{query}").json()["total"] == total


def test_pages_of_models(server: ServerProcess) -> None:
    models = server.get("/models").json()["models"]
    pages = [server.get(f"/models?limit=3&offset={offset}").json() for offset in range(0, 12, 3)]
    assert [model for page in pages for model in page["models"]] == models
    assert {page["total"] for page in pages} == {len(models)}
    assert server.get("/models?offset=1000").json()["models"] == []


@pytest.mark.parametrize(
    ("query", "key"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("limit=1.5", "limit"),
     ("limit=%D9%A3", "limit"), ("offset=-1", "offset"), ("offset=1e3", "offset"), ("limit=" + "9" * 5000, "limit"),
     ("node-type=x", "node-type"), ("node-type=-2", "node-type"), ("output-type=Abs", "output-type"),
     ("filter=maee:1", "filter"), ("filter=mae", "filter"), ("filter=mae:nan", "filter"), ("energy-source=x", "source"),
     ("lmit=1", "lmit"), ("limit=1&limit=1", "limit"), ("%00=1", ""), ("%ff=%fe", ""), ("filter=%ff", "filter"),
     ("energy-source=%00", ""), ("a" * 5000, "")],
)  # fmt: skip
def test_wrong_parameters(server: ServerProcess, query: str, key: str) -> None:
    message = checked_error(server.get(f"/models?{query}"), 400, key)
    assert len(message) < 1000
    if key in ("filter", "energy-source", "source", "output-type", "node-type"):
        checked_error(server.get(f"/best-models?{query}"), 400, key)


def test_node_types(server: ServerProcess) -> None:
    assert server.get("/node-types").json() == {
        "made": {
            "0": {"machine_spec": {**MACHINE, "cores": 32, "memory": 63, "frequency": 3200}, "members": ["node-0"]},
            "1": {"machine_spec": OTHER_MACHINE, "members": ["node-1"]},
        }
    }


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(server: ServerProcess, store: LocalStore, path: str) -> None:
    health = server.get(path).json()
    assert health["status"] == "ok"
    assert health["models"] == len(MODELS)
    assert health["pipelines"] == {"made": {"version": 1, "models": len(MODELS)}}
    assert health["broken"] == {}
    assert health["store"] == str(store.root)
    assert health["store_problem"] is None


# --- metadata, weights and archive of one model ---


def test_metadata_of_a_model(server: ServerProcess, store: LocalStore) -> None:
    answer = server.get(MODEL_URL)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(store.snapshot("made").read(f"{BEST.path}/metadata.json"))


def test_weights_of_a_model(server: ServerProcess) -> None:
    weights = checked_weights(server.get(f"{MODEL_URL}.json"))
    assert weights["model_name"] == "SGDRegressorTrainer_0"
    assert {key: weights[key] for key in WEIGHTS} == WEIGHTS
    assert "no weights" in checked_error(server.get(f"/models/made/{WITHOUT_WEIGHTS.path}.json"), 404)
    assert "W at idle" in checked_error(server.get(f"/models/made/{NEGATIVE_WEIGHTS.path}.json"), 404)


def test_archive_of_a_model(server: ServerProcess, store: LocalStore) -> None:
    snapshot = store.snapshot("made")
    answer = server.get(f"{MODEL_URL}.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.body == snapshot.read(f"{BEST.path}.zip")
    assert server.get(f"/models/made/{LARGE_ZIP.path}.zip").body == snapshot.read(f"{LARGE_ZIP.path}.zip")


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/models/", "/models/made", "/models/x/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0",
     "/models/made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_9", "/models/made/rapl-sysfs/AbsPower/BPFOnly/.zip",
     "/models/../../secret", "/models/made/../../../secret/x", "/models/..%2f..%2fsecret/a/b/c/d.zip",
     "/models/made/rapl-sysfs/AbsPower/BPFOnly/..%2f..%2f..%2f..%2f..%2fsecret.zip", "//models", "/model/",
     "/models/%00/%00/%00/%00/%00", "/models/made/a/b/c/metadata.json.json", "/" + "x" * 5000, "/%2e%2e/%2e%2e/secret"],
)  # fmt: skip
def test_unknown_paths(server: ServerProcess, path: str) -> None:
    answer = server.get(path)
    assert len(checked_error(answer, 404)) < 1000
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("path", ["/%ff", "/models/%ff/%fe/a/b/c", "/model%ff", "/models/made/a/b/c/%c3%28.zip"])
def test_paths_that_are_not_utf8(server: ServerProcess, path: str) -> None:
    answer = server.get(path)
    assert answer.status in (400, 404)
    checked_error(answer, answer.status)
