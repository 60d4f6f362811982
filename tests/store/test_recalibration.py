"""Tests of recalibrated models in every model format, and of their corrected weights for Kepler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from support.small_pipelines import evaluate

from kepler_core.errors import ModelError
from kepler_core.models.loading import load_model
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.train import train
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.store import open_store
from kepler_core.store.models import StoredModel, read_models

TRAINERS = (
    "GradientBoostingRegressorTrainer, SGDRegressorTrainer, LogarithmicRegressionTrainer, "
    "LogisticRegressionTrainer, ExponentialRegressionTrainer"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[StoredModel]:
    folder = tmp_path_factory.mktemp("m")
    (folder / "p.yaml").write_text(f"energy_sources: [rapl]\nfeature_groups: [BPFOnly]\nabs_trainers: [{TRAINERS}]\n")
    content = recording(Simulation(containers=3, timestamps=100, sockets=1, resets=0))
    store = open_store(str(folder / "store"))
    report = train(load_pipeline(folder / "p.yaml"), observe([read_recording(content)]), store, jobs=1)
    assert not report.failed
    return read_models(store.snapshot("p"))


def files_of(entry: StoredModel) -> dict[str, bytes]:
    folder = Path(str(entry.snapshot.folder)) / entry.path
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_models_of_every_format_are_corrected(models: list[StoredModel]) -> None:
    X = np.array([[0.0, 0.0], [4000.0, 2000.0], [11000.0, 8000.0]])
    for entry in models:
        before = entry.load().predict(X)
        files = recalibrated(files_of(entry), {"package": Correction(1.15, 2.0)})
        model = load_model(files)
        after = model.predict(X)
        np.testing.assert_allclose(after["package"], 1.15 * before["package"] + 2.0, rtol=1e-5)
        np.testing.assert_array_equal(after["dram"], before["dram"])
        again = load_model(recalibrated(files, {"package": Correction(0.5, 1.0)})).predict(X)
        np.testing.assert_allclose(again["package"], 0.5 * after["package"] + 1.0, rtol=1e-5)
        assert model.metadata["recalibration"] == {"package": {"gain": 1.15, "shift": 2.0}}
        if entry.weights is not None:
            weights = json.loads(files["weight.json"])
            assert weights["model_name"] == entry.metadata["model_name"]
            if entry.trainer == "SGDRegressorTrainer":
                columns = {name: X[:, at].tolist() for at, name in enumerate(entry.features)}
                watts = evaluate(weights, columns, entry.features[0])
                np.testing.assert_allclose(watts["package"], after["package"], rtol=1e-4)
            else:
                columns = {entry.features[0]: X[:, 0].tolist()}
                watts = evaluate(weights, columns, entry.features[0])
                np.testing.assert_allclose(watts["package"], after["package"], rtol=1e-4)


def test_intervals_and_limits_follow_the_predictions(models: list[StoredModel]) -> None:
    files = files_of(models[0])
    metadata = json.loads(files["metadata.json"])
    twin = {"model_name": "x_0", "feature_group": "CPUTime", "limits": {"package": 3.0, "dram": 3.0}}
    metadata["honesty"]["twin"] = twin
    before = metadata["honesty"]["intervals"]
    before["package"] |= {"edges": [60.0, 80.0], "quantiles": [1.0, 2.0, 3.0]}
    files["metadata.json"] = json.dumps(metadata).encode()
    honesty = json.loads(recalibrated(files, {"package": Correction(2.0, -10.0)})["metadata.json"])["honesty"]
    old, new = before["package"], honesty["intervals"]["package"]
    np.testing.assert_allclose(new["edges"], [2 * edge - 10 for edge in old["edges"]])
    np.testing.assert_allclose(new["quantiles"], [2 * quantile for quantile in old["quantiles"]])
    assert (new["lowest"], new["highest"]) == (2 * old["lowest"] - 10, 2 * old["highest"] - 10)
    assert (new["session"], new["noise"]) == (2 * old["session"], 2 * old["noise"])
    assert (new["machine_idle"], new["machine_loaded"]) == (old["machine_idle"], old["machine_loaded"])
    assert honesty["intervals"]["dram"] == before["dram"]
    assert honesty["twin"]["limits"] == {"package": 6.0, "dram": 3.0}
    assert honesty["splits"] == metadata["honesty"]["splits"]


def test_weights_that_become_unsafe_are_left_out(models: list[StoredModel]) -> None:
    entry = next(entry for entry in models if entry.trainer == "SGDRegressorTrainer")
    files = recalibrated(files_of(entry), {"package": Correction(1.0, -500.0)})
    assert "weight.json" not in files
    assert "W at idle" in json.loads(files["metadata.json"])["no_weights"]
    assert (load_model(files).predict(np.zeros((1, 2)))["package"] == 0.0).all()


def test_wrong_corrections_and_files(models: list[StoredModel]) -> None:
    files = files_of(models[0])
    for gain in (0.0, -1.0, float("nan")):
        with pytest.raises(ModelError, match="gain"):
            recalibrated(files, {"package": Correction(gain)})
    with pytest.raises(ModelError, match="not a model"):
        recalibrated({}, {})
