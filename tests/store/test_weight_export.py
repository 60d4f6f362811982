"""Tests of exported weights. If a model has no weights, its metadata must state why."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.power_model import scaled
from kepler_core.plugins import registry

FEATURES = ("bpf_cpu_time_ms", "bpf_page_cache_hit", "bpf_net_tx_irq")


@attrs.define(eq=False)
class Line:
    """A fitted linear regressor with the weights `coef_`, in watts per scaled feature."""

    coef_: FloatArray
    intercept_: float

    def fit(self, X: FloatArray, y: FloatArray) -> Line:
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(X @ self.coef_ + self.intercept_)


def training_rows(page_cache: float | None = None, interrupts: float = 0.7) -> FloatArray:
    """Return unscaled features, shape (200, 3).

    If `page_cache` is not None, it is the constant value of bpf_page_cache_hit.
    """
    X = np.random.default_rng(0).uniform(0, 1, (200, 3)) * [30_000.0, 5_000.0, interrupts]
    X[0] = 30_000.0, 5_000.0, interrupts
    if page_cache is not None:
        X[:, 1] = page_cache
    return X


def exported(
    X: FloatArray, weights: tuple[float, ...], trainer: str = "MyLinearTrainer"
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Export a linear model of package power. Return its weight file, if it has one, and its metadata."""
    scale = np.abs(X).max(axis=0)
    line = Line(np.array(weights), 40.0)
    watts = line.predict(scaled(X, scale).astype(np.float64))
    parts = {"package": FittedComponent(line, None, watts)}
    files = export(FEATURES, scale, X, parts, {"model_name": f"{trainer}_0", "trainer": trainer})
    weight_file = json.loads(files["weight.json"]) if "weight.json" in files else None
    return weight_file, json.loads(files["metadata.json"])


def weights_in(weight_file: dict[str, Any] | None) -> list[float]:
    assert weight_file is not None
    variables = weight_file["package"]["All_Weights"]["Numerical_Variables"]
    return [variables[feature]["weight"] for feature in FEATURES]


def test_the_reason_for_missing_weights_is_in_the_metadata() -> None:
    for X, weights, why in (
        (training_rows(), (100.0, 0.0, 5.0), "package: a weight of 5 W on bpf_net_tx_irq, whose scale, .*is 0.7"),
        (training_rows(7.0), (90.0, 3.0, 0.0), "3 W on bpf_page_cache_hit, which never varied in training: .*always 7"),
        (training_rows(), (100.0, -20.0, 0.0), "falls to -20 W if .* bpf_page_cache_hit has a weight of -20 W"),
    ):
        weight_file, metadata = exported(X, weights)
        assert weight_file is None
        assert re.search(why, metadata["no_weights"])


def test_negligible_weights_are_left_out() -> None:
    """The weight of a constant or rare feature becomes 0 if it changes power by less than 0.1 % of its range."""
    weight_file, metadata = exported(training_rows(7.0), (100.0, 1e-17, 0.05))
    assert weights_in(weight_file) == [100.0, 0.0, 0.0]
    assert "no_weights" not in metadata
    weight_file, _ = exported(training_rows(interrupts=50.0), (100.0, 0.01, 0.05))
    assert weights_in(weight_file) == [100.0, 0.01, 0.05]


def test_a_curve_over_a_rare_feature_has_no_weights() -> None:
    task = FitTask("package", FEATURES, "bpf_net_tx_irq", "AbsPower", 0)
    for interrupts, has_weights in ((0.7, False), (70.0, True)):
        X = training_rows(interrupts=interrupts)
        scale = np.abs(X).max(axis=0)
        watts = 40 + 60 * np.log1p(3 * X[:, 2] / interrupts)
        curve = registry.trainers.create("LogarithmicRegressionTrainer").regressor(task)
        curve.fit(scaled(X, scale).astype(np.float64), watts)
        metadata = {"model_name": "LogarithmicRegressionTrainer_0", "trainer": "LogarithmicRegressionTrainer"}
        files = export(FEATURES, scale, X, {"package": FittedComponent(curve, None, watts)}, metadata)
        assert ("weight.json" in files) == has_weights
        why = json.loads(files["metadata.json"]).get("no_weights", "")
        assert has_weights == ("W over bpf_net_tx_irq, whose scale" not in why)
