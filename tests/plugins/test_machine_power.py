"""Test `MachinePowerTrainer` for machines of many kinds whose idle power is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kepler_core.contracts import FitTask
from kepler_core.errors import PluginError

pytest.importorskip("sklearn")

from kepler_core.plugins import registry

FEATURES = ("machine_load", "machine_tdp_w", "machine_idle_per_w")


def rows(machines: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, watts and idle watts of random machines. Each machine has 6 rows, one for each load."""
    random = np.random.default_rng(seed)
    tdp, ratio = random.uniform(80, 500, machines), random.uniform(0.2, 0.6, machines)
    load = np.tile(np.linspace(0, 1, 6), machines)
    tdp, ratio = np.repeat(tdp, 6), np.repeat(ratio, 6)
    idle = tdp * ratio
    return np.column_stack([load, tdp, ratio]), idle + load * tdp * (1.2 - ratio), idle


def test_a_known_idle_power_is_predicted_exactly_at_idle() -> None:
    X, y, _ = rows(60, 1)
    scale = X.max(axis=0)
    trainer = registry.trainers.create("MachinePowerTrainer", {"extra_trees": 10, "boosted_trees": 40})
    task = FitTask("platform", FEATURES, "machine_load", "AbsPower", 0, tuple(map(float, scale)))
    regressor = trainer.regressor(task).fit(X / scale, y)
    new_X, new_y, idle = rows(20, 2)
    predicted = regressor.predict(new_X / scale)
    at_idle = new_X[:, 0] == 0
    assert predicted[at_idle] == pytest.approx(idle[at_idle], rel=1e-9)
    assert np.mean(np.abs(predicted / new_y - 1)[~at_idle]) < 0.06


def test_a_table_without_load_is_fitted_to_the_power() -> None:
    X, y, _ = rows(30, 1)
    idle_rows = X[:, 0] == 0
    trainer = registry.trainers.create("MachinePowerTrainer", {"extra_trees": 5, "boosted_trees": 5})
    regressor = trainer.regressor(FitTask("platform", FEATURES, "machine_load", "AbsPower", 0))
    assert np.all(regressor.fit(X[idle_rows], y[idle_rows]).predict(X) > 0)


TREND_FEATURES = ("machine_load", "machine_tdp_w", "machine_cores", "machine_year", "machine_is_amd")


def machines_by_year(years: range, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and watts of four machines a year with 6 loads each. Power falls by 8 % a year."""
    random = np.random.default_rng(seed)
    year = np.repeat(np.array(years, dtype=float), 4)
    tdp, cores = random.uniform(80, 500, len(year)), random.integers(4, 64, len(year)).astype(float)
    amd = random.integers(0, 2, len(year)).astype(float)
    load = np.tile(np.linspace(0, 1, 6), len(year))
    X = np.column_stack([load, *(np.repeat(values, 6) for values in (tdp, cores, year, amd))])
    return X, np.repeat(tdp * 0.92 ** (year - 2006), 6) * (0.4 + load)


def fitted(X: np.ndarray, y: np.ndarray, **arguments: float) -> tuple[Any, np.ndarray]:
    """Return a fitted regressor and the scales of its columns. Columns must be divided by their scales."""
    scale = np.where(X.max(axis=0) > 0, X.max(axis=0), 1.0)
    trainer = registry.trainers.create("MachinePowerTrainer", {"extra_trees": 10, "boosted_trees": 40, **arguments})
    task = FitTask("platform", TREND_FEATURES, "machine_load", "AbsPower", 0, tuple(map(float, scale)))
    return trainer.regressor(task).fit(X / scale, y), scale


def test_newer_machines_follow_a_part_of_the_trend() -> None:
    X, y = machines_by_year(range(2006, 2016), 1)
    new_X, new_y = machines_by_year(range(2018, 2019), 2)
    error = {}
    for part in (0.0, 0.5, 1.0):
        regressor, scale = fitted(X, y, trend=part)
        error[part] = float(np.mean(np.log(regressor.predict(new_X / scale) / new_y)))
    assert error[0.0] > 0.2, "trees alone predict the power of 2015"
    assert error[0.5] == pytest.approx((error[0.0] + error[1.0]) / 2, abs=0.05)
    assert abs(error[1.0]) < 0.05


def test_the_trend_ends_beyond_the_range_of_the_training() -> None:
    X, y = machines_by_year(range(2006, 2016), 1)
    regressor, scale = fitted(X, y, trend=1.0)
    later = np.repeat(X[:1], 3, axis=0)
    later[:, 3] = (2015, 2030, 2100)
    watts = regressor.predict(later / scale)
    assert watts[1] < watts[0]
    assert watts[2] == watts[1]


def test_a_fact_that_was_constant_in_the_training_has_no_effect_on_the_trend() -> None:
    X, y = machines_by_year(range(2006, 2016), 1)
    X[:, 4] = 0.0
    regressor, scale = fitted(X, y)
    changed = X.copy()
    changed[:, 4] = 1.0
    assert np.array_equal(regressor.predict(X / scale), regressor.predict(changed / scale))


def test_the_onnx_graph_predicts_the_same() -> None:
    pytest.importorskip("skl2onnx")
    from onnxruntime import InferenceSession

    from kepler_plugins.model_formats.onnx_conversion import to_onnx

    X, y = machines_by_year(range(2006, 2016), 1)
    regressor, scale = fitted(X, y)
    new_X = np.vstack([X, machines_by_year(range(2016, 2030), 3)[0], np.zeros((1, X.shape[1]))]) / scale
    session = InferenceSession(to_onnx(regressor, X.shape[1], double=False), providers=["CPUExecutionProvider"])
    (watts,) = session.run(None, {session.get_inputs()[0].name: new_X.astype(np.float32)})
    assert watts.ravel() == pytest.approx(regressor.predict(new_X.astype(np.float32).astype(float)), rel=1e-4)


@pytest.mark.parametrize("part", [-0.1, 1.5, float("nan")])
def test_a_part_of_the_trend_is_between_0_and_1(part: float) -> None:
    with pytest.raises(PluginError, match=r"at least 0|at most 1"):
        registry.trainers.create("MachinePowerTrainer", {"trend": part})
