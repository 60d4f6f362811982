"""Tests that recordings of Kepler 0.10 and of Kepler 0.7 on the same simulated machine give the same models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.training import train

from kepler_core.models.loading import load_model
from kepler_core.simulate import CORES_PER_SOCKET, Simulation, true_power, write

PIPELINE = """
abs_trainers: [LinearRegressionTrainer, GradientBoostingRegressorTrainer]
dyn_trainers: [LinearRegressionTrainer]
feature_groups: [CPUTime]
energy_sources: [rapl-sysfs]
validation: {folds: 2, regimes: 2}
"""
BUSY = np.array([0.1, 0.3, 0.5, 0.7])
RATES = BUSY * CORES_PER_SOCKET * 1000.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[tuple[str, str], Any]]:
    """Two exporters record the same machine. Train on both recordings, and return the models of each exporter."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "cpu.yaml").write_text(PIPELINE)
    models: dict[str, dict[tuple[str, str], Any]] = {}
    for exporter in ("kepler-0.7", "kepler-0.10"):
        simulation = Simulation(containers=8, timestamps=900, sockets=1, noise=0.005, seed=2, exporter=exporter)
        write(simulation, str(folder / f"{exporter}.json"))
        store = folder / exporter
        report = train(folder / "cpu.yaml", "-i", folder / f"{exporter}.json", "-s", store)
        assert report["failed"] == []
        models[exporter] = {
            (model["output_type"], model["trainer"]): load_model(store / "cpu" / model["path"])
            for model in report["models"]
        }
    return models


@pytest.mark.parametrize("trainer", ["LinearRegressionTrainer", "GradientBoostingRegressorTrainer"])
@pytest.mark.parametrize("component", ["package", "core", "dram"])
def test_models_of_both_exporters_predict_the_same(trained: Any, trainer: str, component: str) -> None:
    old, new = (
        trained[exporter]["AbsPower", trainer].predict(RATES[:, None])[component]
        for exporter in ("kepler-0.7", "kepler-0.10")
    )
    np.testing.assert_allclose(new, old, rtol=0.01 if trainer == "LinearRegressionTrainer" else 0.02)


def test_dynamic_power_of_a_container_is_the_same(trained: Any) -> None:
    old, new = (
        trained[exporter]["DynPower", "LinearRegressionTrainer"].predict(RATES[:, None])["package"]
        for exporter in ("kepler-0.7", "kepler-0.10")
    )
    np.testing.assert_allclose(new, old, rtol=0.02)


def test_the_power_law_comes_back(trained: Any) -> None:
    """The mean of a model's predictions over many loads is equal to the mean of the simulator's power formula.

    The means are compared because boosted trees follow the curve of the formula in steps.
    """
    busy = np.linspace(0.1, 0.7, 100)
    rates = busy[:, None] * CORES_PER_SOCKET * 1000.0
    predicted = trained["kepler-0.10"]["AbsPower", "GradientBoostingRegressorTrainer"].predict(rates)["package"]
    truth = true_power(busy, np.zeros(len(busy)), 1)["package"]
    assert float(np.mean(predicted)) == pytest.approx(float(np.mean(truth)), rel=0.01)
