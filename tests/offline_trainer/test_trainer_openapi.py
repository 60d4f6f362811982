"""Test the offline trainer's OpenAPI document, and send requests that are generated from the document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from support.trainer_server import TrainerServer

from kepler_core.pipeline.spec import PipelineSpec

METHODS = ("get", "post", "delete")


def test_every_endpoint_is_in_the_document(server: TrainerServer) -> None:
    document = server.get("/openapi.json").json()
    endpoints = {(method, path) for path, item in document["paths"].items() for method in item if method in METHODS}
    assert endpoints == {
        ("post", "/train"), ("delete", "/jobs/{job}"),
        *(("get", path) for path in (
            "/jobs", "/jobs/{job}", "/jobs/{job}/result", "/metrics", "/healthz", "/readyz", "/openapi.json"
        )),
    }  # fmt: skip
    operations = [item[method] for item in document["paths"].values() for method in item if method in METHODS]
    assert all(parameter["description"] for item in operations for parameter in item.get("parameters", ()))


def test_the_document_has_the_keys_of_requests(server: TrainerServer) -> None:
    schemas = server.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["SimpleRequest"]["properties"]) >= {
        "name", "energy_source", "trainer", "prome_response", "prom_response", "use_vm_metrics",
    }  # fmt: skip
    assert set(schemas["SimpleRequest"]["required"]) == {"name", "energy_source", "trainer"}
    assert set(schemas["TrainerSection"]["properties"]) == {
        "abs_trainers", "dyn_trainers", "isolator", "isolator_args", "idle_prom_response",
    }  # fmt: skip
    assert set(schemas["PipelineSpec"]["properties"]) == {field.name for field in attrs.fields(PipelineSpec)}


def test_schemathesis(server: TrainerServer, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    if not schemathesis.exists():
        pytest.fail("schemathesis is not installed: pip install schemathesis")
    # positive_data_acceptance is excluded because the server may reject requests that match the OpenAPI document:
    # the document does not list the names of the installed plugins.
    options = [
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "15",
        "--generation-deterministic", "--mode", "all", "--no-color",
    ]  # fmt: skip
    process = subprocess.run(
        [str(schemathesis), "run", f"http://127.0.0.1:{server.port}/openapi.json", *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
