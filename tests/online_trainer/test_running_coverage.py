"""Tests of the running coverage: how often the measured power of new samples is within the served model's interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from support.linear_models import MACHINE, LinearModel, publish
from support.online_trainer import observe_part
from support.small_pipelines import BPF

from kepler_core.arrays import FloatArray
from kepler_core.recording import Observations
from kepler_core.simulate import Simulation, recording
from kepler_core.store import open_store
from kepler_servers.online_trainer.drift import WINDOW_SAMPLES, DriftMonitor, WatchedModel

OBSERVATIONS = observe_part(recording(Simulation(containers=2, timestamps=200, sockets=1, accelerator=False)), 0, 600)
NODE = OBSERVATIONS.streams[0].node
USED = np.flatnonzero(np.isfinite(np.column_stack([OBSERVATIONS.node_features[name] for name in BPF])).all(axis=1))
"""Indices of the samples of `OBSERVATIONS` in which both features of `BPF` are known."""
BIAS = 20.0
QUANTILE, MACHINE_ERROR = 12.0, 0.5
GB = "GradientBoostingRegressorTrainer"


def terms(quantile: float = QUANTILE) -> dict[str, Any]:
    return {
        "lowest": 10.0, "highest": 200.0, "edges": [], "quantiles": [quantile], "session": 0.0,
        "machine_idle": MACHINE_ERROR, "machine_loaded": MACHINE_ERROR, "noise": 0.0,
    }  # fmt: skip


def honesty(node: str = NODE, worst: float = 2.0, twin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a block `honesty` (errors and intervals) for a model that was trained on the node `node`."""
    return {
        "splits": {"blocks": {"mae": 1.0, "components": {}, "parts": 5, "worst": worst}},
        "hardest": "blocks",
        "seen": {"recordings": 1, "days": 1, "nodes": 1, "samples": 100, "features": {}, "node_names": [node]},
        "level": 0.9,
        "intervals": {"package": terms()},
        "twin": twin,
    }


def model(trainer: str = "SGDRegressorTrainer", **settings: Any) -> LinearModel:
    return LinearModel(trainer, watts={"package": (BIAS, {"bpf_cpu_time_ms": 0.01}), "dram": (1.0, {})}, **settings)


def watch(folder: Path, *models: LinearModel) -> list[WatchedModel]:
    """Publish models, and let a drift monitor compare them with all samples of `OBSERVATIONS` in two rounds."""
    publish(folder / "store", *models)
    monitor = DriftMonitor(open_store(str(folder / "store")), "made", MACHINE)
    assert monitor.refresh()
    for fresh in np.array_split(np.arange(len(OBSERVATIONS.sample_time)), 2):
        monitor.update(OBSERVATIONS, fresh)
    return monitor.watched


def newest(observations: Observations = OBSERVATIONS) -> tuple[FloatArray, FloatArray]:
    """Return the package power of the newest samples: the watts that `model` predicts, and the measured watts."""
    predicted = BIAS + 0.01 * observations.node_features["bpf_cpu_time_ms"][USED]
    measured = observations.power["rapl-sysfs", "package"][USED]
    known = np.isfinite(measured)
    return predicted[known][-WINDOW_SAMPLES:], measured[known][-WINDOW_SAMPLES:]


@pytest.mark.parametrize("node", [NODE, "another-node:9102"])
def test_coverage_is_measured_with_the_intervals_of_the_node(node: str, tmp_path: Path) -> None:
    """If the model was not trained on the node, the coverage is computed with the wider interval for other machines."""
    (watched,) = watch(tmp_path, model(honesty=honesty(node)))
    predicted, measured = newest()
    half = np.hypot(QUANTILE, 0.0 if node == NODE else MACHINE_ERROR * predicted)
    window = watched.known_windows()["package"]
    expected = float(np.mean(np.abs(predicted - measured) <= half))
    assert 0.02 < expected < 0.98
    assert len(predicted) == len(window.errors) == WINDOW_SAMPLES
    assert window.coverage == pytest.approx(expected)
    assert window.mean_half_width == pytest.approx(half.mean())
    assert (watched.outside_ratio(), watched.disagreement_ratio()) == (0.0, 0.0)


def test_a_component_without_interval_has_a_running_error_only(tmp_path: Path) -> None:
    (watched,) = watch(tmp_path, model(honesty=honesty()))
    window = watched.known_windows()["dram"]
    assert window.running_error > 0
    assert (window.coverage, window.mean_half_width) == (None, None)


def test_samples_outside_of_the_training_are_counted(tmp_path: Path) -> None:
    (watched,) = watch(tmp_path, model(honesty=honesty(), lowest=1e6))
    assert watched.outside_ratio() == 1.0


def test_answers_of_the_twin_are_compared(tmp_path: Path) -> None:
    """If model and twin differ too much, the estimator replies with the twin's watts. So these watts are checked."""
    description = {"model_name": "SGDRegressorTrainer_0", "feature_group": "CPUTime", "limits": {"package": 1.0}}
    twin = LinearModel(group="CPUTime", features=BPF[:1], watts={"package": (500.0, {}), "dram": (1.0, {})})
    by_group = {w.entry.feature_group: w for w in watch(tmp_path, model(honesty=honesty(twin=description)), twin)}
    checked, own = by_group["BPFOnly"], by_group["CPUTime"]
    assert checked.disagreement_ratio() == 1.0
    assert checked.running()["package"] == pytest.approx(own.running()["package"])
    assert own.known_windows()["package"].coverage is None


def test_a_missing_twin_does_not_end_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    description = {"model_name": "SGDRegressorTrainer_0", "feature_group": "CPUTime", "limits": {"package": 1.0}}
    (watched,) = watch(tmp_path, model(honesty=honesty(twin=description)))
    assert watched.known_windows()["package"].coverage is not None
    assert "is checked without its twin" in caplog.text


def test_the_model_that_selection_prefers_is_watched(tmp_path: Path) -> None:
    """The monitor uses the model with the lower error on the worst samples, even if its mean error is higher."""
    hard = model(mae=1.0, honesty=honesty(worst=9.0))
    easy = model(GB, mae=2.0, honesty=honesty(worst=3.0))
    assert [watched.entry.trainer for watched in watch(tmp_path, hard, easy)] == [GB]
