"""Requests as clients of kepler-model-server 0.7 send them to the offline trainer, and what these clients unpack."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from support.trainer_server import TrainerServer, request

from kepler_core.store.archive import read_pipeline


def unpack(zipped: bytes, folder: Path) -> None:
    """Unpack an answer as the old client does: all members, without a check of their names."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(folder)


def old_models(pipeline: Path) -> dict[str, Path]:
    """Return the folders of models that the old client finds in an unpacked pipeline, by path below the pipeline.

    The old client looks for folders at `<energy source>/<output type>/<feature group>/<model>`. The old model server
    unpacks each model's zip file into the model's folder before.
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
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"acpi", "profiles"}
    models = old_models(folder)
    assert list(models) == ["acpi/AbsPower/BPFOnly/LinearRegressionTrainer_0"]
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
