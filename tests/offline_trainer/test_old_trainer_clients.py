"""Tests that clients of kepler-model-server 0.7 still work: they can send requests, and unpack the answers."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.process import wait_for
from support.trainer_server import Breakpoints, TrainerFolder, TrainerServer, request, training

from kepler_core.store.archive import read_pipeline


def unpack(zipped: bytes, folder: Path) -> None:
    """Unpack the zip archive in an answer as the old client does: all files, without a check of their names."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(folder)


def old_models(pipeline: Path) -> dict[str, Path]:
    """Unpack the models of a pipeline. Return the folders of the models that an old client finds, by path.

    An old client looks for model folders at `<energy source>/<output type>/<feature group>/<model>`. The old model
    server has unpacked each model's zip file into such a folder.
    """
    for zipped in pipeline.glob("*/*/*/*.zip"):
        with zipfile.ZipFile(zipped) as archive:
            archive.extractall(zipped.with_suffix(""))
    return {
        str(folder.relative_to(pipeline)): folder
        for output_type in ("AbsPower", "DynPower")
        for folder in pipeline.glob(f"acpi/{output_type}/*/*")
        if folder.is_dir()
    }


# --- layout of the zip archive in the answer ---


def test_the_pipeline_is_at_the_top_of_the_zip(server: TrainerServer, tmp_path: Path) -> None:
    answer = server.train(request(name="old-client"))
    assert answer.status == 200, answer.body
    folder = tmp_path / "models" / "old-client"
    unpack(answer.body, folder)
    assert json.loads((folder / "metadata.json").read_bytes())["name"] == "old-client"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"acpi", "profiles", "samples"}
    models = old_models(folder)
    assert set(models) == {f"acpi/AbsPower/{group}/LinearRegressionTrainer_0" for group in ("CPUTime", "BPFOnly")}
    for model in models.values():
        metadata = json.loads((model / "metadata.json").read_bytes())
        assert metadata["model_name"] == model.name
        assert metadata["mae"] >= 0
        assert (model / "weight.json").read_bytes() == model.with_suffix(".json").read_bytes()


def test_the_zip_of_a_queued_job_has_the_same_layout(server: TrainerServer, trained: str, tmp_path: Path) -> None:
    zipped = server.get(f"{trained}/result").body
    unpack(zipped, tmp_path / "any")
    assert old_models(tmp_path / "any")
    (tmp_path / "downloaded.zip").write_bytes(zipped)
    assert read_pipeline(str(tmp_path / "downloaded.zip"))[0] == "trained"


# --- text in place of flags and numbers ---

ABS = {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": [], "isolator": "min"}


@pytest.mark.parametrize("text", ["False", "0", ""])
def test_false_as_text_trains_from_containers(server: TrainerServer, text: str) -> None:
    url = server.submit(request(name="flags", use_vm_metrics=text))
    server.until(url, "done")


@pytest.mark.parametrize("text", ["true", "1"])
def test_true_as_text_trains_from_virtual_machines(server: TrainerServer, text: str) -> None:
    """A flag with the text "true" or "1" has an effect: the job trains on virtual machines.

    The training fails, because the recording contains no power of virtual machines.
    """
    job = server.until(server.submit(request(name="vms", use_vm_metrics=text)), "failed")
    assert "no power of acpi" in job["error"]["msg"]


def test_other_texts_are_no_flags(server: TrainerServer) -> None:
    message = server.rejected(request(use_vm_metrics="yes"), 400, "use_vm_metrics")
    assert "'yes' is not true or false; a text must be one of 1, t, T, TRUE, true, True, 0, f, F, FALSE" in message


def test_numbers_of_a_machine_as_text(server: TrainerServer, tmp_path: Path) -> None:
    spec = {"processor": "intel_xeon_e5_2630v3", "cores": "32", "chips": "2.0", "memory": 62.0, "frequency": ""}
    answer = server.train(request(name="machine", machine_spec=spec))
    assert answer.status == 200, answer.body
    unpack(answer.body, tmp_path / "machine")
    index = json.loads((tmp_path / "machine" / "node_type_index.json").read_bytes())
    assert index["0"]["attrs"] == {"processor": "intel_xeon_e5_2630v3", "cores": 32, "chips": 2, "memory": 62}


@pytest.mark.parametrize(("text", "reason"), [("many", "a number"), ("-1", "a number"), ("1.5", "a whole number")])
def test_other_texts_are_no_numbers_of_a_machine(server: TrainerServer, text: str, reason: str) -> None:
    message = server.rejected(request(machine_spec={"cores": text}), 400)
    assert message.startswith("machine_spec")
    assert "cores: " in message
    assert f"is not {reason}" in message


ISOLATOR = """
from kepler_core.contracts import Isolator


class CountingIsolator(Isolator):
    def __init__(
        self, count: int = 1, share: float | None = None, strict: bool = False, label: str = "", either: int | str = 0
    ) -> None:
        pass

    def isolate(self, dataset, context):
        return dataset.isolated(dataset.node_power() * 0.0)
"""


@pytest.fixture
def counting(own: TrainerFolder) -> dict[str, str]:
    """Return environment variables with which a server finds the isolator `CountingIsolator`.

    The isolator has arguments of several types. It belongs to another distribution package than Kepler Core.
    """
    site = own.root / "site"
    info = site / "counting-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kepler.isolators]\nCountingIsolator = counting:CountingIsolator\n")
    (site / "counting.py").write_text(ISOLATOR)
    return {"PYTHONPATH": str(site)}


def test_arguments_of_isolators_as_text(own: TrainerFolder, counting: dict[str, str], tmp_path: Path) -> None:
    def body(**arguments: Any) -> dict[str, Any]:
        return request(trainer={**ABS, "isolator": "CountingIsolator", "isolator_args": arguments})

    with training(own.root, environ=counting) as server:
        for arguments, reason in (
            ({"count": "many"}, "'many' is not a whole number"),
            ({"count": "1.5"}, "1.5 is not a whole number"),
            ({"count": "9" * 400}, "is not a whole number"),
            ({"share": "nan"}, "'nan' is not a number"),
            ({"strict": "yes"}, "'yes' is not true or false"),
        ):
            key = next(iter(arguments))
            assert reason in server.rejected(body(**arguments), 400, f"trainer.isolator_args.{key}")
        answer = server.train(body(count="3", share="0.5", strict="True", label="7", either="8"))
        assert answer.status == 200, answer.body
    unpack(answer.body, tmp_path / "small")
    metadata = json.loads((tmp_path / "small" / "metadata.json").read_bytes())
    assert metadata["pipeline"]["isolator"]["args"] == {
        "count": 3, "share": 0.5, "strict": True, "label": "7", "either": "8",
    }  # fmt: skip


# --- arguments of isolators with the names of kepler-model-server 0.7 ---


def test_the_pipeline_of_an_isolator_is_ignored_and_logged(server: TrainerServer) -> None:
    arguments = {"abs_pipeline_name": "std_v0.7.11"}
    job = server.until(server.submit(request(name="ignored", trainer={**ABS, "isolator_args": arguments})), "done")
    assert any("isolator_args.abs_pipeline_name is ignored" in line["text"] for line in job["log"])


def test_background_hints_have_an_old_name(server: TrainerServer) -> None:
    both = {**ABS, "dyn_trainers": ["LinearRegressionTrainer"]}

    def body(**arguments: Any) -> dict[str, Any]:
        return request(name="hints", trainer={**both, "isolator": "TrainIsolator", "isolator_args": arguments})

    job = server.until(server.submit(body(bg_hints=["no-such-container"])), "failed", "done")
    assert "background_hints: no container matches no-such-container" in json.dumps(job)
    server.rejected(body(bg_hints=[1]), 400, "trainer.isolator_args.bg_hints")
    message = server.rejected(body(bg_hints=["a"], background_hints=["a"]), 400, "trainer.isolator_args.bg_hints")
    assert "also given as background_hints" in message
    server.rejected(request(trainer={**ABS, "isolator_args": {"bg_hints": ["a"]}}), 400)


# --- folders that kepler-model-server left in the store ---


def test_the_name_of_a_left_folder_is_rejected_before_the_training(own: TrainerFolder) -> None:
    left = own.root / "store" / "left"
    left.mkdir(parents=True)
    with training(own.root) as server:
        message = server.rejected(request(name="left"), 409)
        assert message == (
            f"{left} was not published by kepler-model; send another name, or rename or remove this folder"
        )
        assert server.get("/jobs").json()["total"] == 0
        assert f"a training request was rejected: {left} was not published" in server.log
        left.rmdir()
        server.until(server.submit(request(name="left")), "done")


def test_a_folder_that_appears_while_a_job_waits_fails_the_job(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set("kepler_model_trained")
    with training(own.root, environ=breakpoints.environ) as server:
        url = server.submit(request(name="late"))
        breakpoints.wait("kepler_model_trained")
        (own.root / "store" / "late").mkdir(parents=True)
        breakpoints.clear("kepler_model_trained")
        job = server.until(url, "failed")
        assert job["error"]["status"] == 409
        wait_for(lambda: ": late: failed after " in server.log, "the log does not name the pipeline")
        assert "training late failed with status 409" in server.log
