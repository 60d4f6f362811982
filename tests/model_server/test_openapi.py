"""GET /openapi.json is true: schemathesis asks the running server whatever the document allows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.server_process import Made, ServerProcess, pipeline, serving

from kepler_core.store.local import LocalStore

# Positive data need not be accepted: which models and sources there are is not in the document.
LEFT_OUT = "positive_data_acceptance"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    store = LocalStore(tmp_path_factory.mktemp("made") / "store")
    models = (
        Made(mae=2),
        Made("XgboostFitTrainer", weights=None),
        Made(output_type="DynPower"),
        Made(source="acpi", node_type=1),
    )
    store.publish("made", pipeline(*models, node_types={0: {"cores": 4}, 1: {"processor": "amd_epyc_7763"}}))
    with serving(store.root, tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    found = server.get("/openapi.json")
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    answer: dict[str, Any] = found.json()
    return answer


def test_every_endpoint_is_in_it(document: dict[str, Any]) -> None:
    found = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert found == {
        ("post", "/model"),
        *(("get", path) for path in (
            "/best-models", "/models", "/models/{pipeline}/{source}/{output_type}/{feature_group}/{name}",
            "/node-types", "/metrics", "/healthz", "/readyz", "/openapi.json",
        )),
    }  # fmt: skip


def test_the_request_has_every_key(document: dict[str, Any]) -> None:
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
    done = subprocess.run(
        [str(schemathesis), "run", location, "--checks", "all", "--exclude-checks", LEFT_OUT, *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
