"""Tests of models that the estimator loads from archives at configured URLs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.estimator_clients import DYN_WATTS, REQUEST, WATTS, watts_request
from support.estimator_process import running_estimator
from support.http_files import http_files
from support.linear_models import ABS, ALL, DYN, OTHER, PLATFORM, publish

from kepler_core.store.layout import zip_bytes


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("level", ["CONTAINER", "PROCESS"])
def test_each_level_and_kind_has_a_url(tmp_path: Path, scheme: str, level: str) -> None:
    folder = tmp_path / "urls"
    folder.mkdir()
    for name, model in (("abs", ABS), ("dyn", DYN), ("platform", PLATFORM)):
        (folder / f"{name}.zip").write_bytes(zip_bytes(model.stored()[1]))
    with http_files(folder) as url:
        base = url if scheme == "http" else folder.as_uri()
        keys = {
            "NODE_COMPONENTS_INIT_URL": f"{base}/abs.zip",
            "NODE_TOTAL_INIT_URL": f"{base}/platform.zip",
            f"{level}_COMPONENTS_INIT_URL": f"{base}/dyn.zip",
        }
        with running_estimator(tmp_path / "e.sock", environ=keys) as estimator:
            for _ in range(2):
                assert estimator.ask(REQUEST)["powers"] == WATTS
                assert estimator.ask(watts_request(source="acpi"))["powers"] == {"platform": [102.0]}
                assert estimator.ask(watts_request(output_type="DynPower"))["powers"] == DYN_WATTS
            reply = estimator.ask(watts_request(output_type="DynPower", source="acpi"))
            assert reply["powers"] == {"platform": [0]}
            assert f"{level}_TOTAL_INIT_URL" in reply["msg"]
            assert "did you mean SGDRegressorTrainer" in estimator.ask(watts_request(trainer_name="SGDRegresor"))["msg"]
            assert estimator.providers_in_use() == sorted(f"URL {keys[key]}" for key in keys)


def test_a_model_without_a_source_answers_for_each_source(tmp_path: Path) -> None:
    files = dict(ABS.stored()[1])
    metadata = json.loads(files["metadata.json"])
    del metadata["source"]
    (tmp_path / "m.zip").write_bytes(zip_bytes({**files, "metadata.json": json.dumps(metadata).encode()}))
    keys = {"NODE_COMPONENTS_INIT_URL": (tmp_path / "m.zip").as_uri()}
    with running_estimator(tmp_path / "e.sock", environ=keys) as estimator:
        for source in ("rapl-sysfs", "rapl-msr"):
            assert estimator.ask(watts_request(source=source))["powers"] == WATTS


def test_a_configured_url_precedes_the_store(tmp_path: Path) -> None:
    publish(tmp_path / "store", OTHER, DYN)
    (tmp_path / "m.zip").write_bytes(zip_bytes(ABS.stored()[1]))
    with http_files(tmp_path) as url:
        keys = {"NODE_COMPONENTS_INIT_URL": f"{url}/m.zip"}
        with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store", environ=keys) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
            assert estimator.ask(watts_request(output_type="DynPower"))["powers"]["package"] == [1.2]


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", zip_bytes({"metadata.json": b"{"}), zip_bytes({"metadata.json": b"[]"}), zip_bytes({"x": b""}),
     zip_bytes({"metadata.json": b'{"features":5}'}), zip_bytes({"metadata.json": b"{" * 100_000}), None],
    ids=["empty", "garbage", "half", "list", "none", "wrong", "deep", "absent"],
)  # fmt: skip
def test_the_store_replaces_a_url_without_a_usable_model(tmp_path: Path, content: bytes | None) -> None:
    publish(tmp_path / "store", *ALL)
    if content is not None:
        (tmp_path / "m.zip").write_bytes(content)
    with http_files(tmp_path) as url:
        keys = {"NODE_COMPONENTS_INIT_URL": f"{url}/m.zip"}
        with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store", environ=keys) as estimator:
            assert estimator.ask(REQUEST)["powers"] == WATTS
            assert f"{url}/m.zip" in estimator.log, "the log must say why it is not used"
