"""Tests of POST /model. The answer is the model that fits, as weights or as an archive, or an error with the reason."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from support.model_server import (
    BEST,
    CURVE,
    MACHINE,
    MINIMAL,
    WEIGHTS,
    WITHOUT_WEIGHTS,
    checked_error,
    checked_weights,
)
from support.server_process import Answer, ServerProcess
from support.small_pipelines import BPF, CAPTURED, evaluate

from kepler_core.store.local import LocalStore
from kepler_core.store.manifest import sha256

# --- answers ---


def test_weights_are_those_of_the_best_model(server: ServerProcess) -> None:
    answer = server.post(CAPTURED)
    weights = checked_weights(answer)
    assert weights["model_name"] == "SGDRegressorTrainer_0"
    assert {key: weights[key] for key in WEIGHTS} == WEIGHTS
    assert weights["machine_spec"] == {**MACHINE, "cores": 32, "memory": 63, "frequency": 3200}
    assert answer.headers["x-kepler-model"] == f"made/{BEST.path}"


def test_weights_come_with_the_reasons(server: ServerProcess) -> None:
    selection = checked_weights(server.post(CAPTURED))["selection"]
    assert selection["model"] == BEST.path
    assert selection["node_type"]["match"] == "nearest"
    # The selection drops 7 of the 10 models, by these criteria:
    # - "output type": the model for DynPower
    # - "energy source": the model for acpi
    # - "features": 2 models of the feature groups Basic and CounterOnly, whose features are not in the request
    # - "weights": a curve model, and 2 models without weights
    assert [(drop["by"], drop["count"]) for drop in selection["candidates"]["dropped"]] == [
        ("output type", 1), ("energy source", 1), ("features", 2), ("weights", 3),
    ]  # fmt: skip


def test_repeated_request_gets_the_same_answer_from_the_cache(server: ServerProcess) -> None:
    first = server.post(CAPTURED)
    assert server.post(CAPTURED) == Answer(
        200, {**first.headers, "date": server.post(CAPTURED).headers["date"]}, first.body
    )


def test_platform_weights(server: ServerProcess) -> None:
    weights = checked_weights(server.post({**CAPTURED, "source": "acpi"}))
    assert set(weights) == {"model_name", "machine_spec", "mae", "mape", "platform", "selection"}
    assert evaluate(weights, {"bpf_cpu_time_ms": [2000.0]}, "bpf_cpu_time_ms") == {"platform": [172.0]}


def test_weights_for_containers(server: ServerProcess) -> None:
    weights = checked_weights(server.post({**CAPTURED, "output_type": "DynPower"}))
    assert weights["selection"]["error"]["mae"] == 4


def test_curve_by_trainer_name(server: ServerProcess) -> None:
    request = {**CAPTURED, "trainer_name": CURVE.trainer}
    weights = checked_weights(server.post(request))
    assert weights["model_name"] == CURVE.name
    assert evaluate(weights, {"bpf_cpu_time_ms": [0.0]}, "bpf_cpu_time_ms") == {"package": [32.0]}
    reversed_metrics = {**request, "metrics": CAPTURED["metrics"][::-1]}
    message = checked_error(server.post(reversed_metrics), 404)
    assert "a curve over bpf_cpu_time_ms: usable only for a client" in message


def test_archive(server: ServerProcess, store: LocalStore) -> None:
    answer = server.post({**CAPTURED, "weight": False, "trainer_name": "XgboostFitTrainer"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/zip"
    path = WITHOUT_WEIGHTS.path
    assert answer.body == store.snapshot("made").read(f"{path}.zip")
    assert answer.headers["etag"] == f'"{sha256(answer.body)}"'
    assert answer.headers["x-kepler-model"] == f"made/{path}"
    assert json.loads(answer.headers["x-kepler-selection"])["model"] == path
    assert sorted(zipfile.ZipFile(io.BytesIO(answer.body)).namelist()) == ["metadata.json"]


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("explain", ["1", "true"])
def test_explain_returns_only_the_reasons(server: ServerProcess, weight: bool, explain: str) -> None:
    request = {**CAPTURED, "weight": weight}
    answer = server.post(request, f"/model?explain={explain}")
    assert answer.status == 200
    assert set(answer.json()) == {"selection"}
    model = server.post(request, "/model?explain=0")
    selection = model.json()["selection"] if weight else json.loads(model.headers["x-kepler-selection"])
    assert answer.json()["selection"] == selection


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize(
    ("query", "key"), [("explain=2", "explain"), ("explain=1&explain=1", "explain"), ("expalin=1", "expalin")]
)
def test_wrong_explain(server: ServerProcess, weight: bool, query: str, key: str) -> None:
    checked_error(server.post({**CAPTURED, "weight": weight}, f"/model?{query}"), 400, key)


# --- requests that no model fits ---

NOTHING_FITS: list[tuple[dict[str, Any], str]] = [
    ({"metrics": ["x"]}, "missing: bpf_"),
    ({"metrics": []}, "missing: bpf_"),
    ({"trainer_name": "../../secret"}, "no model of trainer"),
    ({"trainer_name": "a\0b"}, "no model of trainer"),
    ({"pipeline_name": "../../secret"}, "no model of pipeline"),
    ({"pipeline_name": "maed"}, "did you mean made?"),
    ({"filter": "mae:0.001"}, "the one with the lowest mae is"),
    ({"filter": "features:bpf_cpu_time_ms"}, "none of"),
    ({"node_type": 9}, "available: 0, 1"),
    ({"machine_spec": CAPTURED["machine_spec"], "loose_node_type": False}, "the nearest is type"),
    ({"source": "hmc"}, "no model of energy source 'hmc'"),
    ({"output_type": "DynPower", "source": "acpi"}, "source"),
]


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize(("change", "reason"), NOTHING_FITS, ids=range(len(NOTHING_FITS)))
def test_no_model_fits(server: ServerProcess, change: dict[str, Any], reason: str, weight: bool) -> None:
    """If no model fits, the status must be 404. If the status was 200, Kepler would report 0 W."""
    assert reason in checked_error(server.post({**MINIMAL, "weight": weight, **change}), 404)


# --- wrong requests ---

WRONG: list[tuple[Any, str]] = [
    ({"metrics": BPF}, "output_type"),
    ({"output_type": "AbsPower"}, "metrics"),
    ({**MINIMAL, "output_type": "Abs"}, "output_type"),
    ({**MINIMAL, "weight": "yes"}, "weight"),
    ({**MINIMAL, "node_type": "zero"}, "node_type"),
    ({**MINIMAL, "node_type": 1.5}, "node_type"),
    ({**MINIMAL, "metrics": "bpf_cpu_time_ms"}, "metrics"),
    ({**MINIMAL, "metrics": [1]}, "metrics"),
    ({**MINIMAL, "source": "nobody"}, "source"),
    ({**MINIMAL, "source": "../../secret"}, "source"),
    ({**MINIMAL, "source": "a\0b"}, "source"),
    ({**MINIMAL, "filter": "../../secret:5"}, "filter"),
    ({**MINIMAL, "filter": "a\0b:5"}, "filter"),
    ({**MINIMAL, "filter": "maee:5"}, "filter"),
    ({**MINIMAL, "filter": "mae:NaN"}, "filter"),
    ({**MINIMAL, "filter": "mae"}, "filter"),
    ({**MINIMAL, "machine_spec": {"cores": "96 cores"}}, "machine_spec.cores"),
    ({**MINIMAL, "machine_spec": []}, "machine_spec"),
    ({**MINIMAL, "trainer_name": "x" * 100_000}, "trainer_name"),
    ({**MINIMAL, "pipeline_name": "../" * 50_000}, "pipeline_name"),
    ({**MINIMAL, "metrics": ["x"] * 20_000}, "metrics"),
    (b"", "body"),
    (b"null", "body"),
    (b"[]", "body"),
    (b"\0", "body"),
    (b"\xff\xfe{", "body"),
    (b"<html>", "body"),
    (b"{", "body"),
    (b"[" * 100_000, "body"),
    (b'{"metrics":' * 20_000, ""),
    (b'{"x":' + b"[" * 200_000 + b"]" * 50_000, "body"),
    (json.dumps({**MINIMAL, "machine_spec": {"cores": 7}}).replace("7", "NaN").encode(), ""),
    (json.dumps({**MINIMAL, "machine_spec": {"cores": 7}}).replace("7", "1e999").encode(), ""),
]


@pytest.mark.parametrize(("request_", "key"), WRONG, ids=range(len(WRONG)))
def test_wrong_requests(server: ServerProcess, request_: Any, key: str) -> None:
    checked_error(server.post(request_), 400, key)


# --- bodies ---


def test_large_bodies_are_rejected(server: ServerProcess) -> None:
    large = json.dumps({**MINIMAL, "trainer_name": "x" * 2**20}).encode()
    checked_error(server.post(large), 413)
    checked_error(server.post(large * 10), 413)
    checked_weights(server.post(CAPTURED))


def test_large_bodies_of_unknown_length_are_rejected(server: ServerProcess) -> None:
    large = json.dumps({**MINIMAL, "trainer_name": "x" * 2**20}).encode()
    connection = server.connect()
    connection.request("POST", "/model", iter([large] * 2), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert b"msg" in response.read()
    connection.close()
    checked_weights(server.post(CAPTURED))


def test_chunked_body(server: ServerProcess) -> None:
    body = json.dumps(CAPTURED).encode()
    connection = server.connect()
    connection.request("POST", "/model", iter([body[:7], body[7:100], body[100:]]), encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["model_name"] == "SGDRegressorTrainer_0"
    connection.close()


def test_content_type_is_ignored(server: ServerProcess) -> None:
    """The server accepts any content type: `curl -d` sends the content type of an HTML form, not application/json."""
    body = json.dumps(CAPTURED).encode()
    for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain; x"):
        checked_weights(server.ask("POST", "/model", body, {"Content-Type": kind}))


def test_last_of_two_equal_keys_counts(server: ServerProcess) -> None:
    body = json.dumps(CAPTURED)[:-1] + ',"output_type":"DynPower"}'
    assert checked_weights(server.post(body.encode()))["selection"]["error"]["mae"] == 4
