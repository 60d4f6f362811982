"""Every built-in trainer against the contract of `Trainer`, and its models written and read back."""

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
    """Features as a machine under changing load has them, each divided by its largest value."""
    rng = np.random.default_rng(seed)
    busy = rng.uniform(0, 1, n)
    X = np.column_stack([busy**2 * rng.uniform(0.3, 1, n), busy, busy * rng.uniform(0.8, 1, n)])
    X[0] = 0  # an idle moment
    return X / X.max(axis=0)


def power(X, seed=0, idle=40.0):
    rng = np.random.default_rng(seed)
    return np.maximum(idle + 110 * X[:, -1] ** 0.8 + 15 * X[:, 0] + rng.normal(0, 1.5, len(X)), 0.0)


def regressor(name, asked=None, **arguments):
    return registry.trainers.create(name, arguments).regressor(asked or task())


# --- what the framework relies on -----------------------------------------------------------------


@both_types
@every_trainer
def test_returns_an_unfitted_clonable_regressor_that_fits(name, output_type):
    made = regressor(name, task(output_type=output_type))
    with pytest.raises(NotFittedError):
        check_is_fitted(made)
    clone = sklearn.base.clone(made)
    X, y = loads(), power(loads())
    fitted = made.fit(X, y)
    assert fitted is made  # scikit-learn's convention: cross-validation and export see one object
    check_is_fitted(made)
    predicted = made.predict(X)
    assert predicted.shape == (len(X),)
    assert np.isfinite(predicted).all()
    np.testing.assert_array_equal(clone.fit(X, y).predict(X), predicted)
    # better than the mean, or nothing was learnt; a DynPower line through 0 W cannot reach idle power
    if output_type == "AbsPower":
        assert np.mean(np.abs(predicted - y)) < 0.5 * np.mean(np.abs(y - y.mean()))


@every_trainer
def test_each_call_makes_a_new_regressor(name):
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
def test_the_seed_is_used_where_there_is_chance(name):
    X, y = loads(), power(loads())
    first, again, other = (
        regressor(name, task(seed=seed), subsample=0.5).fit(X, y).predict(X) for seed in (1, 1, 2)
    )  # fmt: skip
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 0.01


@every_trainer
def test_fitting_changes_neither_its_data_nor_depends_on_the_memory_layout(name):
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
    # a fold of a component that is not constant over all can be
    X = loads()
    predicted = regressor(name, task(output_type=output_type)).fit(X, np.full(len(X), watts)).predict(X)
    assert np.isfinite(predicted).all()
    if name in LINEAR and output_type == "DynPower":
        return  # no intercept: a line through 0 W is no constant
    np.testing.assert_allclose(predicted, watts, atol=0.1)


@both_types
@every_trainer
def test_survives_one_feature_column(name, output_type):
    X = loads()[:, 2:]
    made = regressor(name, task(("cpu_instructions",), output_type=output_type)).fit(X, power(X, idle=0.0))
    predicted = made.predict(X)
    assert predicted.shape == (len(X),)
    assert np.isfinite(predicted).all()
    assert np.corrcoef(predicted, X[:, 0])[0, 1] > 0.9


@every_trainer
def test_survives_noise_that_has_nothing_to_do_with_the_load(name):
    X = loads()
    y = np.abs(np.random.default_rng(3).normal(50, 25, len(X)))
    predicted = regressor(name).fit(X, y).predict(X)
    assert np.isfinite(predicted).all()
    # nothing beyond what was measured, on the rows that were measured
    assert predicted.min() > -y.max()
    assert predicted.max() < 2 * y.max()


@every_trainer
def test_survives_features_that_never_change(name):
    X = loads()
    X[:, 2] = 0.0  # the main feature: an idle machine's
    X[:, 0] = 1.0
    predicted = regressor(name).fit(X, power(loads())).predict(X)
    assert np.isfinite(predicted).all()


@every_trainer
def test_survives_a_handful_of_rows(name):
    X = loads()[:10]
    assert np.isfinite(regressor(name).fit(X, power(X)).predict(loads())).all()


# --- linear weights -------------------------------------------------------------------------------


def problems():
    """Problems whose unbounded optimum has negative weights, a negative bias, or is not unique."""
    rng = np.random.default_rng(11)
    X = loads(120, seed=5)
    yield "as measured", X, power(X)
    yield "negative weight wanted", X, np.maximum(60 + 90 * X[:, 1] - 40 * X[:, 0], 0)
    yield "negative bias wanted", X, np.maximum(120 * X[:, 2] - 25, 0)
    yield "power falls", X, 100 - 60 * X[:, 1]
    yield "noise", X, np.abs(rng.normal(50, 20, len(X)))
    yield "twice the same column", np.column_stack([X[:, 1], X[:, 1], X[:, 2]]), power(X)
    yield "fewer rows than columns", X[1:3], power(X)[1:3]


@both_types
@pytest.mark.parametrize(("what", "X", "y"), [pytest.param(*p, id=p[0]) for p in problems()])
def test_sgd_weights_are_the_non_negative_optimum(what, X, y, output_type):
    made = regressor("SGDRegressorTrainer", task(output_type=output_type)).fit(X, y)
    assert (made.coef_ >= 0).all()
    assert made.intercept_ >= 0
    A = np.column_stack([X, np.ones(len(X))]) if output_type == "AbsPower" else X
    reached = np.linalg.norm(made.predict(X) - y)
    weights, least = nnls(A, y)
    bounded = lsq_linear(A, y, bounds=(0, np.inf), method="bvls", tol=1e-14)
    assert reached == pytest.approx(least, rel=1e-7, abs=1e-7)
    assert reached == pytest.approx(np.sqrt(2 * bounded.cost), rel=1e-6, abs=1e-6)
    if np.linalg.matrix_rank(A) == A.shape[1]:  # the optimum is one point
        found = np.append(made.coef_, made.intercept_)[: A.shape[1]]
        np.testing.assert_allclose(found, weights, rtol=1e-6, atol=1e-6)


def test_sgd_bounds_matter():
    # clipping least squares afterwards would give another, worse line
    X = loads()
    y = np.maximum(60 + 90 * X[:, 1] - 40 * X[:, 0], 0)
    A = np.column_stack([X, np.ones(len(X))])
    clipped = np.maximum(np.linalg.lstsq(A, y, rcond=None)[0], 0)
    made = regressor("SGDRegressorTrainer").fit(X, y)
    assert np.linalg.norm(made.predict(X) - y) < 0.9 * np.linalg.norm(A @ clipped - y)


@both_types
@pytest.mark.parametrize(("what", "X", "y"), [pytest.param(*p, id=p[0]) for p in problems()])
def test_linear_coefficients_are_not_negative(what, X, y, output_type):
    made = regressor("LinearRegressionTrainer", task(output_type=output_type)).fit(X, y)
    assert (np.asarray(made.coef_) >= 0).all()


@pytest.mark.parametrize("name", LINEAR)
def test_dynamic_power_of_nothing_is_nothing(name):
    X = loads()
    made = regressor(name, task(output_type="DynPower")).fit(X, power(X))  # idle power left in, to tempt it
    assert made.intercept_ == 0
    np.testing.assert_array_equal(made.predict(np.zeros((2, 3))), 0.0)
    kept = regressor(name, task(output_type="AbsPower")).fit(X, power(X))
    assert kept.intercept_ == pytest.approx(40, abs=15)


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
def test_a_noiseless_curve_of_its_own_kind_is_recovered(name, parameters, rows):
    X = loads(rows, seed=2)
    y = np.array([FORMULAS[name](x, *parameters) for x in X[:, 2]])
    made = regressor(name).fit(X, y)
    grid = np.linspace(0, 1, 201)
    wanted = np.array([FORMULAS[name](x, *parameters) for x in grid])
    found = made.predict(np.column_stack([np.zeros(201), np.zeros(201), grid]))
    assert np.max(np.abs(found - wanted)) <= 0.01 * np.ptp(wanted)


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
    made = regressor(name).fit(X, y)
    grid = np.concatenate([np.linspace(0, 1, 300), np.linspace(1, 30, 300)])  # beyond what was seen, too
    found = made.predict(np.column_stack([np.zeros(600), np.zeros(600), grid]))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= -1e-9 * max(np.abs(found[:300]).max(), 1e-9)).all()
    inside = found[:300]
    assert inside.max() <= 2 * y.max() + 1e-9
    if target in ("falling", "constant", "zero"):  # the best curve that does not fall is the mean
        np.testing.assert_allclose(inside, y.mean(), rtol=0.02, atol=1e-6)


@every_curve
def test_a_curve_follows_the_main_feature_of_its_component(name):
    X = loads()
    for component, column in (("package", 2), ("dram", 0)):
        made = regressor(name, task(component=component)).fit(X, 20 + 50 * X[:, column])
        low, high = np.zeros((1, 3)), np.zeros((1, 3))
        high[0, column] = 1
        assert made.predict(high) - made.predict(low) > 25
        others = np.ones((1, 3))
        others[0, column] = 0
        np.testing.assert_array_equal(made.predict(others), made.predict(low))


# --- written and read back ------------------------------------------------------------------------


@functools.cache
def exported(name, output_type):
    """The files of a model of three components, and what its regressors say on its training rows."""
    X = loads(seed=9) * SCALE
    X32 = scaled(X, SCALE).astype(np.float64)
    idle = 40.0 if output_type == "AbsPower" else 0.0
    watts = {
        "package": power(X32, idle=idle),
        "core": np.full(len(X), 7.5),
        "dram": idle / 4 + 25 * X32[:, 0] + np.random.default_rng(1).uniform(0, 0.5, len(X)),
    }
    fitted, said = {}, {}
    for component, y in watts.items():
        if component == "core":
            fitted[component] = FittedComponent(None, 7.5, y)
            continue
        asked = task(component=component, output_type=output_type)
        made = regressor(name, asked).fit(X32, y)
        fitted[component] = FittedComponent(made, None, y)
        said[component] = np.maximum(made.predict(X32), 0.0)
    metadata = {"model_name": f"{name}_0", "trainer": name, "output_type": output_type, "machine_spec": {"cores": 8}}
    files = export(FEATURES, SCALE, X, fitted, metadata, model_format=registry.trainers.get(name).model_format)
    return files, X, watts, said


@both_types
@every_trainer
def test_a_stored_model_agrees_with_what_was_fitted(name, output_type):
    files, X, watts, said = exported(name, output_type)
    model = load_model(files)
    found = model.predict(X)
    assert set(found) == {"package", "core", "dram"}
    np.testing.assert_array_equal(found["core"], 7.5)
    for component, expected in said.items():
        assert np.max(np.abs(found[component] - expected)) <= 0.001 * np.ptp(watts[component])


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
        found = model.predict(wide[:, order], [names[at] for at in order])
        for component, watts in expected.items():
            np.testing.assert_allclose(found[component], watts, rtol=1e-9)  # sums in another order, no more


@both_types
@every_trainer
def test_a_row_is_estimated_the_same_alone(name, output_type):
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
    for row in rows:  # one at a time: one that fails does not hide behind another
        for component, found in model.predict(row[None]).items():
            assert np.isfinite(found).all()
            assert (found >= 0).all()
            assert (found <= 10 * max(watts[component].max(), 1.0)).all()


@every_trainer
@pytest.mark.parametrize("level", [20.0, 120.0])
def test_a_component_that_hardly_varies_does_not_cost_the_model(name, level):
    # constant, but for counters of whole millijoules that are read each second: just above CONSTANT_WATTS
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
        fit_instant=at,
        test_X=X,
        test_instant=at,
        tested=np.ones(n, dtype=bool),
        node_watts=watts,
        node_load=dict.fromkeys(watts, X[:, 2]),
        stream=np.zeros(n, dtype=np.int64),
        time=at * 1.0,
    )
    made = folds(ValidationSpec(folds=2), rows.stream, rows.time)
    result = fit(
        FitJob(
            rows=rows,
            folds=made,
            baselines=all_baselines(rows, made),
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


# --- weight.json, evaluated by Kepler's own formulas ----------------------------------------------


def evaluated(name, weights, row):
    """What Kepler makes of one component's weights for a row (WIRE contract §2), without clamping."""
    found = weights["All_Weights"]
    assert not found.get("Categorical_Variables")
    at = dict(zip(FEATURES, row, strict=True))
    if name not in FORMULAS:
        terms = (v["weight"] * at[feature] / v["scale"] for feature, v in found["Numerical_Variables"].items())
        return found["Bias_Weight"] + sum(terms)
    (feature,) = found["Numerical_Variables"]
    return FORMULAS[name](at[feature], *found["CurveFit_Weights"])


@both_types
@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_weight_json_by_keplers_formulas(name, output_type):
    files, X, watts, _ = exported(name, output_type)
    document = json.loads(files["weight.json"])
    assert document["model_name"].rpartition("_")[0] == name
    assert document["machine_spec"] == {"cores": 8}
    assert set(document) == {"model_name", "machine_spec", "package", "core", "dram"}
    predicted = load_model(files).predict(X)
    for component in watts:
        assert ("CurveFit_Weights" in document[component]["All_Weights"]) == (name in CURVES)
        found = np.array([evaluated(name, document[component], row) for row in X])
        np.testing.assert_allclose(
            np.maximum(found, 0), predicted[component], atol=1e-3 * max(np.ptp(watts[component]), 1e-3)
        )


@both_types
def test_sgd_weights_are_not_negative_on_the_wire(output_type):
    files, *_ = exported("SGDRegressorTrainer", output_type)
    document = json.loads(files["weight.json"])
    for component in ("package", "core", "dram"):
        found = document[component]["All_Weights"]
        assert found["Bias_Weight"] >= 0
        for numerical in found["Numerical_Variables"].values():
            assert numerical["weight"] >= 0
            assert numerical["scale"] > 0


def one_component(name, y_of, output_type="AbsPower"):
    X = loads() * SCALE
    X = X[X[:, 2] > 0.4 * SCALE[2]]  # never idle: what it says of idle is an extrapolation
    X32 = scaled(X, SCALE).astype(np.float64)
    y = y_of(X32)
    made = regressor(name, task(output_type=output_type)).fit(X32, y)
    return export(FEATURES, SCALE, X, {"package": FittedComponent(made, None, y)}, {"model_name": f"{name}_0"})


@both_types
@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_what_kepler_evaluates_itself_is_not_negative_at_idle(name, output_type):
    # a negative number wraps to 1.8e19 mW in Kepler; a model that cannot do without has no weight.json
    files = one_component(name, lambda X: np.maximum(220 * X[:, 2] - 85, 0.5), output_type)
    if name == "SGDRegressorTrainer":
        assert "weight.json" in files
    if "weight.json" in files:
        weights = json.loads(files["weight.json"])["package"]
        assert evaluated(name, weights, (0.0, 0.0, 0.0)) >= 0


@pytest.mark.parametrize("name", [*LINEAR, *CURVES])
def test_weights_of_a_constant_model_fit_its_name(name):
    # Kepler picks its formula by the trainer's name and panics where the weights are of another
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
