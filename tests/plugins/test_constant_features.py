"""Test that constant features have no influence on models whose trainers compare rows by distance.

Each test compares two models: one with the varying features `LIVE` only, and one with additional constant features.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kepler_core.contracts import FitTask
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import scaled
from kepler_core.plugins import registry

LIVE = ("cpu_instructions", "cpu_cycles")
by_distance = pytest.mark.parametrize("name", ["KNeighborsRegressorTrainer", "SVRRegressorTrainer"])
few = settings(max_examples=15, deadline=None)


def machine(seed, n=120):
    """Return scaled features of a machine under changing load, shape (samples, 2), and the machine's watts."""
    rng = np.random.default_rng(seed)
    busy = rng.uniform(0, 1, n)
    X = np.column_stack([busy, busy * rng.uniform(0.8, 1, n)])
    X /= X.max(axis=0)
    return X, 40 + 110 * X[:, 1] ** 0.8 + rng.normal(0, 1.5, n)


def fitted(name, X, y, output_type="AbsPower"):
    features = (*LIVE, *(f"other_{number}" for number in range(X.shape[1] - len(LIVE))))[: X.shape[1]]
    return (
        registry.trainers.create(name, {})
        .regressor(FitTask("package", features, features[0], output_type, 0))
        .fit(X, y)
    )


constant_columns = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 1e-6, 1e-4, 1e-3, 9e-3])), min_size=1, max_size=4
)
"""Nearly constant columns: (lowest value, maximum of the random numbers that are added to the lowest value)."""


def with_columns(X, columns, seed):
    jitter = np.random.default_rng(seed).uniform(0, 1, (len(X), len(columns)))
    values, ranges = np.array(columns).T
    return np.column_stack([X, values + ranges * jitter])


@by_distance
@few
@given(columns=constant_columns, seed=st.integers(0, 99), output_type=st.sampled_from(["AbsPower", "DynPower"]))
def test_constant_columns_do_not_change_predictions(name, columns, seed, output_type):
    X, y = machine(seed)
    train, test = np.arange(len(X)) % 2 == 0, np.arange(len(X)) % 2 == 1
    wide = with_columns(X, columns, seed)
    predicted = fitted(name, wide[train], y[train], output_type).predict(wide[test])
    alone = fitted(name, X[train], y[train], output_type).predict(X[test])
    np.testing.assert_allclose(predicted, alone, atol=0.1)


@by_distance
@few
@given(columns=constant_columns, later=st.floats(0, 1e6), seed=st.integers(0, 99))
def test_columns_that_change_only_after_the_training_do_not_change_predictions(name, columns, later, seed):
    X, y = machine(seed)
    model = fitted(name, with_columns(X, columns, seed), y)
    usual = model.predict(with_columns(X, columns, seed + 1))
    changed = model.predict(np.column_stack([X, np.full((len(X), len(columns)), later)]))
    np.testing.assert_array_equal(changed, usual)


@by_distance
@few
@given(copies=st.integers(2, 4), seed=st.integers(0, 99))
def test_duplicates_of_all_columns_do_not_change_predictions(name, copies, seed):
    X, y = machine(seed)
    train, test = np.arange(len(X)) % 2 == 0, np.arange(len(X)) % 2 == 1
    wide = np.hstack([X] * copies)
    predicted = fitted(name, wide[train], y[train]).predict(wide[test])
    alone = fitted(name, X[train], y[train]).predict(X[test])
    np.testing.assert_allclose(predicted, alone, atol=0.1)


@by_distance
@few
@given(column=st.integers(0, 1), copies=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_duplicated_column_does_not_add_much_error(name, column, copies, seed):
    X, y = machine(seed)
    train, test = np.arange(len(X)) % 2 == 0, np.arange(len(X)) % 2 == 1
    wide = np.hstack([X, *[X[:, [column]]] * copies])

    def error(features):
        return float(np.mean(np.abs(fitted(name, features[train], y[train]).predict(features[test]) - y[test])))

    assert error(wide) <= 1.3 * error(X) + 0.5


@by_distance
def test_only_constant_columns_predict_the_usual_power(name):
    _, y = machine(0)
    X = with_columns(np.empty((len(y), 0)), [(1.0, 0.0), (0.0, 1e-3)], 0)
    predicted = fitted(name, X, y).predict(np.vstack([X[:1], [[0.0, 1e6]]]))
    assert predicted[0] == pytest.approx(predicted[1])
    assert y.min() < predicted[0] < y.max()


@by_distance
def test_the_stored_model_ignores_constant_columns_too(name):
    X, y = machine(0)
    wide = with_columns(X, [(1.0, 0.0), (0.0, 0.0), (0.5, 1e-3)], 0)
    features = (*LIVE, "node_info", "bpf_block_irq", "cpu_scaling_frequency_hertz")
    model = fitted(name, scaled(wide, np.ones(5)).astype(np.float64), y)
    files = export(features, np.ones(5), wide, {"package": FittedComponent(model, None, y)}, {"model_name": "m"})
    stored = load_model(files)
    later = np.column_stack([X, np.full((len(X), 3), 1e5)])
    np.testing.assert_array_equal(stored.predict(later)["package"], stored.predict(wide)["package"])
