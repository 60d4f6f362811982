"""Tests of the errors, half-widths of intervals and flags in answers of POST /model and `kepler-model select`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler
from support.model_server import MACHINE, MINIMAL, OTHER_MACHINE
from support.server_process import ServerProcess, serving
from support.small_pipelines import SmallModel, pipeline

from kepler_core.honesty.flags import EXPLANATIONS
from kepler_core.store.local import LocalStore

TERMS: dict[str, Any] = {
    "lowest": 50.0, "highest": 150.0, "edges": [], "quantiles": [3.0], "session": 4.0,
    "machine_idle": 0.1, "machine_loaded": 0.1, "noise": 0.1,
}  # fmt: skip
"""Numbers that define an interval. At 100 W on a machine of the training, its half-width is about 5 W."""
HONESTY: dict[str, Any] = {
    "splits": {"blocks": {"mae": 1.0, "components": {}, "parts": 5}, "recordings": None},
    "hardest": "blocks",
    "seen": {"recordings": 1, "days": 1, "nodes": 1, "samples": 100, "features": {}},
    "level": 0.9,
    "intervals": {"package": TERMS},
    "twin": {"model_name": "SGDRegressorTrainer_0", "feature_group": "CPUTime", "limits": {"package": 10.0}},
}
CONTAINERS = {**HONESTY, "intervals": {}, "twin": None, "splits": {"blocks": HONESTY["splits"]["blocks"]}}
MODELS = (
    SmallModel(more={"honesty": HONESTY}),
    SmallModel(source="acpi"),
    SmallModel(source="ampere-xgene-hwmon", more={"honesty": {**HONESTY, "level": 5}}),
    SmallModel(output_type="DynPower", more={"honesty": CONTAINERS}),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = LocalStore(tmp_path_factory.mktemp("made") / "store")
    store.publish("made", pipeline(*MODELS, node_types={0: MACHINE}))
    return store.root


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(store, tmp_path_factory.mktemp("log") / "server.log") as process:
        yield process


def selection(server: ServerProcess, **keys: Any) -> dict[str, Any]:
    answer = server.post({**MINIMAL, "weight": True, **keys})
    assert answer.status == 200, answer.body
    return dict(answer.json()["selection"])


@pytest.mark.parametrize("machine", [MACHINE, OTHER_MACHINE, None], ids=["its own type", "another type", "unknown"])
def test_the_half_width_is_that_of_the_clients_machine(
    machine: dict[str, Any] | None, server: ServerProcess, store: Path, tmp_path: Path
) -> None:
    """On a machine of another node type, the interval is wider and the answer has the flag `other_machine`."""
    request = {**MINIMAL, "weight": True} | ({} if machine is None else {"machine_spec": machine})
    chosen = selection(server, **request)
    similarity = chosen["node_type"].get("similarity", 1.0)
    assert (similarity < 1) == (machine == OTHER_MACHINE)
    between_machines = 0.1 * 100.0 / max(similarity, 0.1)
    honesty = chosen["honesty"]
    assert honesty["half_width"]["package"] == pytest.approx(math.hypot(5.0, between_machines), abs=2e-3)
    names = ["one_session_only", *(["other_machine"] if machine == OTHER_MACHINE else [])]
    assert honesty["flags"] == {name: EXPLANATIONS[name] for name in names}
    (tmp_path / "request.json").write_text(json.dumps(request))
    text = kepler("select", "-s", store, "--request", tmp_path / "request.json").stdout
    assert f"90 % interval: package ± {honesty['half_width']['package']:.1f} W\n" in text
    assert [line.partition(":")[0].strip(" -") for line in text.splitlines() if line.startswith("  - ")] == names


def test_all_statements_about_errors(server: ServerProcess) -> None:
    honesty = selection(server)["honesty"]
    assert honesty["mae"] == {"blocks": 1.0, "recordings": None}
    assert (honesty["hardest"], honesty["level"]) == ("blocks", 0.9)
    assert honesty["twin"] == "CPUTime/SGDRegressorTrainer_0"
    archive = server.post({**MINIMAL, "weight": False})
    assert json.loads(archive.headers["x-kepler-selection"])["honesty"] == honesty


def test_models_for_containers_have_no_interval(server: ServerProcess) -> None:
    honesty = selection(server, output_type="DynPower")["honesty"]
    assert (honesty["half_width"], honesty["twin"]) == ({}, None)


@pytest.mark.parametrize("source", ["acpi", "ampere-xgene-hwmon"], ids=["no block", "malformed block"])
def test_models_without_statements(source: str, server: ServerProcess) -> None:
    assert "honesty" not in selection(server, source=source)


def test_the_document_describes_the_statements(server: ServerProcess) -> None:
    schemas = server.get("/openapi.json").json()["components"]["schemas"]
    keys = schemas["HonestyReasons"]["properties"]
    assert set(keys) == set(selection(server)["honesty"])
