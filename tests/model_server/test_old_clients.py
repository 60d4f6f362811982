"""Tests with requests and settings of clients and deployments that were made for kepler-model-server 0.7."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.model_server import MINIMAL, checked_error, checked_weights
from support.process import wait_for
from support.server_process import ServerProcess, serving
from support.small_pipelines import CAPTURED, SmallModel, linear, pipeline

from kepler_core.store.archive import archive_bytes
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore

TYPE_0 = SmallModel(mae=2, weights={"package": linear(10.0)})
TYPE_1 = SmallModel(node_type=1, mae=1.5, weights={"package": linear(20.0)})
UNKNOWN_ERROR = SmallModel(
    source="acpi", output_type="DynPower", mae=-1, weights={"platform": linear(1.0)}, more={"mape": None}
)
"""A model whose mae and mape are not known. In the public model database, -1 means that an error is not known."""
MACHINES = {
    0: {"processor": "intel_xeon_e5_2630v3", "cores": 32, "chips": 2, "memory": 62, "frequency": 3200},
    1: {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 512, "frequency": 3500},
}
ANY = {**MINIMAL, "weight": True}
"""A request for weights that accepts any model. Tests add a description of the machine."""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model server with a model for each of two node types, and with a model whose error is not known."""
    store = LocalStore(tmp_path_factory.mktemp("old") / "store")
    store.publish("made", pipeline(TYPE_0, TYPE_1, UNKNOWN_ERROR, node_types=MACHINES))
    with serving(store.root, tmp_path_factory.mktemp("log") / "server.log") as process:
        yield process


def bias(answer: Any) -> float:
    """Return the bias in an answer with weights. Each model of these tests has a different bias."""
    return float(answer["package"]["All_Weights"]["Bias_Weight"])


# --- errors in answers with weights ---


def test_weights_have_the_mae_and_the_mape(old: ServerProcess) -> None:
    weights = checked_weights(old.post({**ANY, "node_type": 0}))
    assert (weights["mae"], weights["mape"]) == (2.0, 20.0)
    stored = json.loads(old.get(f"/models/made/{TYPE_1.path}.json").body, parse_constant=pytest.fail)
    assert (stored["mae"], stored["mape"]) == (1.5, 15.0)


def test_unknown_errors_are_left_out_of_weights(old: ServerProcess) -> None:
    weights = checked_weights(old.post({**ANY, "source": "acpi", "output_type": "DynPower"}))
    assert {"mae", "mape"}.isdisjoint(weights)


# --- zip archives of initial pipelines, with and without a folder around the pipeline ---


def test_initial_pipelines_in_zips_of_both_layouts(tmp_path: Path) -> None:
    """Each of the four pipelines gets its name from a different place.

    The places are the manifest, the folder in the zip, `metadata.json`, and the name of the zip file.
    """
    source = LocalStore(tmp_path / "source")
    files = pipeline(SmallModel(weights={"package": linear(11.0)}))
    source.publish("exported", files)
    contents = {
        "a.zip": archive_bytes(source.snapshot("exported")),
        "b.zip": zip_bytes({f"folder/{name}": content for name, content in files.items()}),
        "c.zip": zip_bytes(files),
        "ec2-0.7.11.zip": zip_bytes({**files, "metadata.json": b"{}"}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    urls = ",".join(f"file://{tmp_path / name}" for name in contents)
    store = LocalStore(tmp_path / "store")
    names = ["ec2-0.7.11", "exported", "folder", "made"]
    with serving(store.root, tmp_path / "log", environ={"INITIAL_PIPELINE_URL": urls}, ready_path="/metrics") as server:
        wait_for(lambda: server.get("/healthz").json()["pipelines"].keys() == {*names}, f"not imported: {server.log}")
        for name in names:
            weights = checked_weights(server.post({**CAPTURED, "pipeline_name": name}))
            assert weights["package"] == linear(11.0)


# --- text in place of flags ---

TRUE_TEXTS = ["1", "t", "T", "TRUE", "true", "True"]
FALSE_TEXTS = ["0", "f", "F", "FALSE", "false", "False"]


@pytest.mark.parametrize("text", TRUE_TEXTS)
def test_true_as_text_gets_weights(old: ServerProcess, text: str) -> None:
    assert checked_weights(old.post({**MINIMAL, "node_type": 0, "weight": text}))["model_name"] == TYPE_0.name


@pytest.mark.parametrize("text", [*FALSE_TEXTS, ""])
def test_false_as_text_gets_a_zip(old: ServerProcess, text: str) -> None:
    answer = old.post({**MINIMAL, "weight": text})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/zip")


def test_loose_node_type_as_text(old: ServerProcess) -> None:
    request = {**ANY, "machine_spec": {**MACHINES[1], "cores": 64}}
    assert bias(checked_weights(old.post({**request, "loose_node_type": "true"}))) == 20.0
    checked_error(old.post({**request, "loose_node_type": "false"}), 404)


@pytest.mark.parametrize("key", ["weight", "loose_node_type", "portable"])
@pytest.mark.parametrize("text", ["yes", "on", "2", " true", "tRUE", "null"])
def test_other_texts_are_no_flags(old: ServerProcess, key: str, text: str) -> None:
    message = checked_error(old.post({**MINIMAL, key: text}), 400, key)
    assert f"{text!r} is not true or false" in message
    assert all(accepted in message for accepted in (*TRUE_TEXTS, *FALSE_TEXTS))


# --- node types, and numbers that are written as text or floats ---


@pytest.mark.parametrize(("node_type", "expected"), [("0", 10.0), (0.0, 10.0), ("1", 20.0), (1.0, 20.0), ("1.0", 20.0)])
def test_node_types_as_text_and_float(old: ServerProcess, node_type: str | float, expected: float) -> None:
    assert bias(checked_weights(old.post({**ANY, "node_type": node_type}))) == expected


@pytest.mark.parametrize("node_type", ["0", 0.0, "-1", -1.0, ""])
def test_node_type_0_beside_a_machine_counts_as_absent(old: ServerProcess, node_type: str | float) -> None:
    request = {**ANY, "node_type": node_type, "machine_spec": MACHINES[1]}
    weights = checked_weights(old.post(request))
    assert (bias(weights), weights["selection"]["node_type"]["match"]) == (20.0, "exact")


@pytest.mark.parametrize("write", [str, float, lambda number: f"{number}.0"], ids=["text", "float", "float as text"])
def test_numbers_of_a_machine_as_text_and_float(old: ServerProcess, write: Any) -> None:
    """A machine gets the same model if the numbers of its description are sent as texts, floats or integers."""
    spec = {key: write(value) if isinstance(value, int) else "" for key, value in MACHINES[0].items()}
    weights = checked_weights(old.post({**ANY, "loose_node_type": "true", "machine_spec": spec}))
    whole = {key: value for key, value in MACHINES[0].items() if isinstance(value, int)}
    expected = checked_weights(old.post({**ANY, "machine_spec": whole}))
    assert bias(weights) == bias(expected) == 10.0
    assert weights["selection"]["node_type"] == expected["selection"]["node_type"]


@pytest.mark.parametrize(
    ("change", "key", "accepted"),
    [
        ({"node_type": "type 1"}, "node_type", "a number between -1 and"),
        ({"node_type": "1.5"}, "node_type", "a whole number between -1 and"),
        ({"node_type": "-2"}, "node_type", "a number between -1 and"),
        ({"node_type": "9" * 999}, "node_type", "a number between -1 and"),
        ({"machine_spec": {"cores": "96 cores"}}, "machine_spec.cores", "a number between 0 and"),
        ({"machine_spec": {"memory": "1e999"}}, "machine_spec.memory", "a number between 0 and"),
        ({"machine_spec": {"chips": "-1"}}, "machine_spec.chips", "a number between 0 and"),
    ],
)
def test_other_texts_are_no_numbers(old: ServerProcess, change: dict[str, Any], key: str, accepted: str) -> None:
    message = checked_error(old.post({**ANY, **change}), 400, key)
    assert f"is not {accepted}" in message


# --- query parameters of GET /best-models ---


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("node-type=-1", {"AbsPower": {"BPFOnly": TYPE_1.name}, "DynPower": {"BPFOnly": UNKNOWN_ERROR.name}}),
        ("node-type=0", {"AbsPower": {"BPFOnly": TYPE_0.name}, "DynPower": {"BPFOnly": UNKNOWN_ERROR.name}}),
        ("source=intel_rapl&ot=AbsPower&fg=BPFOnly&filter=mae:5", {"AbsPower": {"BPFOnly": TYPE_1.name}}),
        ("source=acpi&ot=DynPower", {"DynPower": {"BPFOnly": UNKNOWN_ERROR.name}}),
        ("fg=Basic", {"AbsPower": {}, "DynPower": {}}),
    ],
)
def test_best_models(old: ServerProcess, query: str, expected: dict[str, dict[str, str]]) -> None:
    answer = old.get(f"/best-models?{query}")
    assert (answer.status, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("source=acpi&energy-source=acpi", "source"),
        ("ot=AbsPower&output-type=AbsPower", "ot"),
        ("ot=Abs", "ot"),
        ("node-type=-2", "node-type"),
        ("node-type=true", "node-type"),
    ],
)
def test_wrong_query_parameters(old: ServerProcess, query: str, key: str) -> None:
    checked_error(old.get(f"/best-models?{query}"), 400, key)
