"""Tests of the ridge trainer. Install the distribution first: Kepler Core finds trainers by entry points."""

import numpy as np
import pytest

from kepler_core.contracts import FitTask
from kepler_core.errors import PluginError
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import scaled
from kepler_core.plugins import registry

FEATURES = ("cpu_cycles", "cpu_instructions")
SCALE = np.array([3e9, 6e9])


def task(output_type="AbsPower"):
    return FitTask("package", FEATURES, "cpu_instructions", output_type, seed=0)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (200, 2)) * SCALE
    return X, 40 + 30 * X[:, 0] / SCALE[0] + 60 * X[:, 1] / SCALE[1]


def test_it_is_found_by_name_and_alias():
    assert registry.trainers.canonical("ridge") == "RidgeRegressorTrainer"
    assert registry.trainers.entry("ridge").distribution == "kepler-trainer-ridge"


def test_small_alpha_is_least_squares_and_large_alpha_shrinks(rows):
    X, watts = rows
    small, large = (
        registry.trainers.create("ridge", {"alpha": alpha}).regressor(task()).fit(X / SCALE, watts)
        for alpha in (1e-9, 1e9)
    )
    np.testing.assert_allclose(small.coef_, [30, 60], rtol=1e-6)
    np.testing.assert_allclose(small.intercept_, 40, rtol=1e-6)
    np.testing.assert_allclose(large.coef_, 0, atol=1e-3)


def test_dynamic_power_has_no_intercept(rows):
    X, watts = rows
    fitted = registry.trainers.create("ridge").regressor(task("DynPower")).fit(X / SCALE, watts)
    assert fitted.predict(np.zeros((1, 2))) == [0.0]


@pytest.mark.parametrize(("arguments", "message"), [({"alpha": -1.0}, "at least 0"), ({"alhpa": 1.0}, "alpha")])
def test_wrong_arguments(arguments, message):
    with pytest.raises(PluginError, match=message):
        registry.trainers.create("ridge", arguments)


def test_a_stored_model_predicts_what_the_regressor_does(rows):
    X, watts = rows
    single = scaled(X, SCALE).astype(np.float64)
    fitted = registry.trainers.create("ridge", {"alpha": 0.5}).regressor(task()).fit(single, watts)
    files = export(FEATURES, SCALE, X, {"package": FittedComponent(fitted, None, watts)}, {"model_name": "ridge_0"})
    np.testing.assert_allclose(load_model(files).predict(X)["package"], fitted.predict(single), atol=1e-3)
