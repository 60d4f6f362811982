"""Test `MachinePowerTrainer` for machines of many kinds whose idle power is known."""

from __future__ import annotations

import numpy as np
import pytest

from kepler_core.contracts import FitTask

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
