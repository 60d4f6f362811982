"""Checks of trainers."""

from __future__ import annotations

import pickle
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor
from kepler_core.errors import KeplerError
from kepler_core.messages import one_line
from kepler_core.testing.blocked_imports import error_without
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require
from kepler_core.testing.samples import FEATURES, fit_task, load_and_power
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType

SCALE = np.array([2e8, 5e10, 8e10])

MEMORY_ROWS = 3000
MAX_MEGABYTES = 256
"""Memory that a fit of `MEMORY_ROWS` rows may take: enough for three matrices of `MEMORY_ROWS` × `MEMORY_ROWS`."""


def _regressor(subject: Subject, task: FitTask | None = None) -> Regressor:
    result = subject.make().regressor(task or fit_task())
    require(
        hasattr(result, "fit") and hasattr(result, "predict"),
        f"regressor() returned {result!r}; return an unfitted object with fit(X, y) and predict(X)",
    )
    regressor: Regressor = result
    return regressor


def _fit(regressor: Regressor, X: FloatArray, y: FloatArray) -> Regressor:
    result: Regressor | None = regressor.fit(X, y)
    return regressor if result is None else result


def _predict(regressor: Regressor, X: FloatArray) -> FloatArray:
    return np.asarray(regressor.predict(X), dtype=np.float64)


def returns_an_unfitted_regressor(subject: Subject) -> None:
    """Check that each call of `regressor` returns a new object that is not fitted."""
    trainer = subject.make()
    first, second = trainer.regressor(fit_task()), trainer.regressor(fit_task())
    require(
        hasattr(first, "fit") and hasattr(first, "predict"),
        f"regressor() returned {first!r}; return an unfitted object with fit(X, y) and predict(X)",
    )
    require(first is not second, "regressor() returned the same object twice; make a new one at each call")
    X, _ = load_and_power()
    try:
        second.predict(X)
    except Exception:  # as expected: the regressor is not fitted
        return
    raise CheckError("regressor() returned a fitted regressor; return an unfitted one, which Kepler Core fits")


def predicts_a_number_per_row(subject: Subject) -> None:
    """Check that `predict` returns one finite number per row."""
    for output_type in OUTPUT_TYPES:
        X, y = load_and_power()
        predicted = _predict(_fit(_regressor(subject, fit_task(output_type=output_type)), X, y), X)
        require(
            predicted.size == len(X),
            f"predict returned shape {predicted.shape} for {len(X)} rows ({output_type}); return one number per row",
        )
        require(np.isfinite(predicted).all(), f"predict returned NaN or infinity on training rows ({output_type})")


def learns(subject: Subject) -> None:
    """Check that the error on held-out rows is below 0.7 times the error of always predicting the mean."""
    X, y = load_and_power(300)
    fitted = _fit(_regressor(subject), X[:200], y[:200])
    error = float(np.mean(np.abs(_predict(fitted, X[200:]).ravel() - y[200:])))
    error_of_mean = float(np.mean(np.abs(y[200:] - y[:200].mean())))
    require(
        error < 0.7 * error_of_mean,
        f"on held-out rows the error is {error:.1f} W, and {error_of_mean:.1f} W if the mean is predicted; "
        f"X is scaled to [0, 1] and y is in watts: choose default arguments that suit that and 200 rows",
    )


def takes_columns_in_any_order(subject: Subject) -> None:
    """Check that predictions do not depend on the order of the columns of X.

    The columns are in the order of the features in `task.features`.
    """
    X, y = load_and_power()
    order = [2, 0, 1]
    expected = _predict(_fit(_regressor(subject), X, y), X).ravel()
    task = fit_task(features=tuple(FEATURES[column] for column in order))
    predicted = _predict(_fit(_regressor(subject, task), X[:, order], y), X[:, order]).ravel()
    difference = float(np.sqrt(np.mean((expected - predicted) ** 2)))
    require(
        difference <= 0.05 * np.ptp(y),
        f"with the columns in another order the predictions differ ({difference:.1f} W); find columns by "
        f"task.features or task.main_column, not by number",
    )


def predicts_in_watts(subject: Subject) -> None:
    """Check that a regressor fitted on ten times the power predicts ten times the watts.

    A trainer with parameters in watts would suit only machines of one size, so it fails this check.
    """
    X, y = load_and_power()
    small = _predict(_fit(_regressor(subject), X, y), X).ravel()
    large = _predict(_fit(_regressor(subject), X, 10 * y), X).ravel()
    difference = float(np.max(np.abs(large / 10 - small)))
    require(
        difference <= 0.1 * np.ptp(y),
        f"for ten times the power it does not predict ten times the watts (a tenth differs by up to {difference:.1f} "
        f"W); parameters in watts suit one machine only: scale y (sklearn.compose.TransformedTargetRegressor)",
    )


def survives_a_constant_target(subject: Subject) -> None:
    """Check that a regressor fitted on constant power predicts this power. Power can be constant in one fold."""
    X, _ = load_and_power()
    for output_type in OUTPUT_TYPES:
        for watts in (0.0, 50.0):
            fitted = _fit(_regressor(subject, fit_task(output_type=output_type)), X, np.full(len(X), watts))
            predicted = _predict(fitted, X)
            case = f"fitted on a constant {watts:g} W ({output_type})"
            require(
                np.isfinite(predicted).all(), f"{case} it predicts NaN or infinity; do not divide by the spread of y"
            )
            if output_type == "DynPower" and watts:
                continue  # a DynPower regressor without intercept cannot predict a constant
            error = float(np.max(np.abs(predicted - watts)))
            require(error <= 0.02 * max(watts, 5.0), f"{case} the error is {error:.3g} W")


def survives_features_that_never_change(subject: Subject) -> None:
    """Check that a regressor can be fitted on constant features, e.g. the counters of an idle machine."""
    X, y = load_and_power()
    X[:, 2], X[:, 0] = 0.0, 1.0
    predicted = _predict(_fit(_regressor(subject), X, y), X)
    require(np.isfinite(predicted).all(), "with features that never change it predicts NaN or infinity")


def survives_one_feature(subject: Subject) -> None:
    """Check that a regressor can be fitted on a single feature, because some feature groups have only one."""
    X, y = load_and_power()
    task = fit_task(features=("cpu_instructions",))
    predicted = _predict(_fit(_regressor(subject, task), X[:, 2:], y), X[:, 2:])
    require(
        predicted.size == len(X) and np.isfinite(predicted).all(),
        "with one feature it predicts no finite number per row",
    )


def survives_one_row(subject: Subject) -> None:
    """Check predictions of a single row, and fits on a single row.

    A row must get the same prediction alone as together with other rows. A regressor that is fitted on a single
    row must predict finite numbers or raise an error with a message, e.g. `ValueError`.
    """
    X, y = load_and_power()
    fitted = _fit(_regressor(subject), X, y)
    together = _predict(fitted, X[:5]).ravel()
    alone = np.array([_predict(fitted, row[None]).item() for row in X[:5]])
    require(
        np.allclose(alone, together, atol=1e-4 * np.ptp(y)),
        "a single row gets another prediction than the same row among others; a prediction may depend on its row only",
    )
    with np.errstate(all="ignore"):
        _raises_or_is_finite(subject, X[-1:], y[-1:], "one row")


def handles_nan(subject: Subject) -> None:
    """Check that a regressor fitted on rows with NaN predicts finite numbers or raises an error with a message.

    Kepler Core itself leaves out rows with NaN before it fits a regressor.
    """
    X, y = load_and_power()
    X[7, 1] = np.nan
    with np.errstate(all="ignore"):
        _raises_or_is_finite(subject, X, y, "a row with NaN")


def _raises_or_is_finite(subject: Subject, X: FloatArray, y: FloatArray, rows: str) -> None:
    test_X, _ = load_and_power(20, seed=1)
    try:
        predicted = _predict(_fit(_regressor(subject), X, y), test_X)
    except (KeplerError, ValueError, np.linalg.LinAlgError, RuntimeError) as error:
        require(str(error).strip(), f"fitted on {rows} it raises {type(error).__name__} without a message")
        return
    except Exception as error:
        raise CheckError(
            f"fitted on {rows} it raises {one_line(error)}; raise ValueError with a message instead"
        ) from error
    require(
        np.isfinite(predicted).all(),
        f"fitted on {rows} it predicts NaN or infinity; raise ValueError in fit (scikit-learn's check_X_y does)",
    )


def does_not_change_its_data(subject: Subject) -> None:
    """Check that `fit` and `predict` do not write into X and y, because a trainer must not change its data."""
    X, y = load_and_power()
    X.setflags(write=False)
    y.setflags(write=False)
    try:
        _predict(_fit(_regressor(subject), X, y), X)
    except ValueError as error:
        if "read-only" in str(error):
            raise CheckError(
                "fit or predict writes into X or y; work on a copy, because a trainer must not change its data"
            ) from error
        raise


def ignores_the_memory_layout(subject: Subject) -> None:
    """Check that predictions are the same for X in C order and for X in Fortran order."""
    X, y = load_and_power()
    c_order = _predict(_fit(_regressor(subject), np.ascontiguousarray(X), y), X)
    fortran_order = _predict(_fit(_regressor(subject), np.asfortranarray(X), y), X)
    require(
        np.allclose(c_order, fortran_order, rtol=1e-6, atol=1e-6 * np.ptp(y)),
        "with X in Fortran order the predictions differ",
    )


def is_deterministic(subject: Subject) -> None:
    """Check that the same seed and data give the same predictions, regardless of NumPy's global random state."""
    X, y = load_and_power()
    predictions = []
    for global_seed in (1, 2):
        state = np.random.get_state()
        np.random.seed(global_seed)
        try:
            predictions.append(_predict(_fit(_regressor(subject, fit_task(seed=7)), X, y), X))
        finally:
            np.random.set_state(state)
    require(
        np.array_equal(predictions[0], predictions[1]),
        "two fits with the same seed differ; use task.seed for every random choice (random_state=task.seed)",
    )


def regressor_is_picklable(subject: Subject) -> None:
    """Check that regressors can be pickled before and after the fit, because backends fit in other processes."""
    X, y = load_and_power()
    regressor = _regressor(subject)
    try:
        unfitted = pickle.loads(pickle.dumps(regressor))  # noqa: S301 - written here
        fitted = pickle.loads(pickle.dumps(_fit(regressor, X, y)))  # noqa: S301
    except Exception as error:
        raise CheckError(
            f"the regressor cannot be pickled ({one_line(error)}); keep lambdas and open files out of it"
        ) from error
    require(
        np.allclose(_predict(fitted, X), _predict(_fit(unfitted, X, y), X), rtol=1e-6),
        "a regressor pickled before its fit and one pickled after it predict different values",
    )


def portable_export_agrees(subject: Subject) -> None:
    """Check that a model format can store the fitted regressor, and that the stored model predicts the same."""
    from kepler_core.models.loading import load_model

    for output_type in OUTPUT_TYPES:
        files, X, expected, watts = _exported(subject, output_type)
        model = load_model(files)
        order = [2, 0, 1]
        names = [FEATURES[column] for column in order]
        for component, fitted_watts in expected.items():
            difference = float(np.max(np.abs(model.predict(X)[component] - fitted_watts)))
            require(
                difference <= 0.001 * np.ptp(watts[component]),
                f"the stored model of {component} ({output_type}) differs by {difference:.3g} W from the fitted one",
            )
            require(
                np.allclose(model.predict(X[:, order], names)[component], model.predict(X)[component], rtol=1e-6),
                "the predictions of the stored model depend on the order of columns",
            )
        far = np.vstack([np.zeros(3), X.max(axis=0) * 10, X.max(axis=0) * 1e6])
        for component, predicted in model.predict(far).items():
            require(
                np.isfinite(predicted).all() and (predicted >= 0).all(),
                f"the stored model of {component} ({output_type}) predicts {predicted} far outside its training rows",
            )


def _exported(
    subject: Subject, output_type: OutputType
) -> tuple[dict[str, bytes], FloatArray, dict[str, FloatArray], dict[str, FloatArray]]:
    """Fit and store a model of two components.

    Returns the model's files and the rows X that it was fitted on. Returns also two dictionaries by component: the
    predictions of the fitted regressor, and the power that it was fitted on, both in watts.
    """
    from kepler_core.models.export import FittedComponent, export
    from kepler_core.models.power_model import scaled

    X, y = load_and_power(seed=9, idle=40.0 if output_type == "AbsPower" else 0.0)
    X = X * SCALE
    single = scaled(X, SCALE).astype(np.float64)
    watts = {"package": y, "dram": 5.0 + 25.0 * single[:, 0] + np.random.default_rng(1).uniform(0, 0.5, len(X))}
    fitted, expected = {}, {}
    for component, power in watts.items():
        task = fit_task(component=component, output_type=output_type)
        regressor = _fit(_regressor(subject, task), single, power)
        fitted[component] = FittedComponent(regressor, None, power)
        expected[component] = np.maximum(_predict(regressor, single).ravel(), 0.0)
    metadata = {"model_name": f"{subject.name}_0", "trainer": subject.name, "output_type": output_type}
    try:
        files = export(FEATURES, SCALE, X, fitted, metadata, model_format=subject.plugin.model_format)
    except KeplerError as error:
        raise CheckError(
            f"the fitted regressor cannot be stored: {error}. There are three remedies. First, return a "
            f"regressor that skl2onnx can convert, or one with a flat coef_ and one intercept_. Second, set "
            f"model_format of the trainer. Third, in fit, set portable_ to an equivalent regressor that can be stored"
        ) from error
    return files, X, expected, watts


_LOAD_AND_PREDICT = """
from kepler_core.models.loading import load_model
load_model(sys.argv[1]).predict([[0.0, 0.0, 0.0], [1e8, 5e10, 7e10]])
"""


def stored_model_needs_no_plugin(subject: Subject) -> None:
    """Check that the stored model loads and predicts if neither the plugin nor scikit-learn is installed."""
    files, *_ = _exported(subject, "AbsPower")
    package = subject.plugin.__module__.partition(".")[0]
    blocked = ["sklearn", "pandas", "xgboost", "lightgbm"]
    if package not in ("kepler_core", "kepler_plugins", "__main__"):
        blocked.append(package)
    with tempfile.TemporaryDirectory(prefix="kepler-check-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        error = error_without(blocked, _LOAD_AND_PREDICT, folder)
    require(not error, f"the stored model cannot be used without {', '.join(blocked)}: {error}")


def fits_in_memory(subject: Subject) -> None:
    """Check that a fit takes little memory, because fits run on all cores at the same time."""
    X, y = load_and_power(MEMORY_ROWS)
    regressor: Any = _regressor(subject)
    tracemalloc.start()
    try:
        _predict(_fit(regressor, X, y), X[:100])
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    require(
        peak <= MAX_MEGABYTES,
        f"a fit of {MEMORY_ROWS} rows takes {peak:.0f} MB, more than {MAX_MEGABYTES}; all cores run fits at once",
    )


CHECKS: tuple[CheckFunction, ...] = (
    returns_an_unfitted_regressor,
    predicts_a_number_per_row,
    learns,
    takes_columns_in_any_order,
    predicts_in_watts,
    survives_a_constant_target,
    survives_features_that_never_change,
    survives_one_feature,
    survives_one_row,
    handles_nan,
    does_not_change_its_data,
    ignores_the_memory_layout,
    is_deterministic,
    regressor_is_picklable,
    portable_export_agrees,
    stored_model_needs_no_plugin,
    fits_in_memory,
)
