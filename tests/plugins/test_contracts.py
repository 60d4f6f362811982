"""Tests of the built-in trainers: the contract of `Trainer`, linear weights, curves, and stored models."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
import sklearn.base
from scipy.optimize import lsq_linear, nnls
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from kepler_core.contracts import FitTask
from kepler_core.honesty.document import Seen
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import scaled
from kepler_core.pipeline.fit import FitJob, all_baselines, fit
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.pipeline.validation import folds
from kepler_core.plugins import registry
from kepler_core.vocabulary import main_feature

FEATURES = ("cache_miss", "cpu_cycles", "cpu_instructions")
SCALE = np.array([2e8, 5e10, 8e10])

TRAINERS = registry.trainers.names()
CURVES = ("LogarithmicRegressionTrainer", "ExponentialRegressionTrainer", "LogisticRegressionTrainer")
LINEAR = ("LinearRegressionTrainer", "SGDRegressorTrainer")
OUTPUT_TYPES = ("AbsPower", "DynPower")

every_trainer = pytest.mark.parametrize("name", TRAINERS)
every_curve = pytest.mark.parametrize("name", CURVES)
both_types = pytest.mark.parametrize("output_type", OUTPUT_TYPES)


def task(features=FEATURES, component="package", output_type="AbsPower", seed=0):
    return FitTask(component, tuple(features), main_feature(features, component), output_type, seed)


def loads(n=150, seed=0):
    """Return features of a machine under changing load, shape (n, 3). Each feature is scaled to a maximum of 1."""
    rng = np.random.default_rng(seed)
    busy = rng.uniform(0, 1, n)
    X = np.column_stack([busy**2 * rng.uniform(0.3, 1, n), busy, busy * rng.uniform(0.8, 1, n)])
    X[0] = 0  # an idle machine
    return X / X.max(axis=0)


def power(X, seed=0, idle=40.0):
    rng = np.random.default_rng(seed)
    return np.maximum(idle + 110 * X[:, -1] ** 0.8 + 15 * X[:, 0] + rng.normal(0, 1.5, len(X)), 0.0)


def regressor(name, of_task=None, **arguments):
    return registry.trainers.create(name, arguments).regressor(of_task or task())


# --- the contract of trainers ---------------------------------------------------------------------


@both_types
@every_trainer
def test_returns_an_unfitted_clonable_regressor_that_fits(name, output_type):
    unfitted = regressor(name, task(output_type=output_type))
    with pytest.raises(NotFittedError):
        check_is_fitted(unfitted)
    clone = sklearn.base.clone(unfitted)
    X, y = loads(), power(loads())
    fitted = unfitted.fit(X, y)
    assert fitted is unfitted  # by scikit-learn's convention, `fit` returns the regressor itself
    check_is_fitted(fitted)
    predicted = fitted.predict(X)
    assert predicted.shape == (len(X),)
    assert np.isfinite(predicted).all()
    np.testing.assert_array_equal(clone.fit(X, y).predict(X), predicted)
    # The error is less than half of the error of a constant prediction (the mean). DynPower is not tested: its lines
    # through 0 W cannot predict `y`, which contains idle power.
    if output_type == "AbsPower":
        assert np.mean(np.abs(predicted - y)) < 0.5 * np.mean(np.abs(y - y.mean()))


@every_trainer
def test_each_call_returns_a_new_regressor(name):
    trainer = registry.trainers.create(name)
    first, second = trainer.regressor(task()), trainer.regressor(task())
    assert first is not second
    first.fit(loads(), power(loads()))
    with pytest.raises(NotFittedError):
        check_is_fitted(second)


@every_trainer
def test_the_same_seed_gives_the_same_predictions(name):
    X, y = loads(), power(loads())
    first, second = (regressor(name, task(seed=7)).fit(X, y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["GradientBoostingRegressorTrainer", "XgboostFitTrainer"])
def test_random_trainers_use_the_seed(name):
    X, y = loads(), power(loads())
    first, again, other = (
        regressor(name, task(seed=seed), subsample=0.5).fit(X, y).predict(X) for seed in (1, 1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 0.01


@every_trainer
def test_fitting_works_with_read_only_data_in_any_memory_layout(name):
    X, y = loads(), power(loads())
    frozen_X, frozen_y = np.asfortranarray(X), y.copy()
    frozen_X.setflags(write=False)
    frozen_y.setflags(write=False)
    np.testing.assert_allclose(
        regressor(name).fit(frozen_X, frozen_y).predict(X), regressor(name).fit(X, y).predict(X), rtol=1e-6
    )


@both_types
@every_trainer
@pytest.mark.parametrize("watts", [0.0, 50.0])
def test_survives_a_constant_target(name, output_type, watts):
    # in the training rows of a fold, the power of a component can be constant
    X = loads()
    predicted = regressor(name, task(output_type=output_type)).fit(X, np.full(len(X), watts)).predict(X)
    assert np.isfinite(predicted).all()
    if name in (*LINEAR, "BlendTrainer") and output_type == "DynPower":
        return  # a line through 0 W cannot predict constant power
    np.testing.assert_allclose(predicted, watts, atol=0.1)


@both_types
@every_trainer
def test_survives_one_feature_column(name, output_type):
    X = loads()[:, 2:]
    fitted = regressor(name, task(("cpu_instructions",), output_type=output_type)).fit(X, power(X, idle=0.0))
    predicted = fitted.predict(X)
    assert predicted.shape == (len(X),)
    assert np.isfinite(predicted).all()
    assert np.corrcoef(predicted, X[:, 0])[0, 1] > 0.9


@every_trainer
def test_survives_power_that_does_not_depend_on_the_load(name):
    X = loads()
    y = np.abs(np.random.default_rng(3).normal(50, 25, len(X)))
    predicted = regressor(name).fit(X, y).predict(X)
    assert np.isfinite(predicted).all()
    # predictions for the training rows are not far outside the range of the measured power
    assert predicted.min() > -y.max()
    assert predicted.max() < 2 * y.max()


@every_trainer
def test_survives_features_that_never_change(name):
    X = loads()
    X[:, 2] = 0.0  # the feature that represents the load is always 0, as on an idle machine
    X[:, 0] = 1.0
    predicted = regressor(name).fit(X, power(loads())).predict(X)
    assert np.isfinite(predicted).all()


@every_trainer
def test_survives_a_handful_of_rows(name):
    X = loads()[:10]
    assert np.isfinite(regressor(name).fit(X, power(X)).predict(loads())).all()


# --- weights of linear trainers -------------------------------------------------------------------


def problems():
    """Yield least-squares problems (name, X, y) that are hard to solve if weights must not be negative.

    Without bounds, the optimum would have negative weights or a negative bias, or would not be unique.
    """
    rng = np.random.default_rng(11)
    X = loads(120, seed=5)
    yield "as measured", X, power(X)
    yield "negative weight", X, np.maximum(60 + 90 * X[:, 1] - 40 * X[:, 0], 0)
    yield "negative bias", X, np.maximum(120 * X[:, 2] - 25, 0)
    yield "power falls", X, 100 - 60 * X[:, 1]
    yield "noise", X, np.abs(rng.normal(50, 20, len(X)))
    yield "twice the same column", np.column_stack([X[:, 1], X[:, 1], X[:, 2]]), power(X)
    yield "fewer rows than columns", X[1:3], power(X)[1:3]


@both_types
@pytest.mark.parametrize(("what", "X", "y"), [pytest.param(*p, id=p[0]) for p in problems()])
def test_sgd_weights_are_the_non_negative_optimum(what, X, y, output_type):
    fitted = regressor("SGDRegressorTrainer", task(output_type=output_type)).fit(X, y)
    assert (fitted.coef_ >= 0).all()
    assert fitted.intercept_ >= 0
    A = np.column_stack([X, np.ones(len(X))]) if output_type == "AbsPower" else X
    reached = np.linalg.norm(fitted.predict(X) - y)
    weights, least = nnls(A, y)
    bounded = lsq_linear(A, y, bounds=(0, np.inf), method="bvls", tol=1e-14)
    assert reached == pytest.approx(least, rel=1e-7, abs=1e-7)
    assert reached == pytest.approx(np.sqrt(2 * bounded.cost), rel=1e-6, abs=1e-6)
    if np.linalg.matrix_rank(A) == A.shape[1]:  # the optimum is unique
        fitted_weights = np.append(fitted.coef_, fitted.intercept_)[: A.shape[1]]
        np.testing.assert_allclose(fitted_weights, weights, rtol=1e-6, atol=1e-6)


def test_sgd_is_better_than_clipped_least_squares():
    # Least squares without bounds gives negative weights here. If they are replaced by 0, the error is larger than the
    # error of the best weights that are not negative.
    X = loads()
    y = np.maximum(60 + 90 * X[:, 1] - 40 * X[:, 0], 0)
    A = np.column_stack([X, np.ones(len(X))])
    clipped = np.maximum(np.linalg.lstsq(A, y, rcond=None)[0], 0)
    fitted = regressor("SGDRegressorTrainer").fit(X, y)
    assert np.linalg.norm(fitted.predict(X) - y) < 0.9 * np.linalg.norm(A @ clipped - y)


@both_types
@pytest.mark.parametrize(("what", "X", "y"), [pytest.param(*p, id=p[0]) for p in problems()])
def test_linear_coefficients_are_not_negative(what, X, y, output_type):
    fitted = regressor("LinearRegressionTrainer", task(output_type=output_type)).fit(X, y)
    assert (np.asarray(fitted.coef_) >= 0).all()


@pytest.mark.parametrize("name", LINEAR)
def test_dynamic_power_without_usage_is_zero(name):
    X = loads()
    fitted = regressor(name, task(output_type="DynPower")).fit(X, power(X))  # y includes idle power
    assert fitted.intercept_ == 0
    np.testing.assert_array_equal(fitted.predict(np.zeros((2, 3))), 0.0)
    absolute = regressor(name, task(output_type="AbsPower")).fit(X, power(X))
    assert absolute.intercept_ == pytest.approx(40, abs=15)


# --- curves ---------------------------------------------------------------------------------------


def logarithmic(x, a, b, c):
    return a * math.log(b * x + 1) + c


def exponential(x, a, b, c):
    return a * math.exp(b * x) + c


def logistic(x, height, x0, k, offset):
    return height / (1 + math.exp(-k * (x - x0))) + offset


FORMULAS = {
    "LogarithmicRegressionTrainer": logarithmic,
    "ExponentialRegressionTrainer": exponential,
    "LogisticRegressionTrainer": logistic,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LogarithmicRegressionTrainer", (60.0, 4.0, 35.0)),
        ("LogarithmicRegressionTrainer", (20.0, 250.0, 12.0)),
        ("LogarithmicRegressionTrainer", (900.0, 0.15, 30.0)),
        ("ExponentialRegressionTrainer", (5.0, 3.2, 30.0)),
        ("ExponentialRegressionTrainer", (60.0, 0.7, 10.0)),
        ("ExponentialRegressionTrainer", (0.05, 7.3, 40.0)),
        ("LogisticRegressionTrainer", (140.0, 0.4, 9.0, 30.0)),
        ("LogisticRegressionTrainer", (140.0, 0.65, 35.0, 30.0)),
        ("LogisticRegressionTrainer", (200.0, 0.05, 3.0, 20.0)),
    ],
)
@pytest.mark.parametrize("rows", [40, 400])
def test_a_noiseless_curve_of_the_same_formula_is_recovered(name, parameters, rows):
    X = loads(rows, seed=2)
    y = np.array([FORMULAS[name](x, *parameters) for x in X[:, 2]])
    fitted = regressor(name).fit(X, y)
    grid = np.linspace(0, 1, 201)
    expected = np.array([FORMULAS[name](x, *parameters) for x in grid])
    predicted = fitted.predict(np.column_stack([np.zeros(201), np.zeros(201), grid]))
    assert np.max(np.abs(predicted - expected)) <= 0.01 * np.ptp(expected)


TARGETS = {
    "rising": lambda X: power(X),
    "falling": lambda X: 150 - 100 * X[:, 2],
    "falls at the end": lambda X: 40 + 400 * X[:, 2] * (1 - X[:, 2]),
    "noise": lambda X: np.abs(np.random.default_rng(4).normal(50, 25, len(X))),
    "constant": lambda X: np.full(len(X), 33.0),
    "zero": lambda X: np.zeros(len(X)),
    "a step": lambda X: np.where(X[:, 2] > 0.5, 120.0, 30.0),
    "an outlier": lambda X: np.where(np.arange(len(X)) == 3, 5000.0, 40 + 60 * X[:, 2]),
    "tiny": lambda X: 1e-6 * power(X),
}


@every_curve
@pytest.mark.parametrize("target", TARGETS)
def test_power_never_falls_as_load_rises(name, target):
    X = loads()
    y = TARGETS[target](X)
    fitted = regressor(name).fit(X, y)
    # The first half of the loads is within the range of the training rows, the second half is above this range.
    grid = np.concatenate([np.linspace(0, 1, 300), np.linspace(1, 30, 300)])
    predicted = fitted.predict(np.column_stack([np.zeros(600), np.zeros(600), grid]))
    assert np.isfinite(predicted).all()
    assert (np.diff(predicted) >= -1e-9 * max(np.abs(predicted[:300]).max(), 1e-9)).all()
    inside = predicted[:300]
    assert inside.max() <= 2 * y.max() + 1e-9
    if target in ("falling", "constant", "zero"):  # among curves that never fall, a constant curve has the lowest error
        np.testing.assert_allclose(inside, y.mean(), rtol=0.02, atol=1e-6)


@every_curve
def test_a_curve_follows_the_main_feature_of_its_component(name):
    X = loads()
    for component, column in (("package", 2), ("dram", 0)):
        fitted = regressor(name, task(component=component)).fit(X, 20 + 50 * X[:, column])
        low, high = np.zeros((1, 3)), np.zeros((1, 3))
        high[0, column] = 1
        assert fitted.predict(high) - fitted.predict(low) > 25
        others = np.ones((1, 3))
        others[0, column] = 0
        np.testing.assert_array_equal(fitted.predict(others), fitted.predict(low))


# --- stored models --------------------------------------------------------------------------------


@functools.cache
def exported(name, output_type):
    """Train a model of three components. Return its files, the features X, and watts and predictions by component."""
    X = loads(seed=9) * SCALE
    scaled_X = scaled(X, SCALE).astype(np.float64)
    idle = 40.0 if output_type == "AbsPower" else 0.0
    watts = {
        "package": power(scaled_X, idle=idle),
        "core": np.full(len(X), 7.5),
        "dram": idle / 4 + 25 * scaled_X[:, 0] + np.random.default_rng(1).uniform(0, 0.5, len(X)),
    }
    fitted, predictions = {}, {}
    for component, y in watts.items():
        if component == "core":
            fitted[component] = FittedComponent(None, 7.5, y)
            continue
        fitted_regressor = regressor(name, task(component=component, output_type=output_type)).fit(scaled_X, y)
        fitted[component] = FittedComponent(fitted_regressor, None, y)
        predictions[component] = np.maximum(fitted_regressor.predict(scaled_X), 0.0)
    metadata = {"model_name": f"{name}_0", "trainer": name, "output_type": output_type, "machine_spec": {"cores": 8}}
    files = export(FEATURES, SCALE, X, fitted, metadata, model_format=registry.trainers.get(name).model_format)
    return files, X, watts, predictions


@both_types
@every_trainer
def test_a_stored_model_agrees_with_the_fitted_one(name, output_type):
    files, X, watts, predictions = exported(name, output_type)
    predicted = load_model(files).predict(X)
    assert set(predicted) == {"package", "core", "dram"}
    np.testing.assert_array_equal(predicted["core"], 7.5)
    for component, expected in predictions.items():
        assert np.max(np.abs(predicted[component] - expected)) <= 0.001 * np.ptp(watts[component])


@both_types
@every_trainer
def test_the_order_of_columns_does_not_matter(name, output_type):
    files, X, _, _ = exported(name, output_type)
    model = load_model(files)
    expected = model.predict(X)
    rng = np.random.default_rng(6)
    names = [*FEATURES, "bpf_net_tx_irq", "unheard_of"]
    wide = np.column_stack([X, rng.uniform(0, 1e9, (len(X), 2))])
    for _ in range(4):
        order = rng.permutation(len(names))
        predicted = model.predict(wide[:, order], [names[column] for column in order])
        for component, watts in expected.items():
            # allow a tolerance, because the numbers may be added up in another order
            np.testing.assert_allclose(predicted[component], watts, rtol=1e-9)


@both_types
@every_trainer
def test_one_row_is_predicted_as_among_others(name, output_type):
    files, X, watts, _ = exported(name, output_type)
    model = load_model(files)
    together = model.predict(X[:20])
    for component in together:
        alone = np.concatenate([model.predict(row[None])[component] for row in X[:20]])
        assert np.max(np.abs(alone - together[component])) <= 1e-4 * max(np.ptp(watts[component]), 1.0)


@both_types
@every_trainer
def test_predictions_are_finite_and_not_negative(name, output_type):
    files, X, watts, _ = exported(name, output_type)
    model = load_model(files)
    rows = [np.zeros(3), np.full(3, 1e-300)]
    rows += [X.max(axis=0) * factor for factor in (10, 1e3, 1e6, 1e12, 1e24, 1e200)]
    rows += [np.where(np.arange(3) == column, 1e30, 0.0) for column in range(3)]
    for row in rows:  # predict each row alone
        for component, predicted in model.predict(row[None]).items():
            assert np.isfinite(predicted).all()
            assert (predicted >= 0).all()
            assert (predicted <= 10 * max(watts[component].max(), 1.0)).all()


@every_trainer
@pytest.mark.parametrize("level", [20.0, 120.0])
def test_a_nearly_constant_component_does_not_fail_the_fit(name, level):
    # The power of the component uncore varies by ± 1 mW, as if energy was rounded to whole millijoules. Power that
    # varies by less (CONSTANT_WATTS) counts as constant.
    n = 100
    X = loads(n) * SCALE
    uncore = level + 1e-3 * np.random.default_rng(8).integers(-1, 2, n)
    watts = {"package": power(X / SCALE), "uncore": uncore}
    at = np.arange(n)
    rows = TrainingRows(
        source="rapl-sysfs",
        output_type="AbsPower",
        feature_group="CounterOnly",
        features=FEATURES,
        components=tuple(watts),
        scale=SCALE,
        fit_X=X,
        fit_watts=watts,
        fit_sample=at,
        test_X=X,
        test_sample=at,
        tested=np.ones(n, dtype=bool),
        node_watts=watts,
        node_load=dict.fromkeys(watts, X[:, 2]),
        load=X[:, 2],
        node_X=X,
        stream=np.zeros(n, dtype=np.int64),
        recording=np.zeros(n, dtype=np.int64),
        node=np.zeros(n, dtype=np.int64),
        time=at * 1.0,
    )
    data_folds = folds(ValidationSpec(folds=2), rows.stream, rows.time)
    result = fit(
        FitJob(
            rows=rows,
            folds=data_folds,
            splits={"blocks": data_folds},
            seen=Seen(recordings=1, days=1, nodes=1, samples=n, features={}),
            baselines=all_baselines(rows, data_folds),
            trainer=name,
            args={},
            seed=0,
            node_type=0,
            machine_spec={},
            validation={},
            lineage={},
        )
    )
    assert result.reason is None
    np.testing.assert_allclose(load_model(result.files).predict(X)["uncore"], level, atol=0.01)


# --- weight.json, evaluated with Kepler's formulas ------------------------------------------------


def evaluated(name, weights, row):
    """Return the watts that Kepler's formula gives for one component's weights and a row of features.

    Unlike Kepler Core, this function does not set negative results to 0.
    """
    all_weights = weights["All_Weights"]
    assert not all_weights.get("Categorical_Variables")
    values = dict(zip(FEATURES, row, strict=True))
    if name not in FORMULAS:
        terms = (
            v["weight"] * values[feature] / v["scale"] for feature, v in all_weights["Numerical_Variables"].items()
        )
        return all_weights["Bias_Weight"] + sum(terms)
    (feature,) = all_weights["Numerical_Variables"]
    return FORMULAS[name](values[feature], *all_weights["CurveFit_Weights"])


@both_types
@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_weight_json_by_keplers_formulas(name, output_type):
    files, X, watts, _ = exported(name, output_type)
    document = json.loads(files["weight.json"])
    assert document["model_name"].rpartition("_")[0] == name
    assert document["machine_spec"] == {"cores": 8}
    assert set(document) == {"model_name", "machine_spec", "limits", "package", "core", "dram"}
    assert document["limits"]["features"].keys() == set(FEATURES)
    assert document["limits"]["power"].keys() == {"package", "core", "dram"}
    predicted = load_model(files).predict(X)
    for component in watts:
        assert ("CurveFit_Weights" in document[component]["All_Weights"]) == (name in CURVES)
        watts_by_kepler = np.array([evaluated(name, document[component], row) for row in X])
        np.testing.assert_allclose(
            np.maximum(watts_by_kepler, 0), predicted[component], atol=1e-3 * max(np.ptp(watts[component]), 1e-3)
        )


@both_types
def test_sgd_weights_are_not_negative_on_the_wire(output_type):
    files, *_ = exported("SGDRegressorTrainer", output_type)
    document = json.loads(files["weight.json"])
    for component in ("package", "core", "dram"):
        all_weights = document[component]["All_Weights"]
        assert all_weights["Bias_Weight"] >= 0
        for numerical in all_weights["Numerical_Variables"].values():
            assert numerical["weight"] >= 0
            assert numerical["scale"] > 0


def one_component(name, y_of, output_type="AbsPower"):
    X = loads() * SCALE
    X = X[X[:, 2] > 0.4 * SCALE[2]]  # the table has no idle rows, so the model must extrapolate to idle power
    scaled_X = scaled(X, SCALE).astype(np.float64)
    y = y_of(scaled_X)
    fitted = regressor(name, task(output_type=output_type)).fit(scaled_X, y)
    return export(FEATURES, SCALE, X, {"package": FittedComponent(fitted, None, y)}, {"model_name": f"{name}_0"})


@both_types
@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_weights_are_not_negative_at_idle(name, output_type):
    # Kepler converts negative power to 1.8e19 mW, so a model with negative power at idle gets no weight.json
    files = one_component(name, lambda X: np.maximum(220 * X[:, 2] - 85, 0.5), output_type)
    if name == "SGDRegressorTrainer":
        assert "weight.json" in files
    if "weight.json" in files:
        weights = json.loads(files["weight.json"])["package"]
        assert evaluated(name, weights, (0.0, 0.0, 0.0)) >= 0


@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_weights_of_a_constant_model_have_the_formula_of_its_trainer(name):
    # Kepler chooses the formula by the trainer's name and panics if the weights belong to another formula
    y = np.full(50, 12.5)
    files = export(
        FEATURES,
        SCALE,
        loads(50) * SCALE,
        {"package": FittedComponent(None, 12.5, y)},
        {"model_name": f"{name}_0", "trainer": name},
    )
    np.testing.assert_array_equal(load_model(files).predict(np.zeros((2, 3)))["package"], 12.5)
    if "weight.json" in files:
        weights = json.loads(files["weight.json"])["package"]
        assert ("CurveFit_Weights" in weights["All_Weights"]) == (name in CURVES)
        assert evaluated(name, weights, (1e6, 1e9, 1e9)) == pytest.approx(12.5)
