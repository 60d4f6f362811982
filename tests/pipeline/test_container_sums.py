"""Tests of corrections of DynPower models: idle containers get 0 W, and sums over containers match the node's power."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pytest
from support.command import kepler

from kepler_core.contracts import IsolationContext
from kepler_core.models.kepler_weights import without_idle_power
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.container_sums import gain_below
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, write

TRAINERS = (
    "GradientBoostingRegressorTrainer",
    "SGDRegressorTrainer",
    "SVRRegressorTrainer",
    "LogarithmicRegressionTrainer",
    "ExponentialRegressionTrainer",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    write(Simulation(containers=20, timestamps=200), str(folder / "r.json"))
    done = kepler(
        "train", "quickstart", "-i", folder / "r.json", "-s", folder / "store", "--jobs", "1",
        "--set", "abs_trainers=[]", "--set", f"dyn_trainers=[{','.join(TRAINERS)}]",
        "--set", "energy_sources=[rapl-sysfs]", "--set", "feature_groups=[CounterOnly]",
        "--set", "validation.folds=2", "--set", "validation.regimes=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "zero W" in done.stdout
    return folder


def model_folder(folder: Path, trainer: str) -> Path:
    return next(path.parent for path in folder.rglob("model.json") if path.parent.name.startswith(trainer))


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_idle_container_has_no_power_and_sums_match(folder: Path, trainer: str, resident: bool) -> None:
    model = load_model(model_folder(folder, trainer), resident=resident)
    for watts in model.predict(np.zeros((1, len(model.features)))).values():
        assert watts[0] <= 0.005
    predicted, measured = sums(model, folder / "r.json", "package")
    assert predicted == pytest.approx(measured, rel=0.03)


def sums(model: PowerModel, recording: Path, component: str) -> tuple[float, float]:
    """Return the sums of predicted and measured dynamic power, over all containers and timestamps of a recording."""
    observations = observe([read_recording(recording)])
    dataset = registry.extractors.create("default").extract(
        observations, model.features, "rapl-sysfs", observations.sources["rapl-sysfs"], by_container=True
    )
    dataset = registry.isolators.create("min").isolate(dataset, IsolationContext(observations))
    return float(model.predict(dataset.X)[component].sum()), float(dataset.y(component).sum())


def test_sums_match_although_predictions_are_cut(tmp_path: Path, recordings: Path) -> None:
    """The sums of predicted and measured power are equal although the model's ceiling cuts off high predictions.

    The power of DRAM barely rises with the CPU time, so a line through 0 W exceeds the ceiling.
    """
    done = kepler(
        "train", "quickstart", "-i", recordings / "kepler_coremark.json", "-s", tmp_path, "--jobs", "1",
        "--set", "abs_trainers=[]", "--set", "dyn_trainers=[SGDRegressorTrainer]",
        "--set", "energy_sources=[rapl-sysfs]", "--set", "feature_groups=[CPUTime]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = model_folder(tmp_path, "SGDRegressorTrainer")
    model = load_model(folder)
    predicted, measured = sums(model, recordings / "kepler_coremark.json", "dram")
    assert predicted == pytest.approx(measured, rel=0.01)
    # Kepler does not limit high predictions. So the weights for Kepler must be lower than the slope of the model.
    weights = json.loads((folder / "weight.json").read_text())["dram"]["All_Weights"]["Numerical_Variables"]
    ((feature, weight),) = weights.items()
    uncut = attrs.evolve(model, parts={c: msgspec.structs.replace(p, ceiling=1e6) for c, p in model.parts.items()})
    row = np.array([[0.5 * weight["scale"]]])
    assert feature == "bpf_cpu_time_ms"
    assert 0.5 * weight["weight"] < 0.8 * float(uncut.predict(row)["dram"][0])


@pytest.mark.parametrize("ceiling", [1e6, 9.0, 2.0, 1.0])
def test_the_gain_accounts_for_the_ceiling(ceiling: float) -> None:
    watts = np.random.default_rng(0).gamma(1.0, 2.0, 500)
    watts[:50] = 0.0
    gain = gain_below(ceiling, watts, 440.0)
    assert np.minimum(gain * watts, ceiling).sum() == pytest.approx(440.0)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_metadata_state_errors_of_sums(folder: Path, trainer: str) -> None:
    metadata = json.loads((model_folder(folder, trainer) / "metadata.json").read_text())
    errors = metadata["validation"]["components"]["package"]
    assert errors["zero_watts"] <= 0.005
    assert abs(errors["sum_bias"]) <= errors["mae"]
    assert np.sign(errors["sum_bias_percent"]) == np.sign(errors["sum_bias"])
    assert errors["small_half_bias_percent"] >= -100


@pytest.mark.parametrize(
    ("trainer", "curve"),
    [
        ("LogarithmicRegressionTrainer", [3.0, 0.1, 7.3]),
        ("ExponentialRegressionTrainer", [0.37, 0.2, 7.3]),
        ("LogisticRegressionTrainer", [31.7, 2.3, 1.7, 0.1]),
    ],
)
def test_weights_of_curves_give_no_power_at_idle(trainer: str, curve: list[float]) -> None:
    weights = {"All_Weights": {"Numerical_Variables": {"cpu_cycles": {"scale": 1.0}}, "CurveFit_Weights": curve}}
    changed: list[float] = without_idle_power(weights, trainer, 1.3)["All_Weights"]["CurveFit_Weights"]
    assert changed[:-1] == [1.3 * curve[0], *curve[1:-1]]
    at_idle: dict[str, Any] = {
        "LogarithmicRegressionTrainer": changed[-1],
        "ExponentialRegressionTrainer": changed[0] + changed[-1],
        "LogisticRegressionTrainer": changed[0] / (1 + np.exp(2.3 * 1.7)) + changed[-1],
    }
    assert at_idle[trainer] == pytest.approx(0.0, abs=1e-12)
