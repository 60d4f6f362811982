"""Tests that GET /openapi.json describes the running server.

The program schemathesis sends requests that the document allows or forbids, and checks the answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.server_process import ServerProcess, serving
from support.small_pipelines import SmallModel, pipeline

from kepler_core.store.local import LocalStore

# This check of schemathesis is switched off, because the server may reject a request that the document allows: the
# document cannot list the models and energy sources in the store.
EXCLUDED_CHECK = "positive_data_acceptance"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    store = LocalStore(tmp_path_factory.mktemp("made") / "store")
    models = (
        SmallModel(mae=2),
        SmallModel("XgboostFitTrainer", weights=None),
        SmallModel(output_type="DynPower"),
        SmallModel(source="acpi", node_type=1),
    )
    store.publish("made", pipeline(*models, node_types={0: {"cores": 4}, 1: {"processor": "amd_epyc_7763"}}))
    with serving(store.root, tmp_path_factory.mktemp("log") / "server.log") as process:
        yield process


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    answer = server.get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document: dict[str, Any] = answer.json()
    return document


def test_document_has_every_endpoint(document: dict[str, Any]) -> None:
    endpoints = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert endpoints == {
        ("post", "/model"),
        *(("get", path) for path in (
            "/best-models", "/models", "/models/{pipeline}/{source}/{output_type}/{feature_group}/{name}",
            "/node-types", "/metrics", "/healthz", "/readyz", "/openapi.json",
        )),
    }  # fmt: skip


def test_document_has_every_key_of_the_request(document: dict[str, Any]) -> None:
    body = document["components"]["schemas"]["ModelRequestBody"]
    assert set(body["required"]) == {"metrics", "output_type"}
    assert set(body["properties"]) >= {
        "metrics", "output_type", "weight", "filter", "source", "trainer_name", "node_type", "machine_spec",
        "pipeline_name", "loose_node_type",
    }  # fmt: skip


def test_schemathesis(server: ServerProcess, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    if not schemathesis.exists():
        pytest.fail("schemathesis is not installed: pip install schemathesis")
    location = f"http://127.0.0.1:{server.port}/openapi.json"
    options = ["--max-examples", "40", "--generation-deterministic", "--mode", "all", "--no-color"]
    command = subprocess.run(
        [str(schemathesis), "run", location, "--checks", "all", "--exclude-checks", EXCLUDED_CHECK, *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )
    assert command.returncode == 0, command.stdout[-8000:] + command.stderr[-2000:]
