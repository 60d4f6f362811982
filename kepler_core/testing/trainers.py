"""Checks of trainers."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_core.errors import KeplerError
from kepler_core.plugins import registry
from kepler_core.testing.checks import CheckError, Subject, check_of, require
from kepler_core.testing.samples import FEATURES, fit_task, load_and_power
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType

SCALE = np.array([2e8, 5e10, 8e10])

MOST_ROWS = 3000
MOST_MEGABYTES = 256
"""A fit of so many rows may take at most so much memory: three matrices of rows × rows."""


def _regressor(subject: Subject, task: FitTask | None = None) -> Regressor:
    made = subject.make().regressor(task or fit_task())
    require(
        hasattr(made, "fit") and hasattr(made, "predict"),
        f"regressor() returned {made!r}; return an unfitted object with fit(X, y) and predict(X)",
    )
    found: Regressor = made
    return found


def _fit(regressor: Regressor, X: FloatArray, y: FloatArray) -> Regressor:
    found = regressor.fit(X, y)
    return regressor if found is None else found


def _predict(regressor: Regressor, X: FloatArray) -> FloatArray:
    return np.asarray(regressor.predict(X), dtype=np.float64)


@check_of(Trainer)
def returns_an_unfitted_regressor(subject: Subject) -> None:
    """A new one at each call: one for each component and fold."""
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
    except Exception:  # as it should
        return
    raise CheckError(
        "regressor() returned a fitted regressor; fitting is the framework's, once per fold and on all data"
    )


@check_of(Trainer)
def predicts_a_number_per_row(subject: Subject) -> None:
    """Shape (rows,), finite, in watts."""
    for output_type in OUTPUT_TYPES:
        X, y = load_and_power()
        predicted = _predict(_fit(_regressor(subject, fit_task(output_type=output_type)), X, y), X)
        require(
            predicted.size == len(X),
            f"predict gave shape {predicted.shape} for {len(X)} rows ({output_type}); one number per row is wanted",
        )
        require(np.isfinite(predicted).all(), f"predict gave NaN or infinity on training rows ({output_type})")


@check_of(Trainer)
def learns(subject: Subject) -> None:
    """Better than the mean, on rows that were not seen."""
    X, y = load_and_power(300)
    fitted = _fit(_regressor(subject), X[:200], y[:200])
    error = float(np.mean(np.abs(_predict(fitted, X[200:]).ravel() - y[200:])))
    constant = float(np.mean(np.abs(y[200:] - y[:200].mean())))
    require(
        error < 0.7 * constant,
        f"on rows that were not trained on it is off by {error:.1f} W, their mean by {constant:.1f} W; "
        f"X is scaled to [0, 1] and y is in watts: is it made for that, with its default arguments, and for 200 rows?",
    )


@check_of(Trainer)
def takes_columns_in_any_order(subject: Subject) -> None:
    """The columns of X are `task.features`; none of them has a fixed place."""
    X, y = load_and_power()
    order = [2, 0, 1]
    straight = _predict(_fit(_regressor(subject), X, y), X).ravel()
    task = fit_task(features=tuple(FEATURES[column] for column in order))
    moved = _predict(_fit(_regressor(subject, task), X[:, order], y), X[:, order]).ravel()
    difference = float(np.sqrt(np.mean((straight - moved) ** 2)))
    require(
        difference <= 0.05 * np.ptp(y),
        f"with the columns in another order it predicts something else ({difference:.1f} W apart); find columns by "
        f"task.features or task.main_column, not by number",
    )


@check_of(Trainer)
def predicts_in_watts(subject: Subject) -> None:
    """A machine of ten times the power is ten times the watts: nothing is tuned to one machine."""
    X, y = load_and_power()
    small = _predict(_fit(_regressor(subject), X, y), X).ravel()
    large = _predict(_fit(_regressor(subject), X, 10 * y), X).ravel()
    difference = float(np.max(np.abs(large / 10 - small)))
    require(
        difference <= 0.1 * np.ptp(y),
        f"for ten times the power it does not predict ten times the watts (up to {difference:.1f} W apart at a tenth); "
        f"parameters in watts fit one machine only: scale y (sklearn.compose.TransformedTargetRegressor)",
    )


@check_of(Trainer)
def survives_a_constant_target(subject: Subject) -> None:
    """A component can be constant in one fold, though not over all."""
    X, _ = load_and_power()
    for output_type in OUTPUT_TYPES:
        for watts in (0.0, 50.0):
            fitted = _fit(_regressor(subject, fit_task(output_type=output_type)), X, np.full(len(X), watts))
            predicted = _predict(fitted, X)
            where = f"fitted on a constant {watts:g} W ({output_type})"
            require(
                np.isfinite(predicted).all(), f"{where} it predicts NaN or infinity; do not divide by the spread of y"
            )
            if output_type == "DynPower" and watts:
                continue  # one without intercept cannot be constant, and need not be
            off = float(np.max(np.abs(predicted - watts)))
            require(off <= 0.02 * max(watts, 5.0), f"{where} it is off by {off:.3g} W")


@check_of(Trainer)
def survives_features_that_never_change(subject: Subject) -> None:
    """An idle machine's counters."""
    X, y = load_and_power()
    X[:, 2], X[:, 0] = 0.0, 1.0
    predicted = _predict(_fit(_regressor(subject), X, y), X)
    require(np.isfinite(predicted).all(), "with features that never change it predicts NaN or infinity")


@check_of(Trainer)
def survives_one_feature(subject: Subject) -> None:
    """A feature group can have one feature."""
    X, y = load_and_power()
    task = fit_task(features=("cpu_instructions",))
    predicted = _predict(_fit(_regressor(subject, task), X[:, 2:], y), X[:, 2:])
    require(
        predicted.size == len(X) and np.isfinite(predicted).all(),
        "with one feature it predicts no finite number per row",
    )


@check_of(Trainer)
def survives_one_row(subject: Subject) -> None:
    """To fit on one row, it predicts or says in words that it cannot; one row to predict is usual."""
    X, y = load_and_power()
    fitted = _fit(_regressor(subject), X, y)
    together = _predict(fitted, X[:5]).ravel()
    alone = np.array([_predict(fitted, row[None]).item() for row in X[:5]])
    require(
        np.allclose(alone, together, atol=1e-4 * np.ptp(y)),
        "a row alone is predicted differently from the same row among others; a prediction may only depend on its row",
    )
    with np.errstate(all="ignore"):
        _refuses_or_is_finite(subject, X[-1:], y[-1:], "one row")


@check_of(Trainer)
def refuses_nan_or_copes(subject: Subject) -> None:
    """The framework leaves out rows with NaN; a regressor that gets one all the same must not spread it."""
    X, y = load_and_power()
    X[7, 1] = np.nan
    with np.errstate(all="ignore"):
        _refuses_or_is_finite(subject, X, y, "a row with NaN")


def _refuses_or_is_finite(subject: Subject, X: FloatArray, y: FloatArray, what: str) -> None:
    ask, _ = load_and_power(20, seed=1)
    try:
        predicted = _predict(_fit(_regressor(subject), X, y), ask)
    except (KeplerError, ValueError, np.linalg.LinAlgError, RuntimeError) as error:
        require(str(error).strip(), f"fitted on {what} it raises {type(error).__name__} without a word")
        return
    except Exception as error:
        raise CheckError(
            f"fitted on {what} it raises {registry.one_line(error)}; raise ValueError that says what is wrong instead"
        ) from error
    require(
        np.isfinite(predicted).all(),
        f"fitted on {what} it predicts NaN or infinity; raise ValueError in fit (scikit-learn's check_X_y does)",
    )


@check_of(Trainer)
def leaves_its_data_alone(subject: Subject) -> None:
    """Other trainers are given the same arrays, which are write-protected."""
    X, y = load_and_power()
    frozen_X, frozen_y = X.copy(), y.copy()
    frozen_X.setflags(write=False)
    frozen_y.setflags(write=False)
    try:
        _predict(_fit(_regressor(subject), frozen_X, frozen_y), frozen_X)
    except ValueError as error:
        if "read-only" in str(error):
            raise CheckError(
                "fit or predict writes into X or y; work on a copy: others are given the same arrays"
            ) from error
        raise


@check_of(Trainer)
def does_not_mind_the_memory_layout(subject: Subject) -> None:
    """Rows or columns first, the numbers are the same."""
    X, y = load_and_power()
    rows = _predict(_fit(_regressor(subject), np.ascontiguousarray(X), y), X)
    columns = _predict(_fit(_regressor(subject), np.asfortranarray(X), y), X)
    require(
        np.allclose(rows, columns, rtol=1e-6, atol=1e-6 * np.ptp(y)),
        "with X in Fortran order it predicts something else",
    )


@check_of(Trainer)
def is_deterministic(subject: Subject) -> None:
    """The same seed and data give the same model, whatever the global random state."""
    X, y = load_and_power()
    found = []
    for state in (1, 2):
        before = np.random.get_state()
        np.random.seed(state)
        try:
            found.append(_predict(_fit(_regressor(subject, fit_task(seed=7)), X, y), X))
        finally:
            np.random.set_state(before)
    require(
        np.array_equal(found[0], found[1]),
        "two fits with the same seed differ; use task.seed for every random choice (random_state=task.seed)",
    )


@check_of(Trainer)
def regressor_is_picklable(subject: Subject) -> None:
    """Fitted or not: backends run fits in other processes."""
    X, y = load_and_power()
    made = _regressor(subject)
    try:
        copy = pickle.loads(pickle.dumps(made))  # noqa: S301 - its own
        fitted = pickle.loads(pickle.dumps(_fit(made, X, y)))  # noqa: S301
    except Exception as error:
        raise CheckError(
            f"the regressor cannot be pickled ({registry.one_line(error)}); keep lambdas and open files out of it"
        ) from error
    require(
        np.allclose(_predict(fitted, X), _predict(_fit(copy, X, y), X), rtol=1e-6),
        "a regressor that was pickled before its fit predicts something else than one that was pickled after it",
    )


@check_of(Trainer)
def portable_export_agrees(subject: Subject) -> None:
    """A model format can write what was fitted, and what is loaded predicts the same."""
    from kepler_core.models.loading import load_model

    for output_type in OUTPUT_TYPES:
        files, X, expected, watts = _exported(subject, output_type)
        model = load_model(files)
        shuffled = [2, 0, 1]
        names = [FEATURES[column] for column in shuffled]
        for component, wanted in expected.items():
            off = float(np.max(np.abs(model.predict(X)[component] - wanted)))
            require(
                off <= 0.001 * np.ptp(watts[component]),
                f"the stored model of {component} ({output_type}) is off by {off:.3g} W from what was fitted",
            )
            moved = model.predict(X[:, shuffled], names)[component]
            require(
                np.allclose(moved, model.predict(X)[component], rtol=1e-6),
                "the stored model minds the order of columns",
            )
        far = np.vstack([np.zeros(3), X.max(axis=0) * 10, X.max(axis=0) * 1e6])
        for component, found in model.predict(far).items():
            require(
                np.isfinite(found).all() and (found >= 0).all(),
                f"the stored model of {component} ({output_type}) gives {found} far outside of its training rows",
            )


def _exported(
    subject: Subject, output_type: OutputType
) -> tuple[dict[str, bytes], FloatArray, dict[str, FloatArray], dict[str, FloatArray]]:
    from kepler_core.models.export import FittedComponent, export
    from kepler_core.models.power_model import scaled

    X, y = load_and_power(seed=9, idle=40.0 if output_type == "AbsPower" else 0.0)
    X = X * SCALE
    single = scaled(X, SCALE).astype(np.float64)
    watts = {"package": y, "dram": 5.0 + 25.0 * single[:, 0] + np.random.default_rng(1).uniform(0, 0.5, len(X))}
    fitted, expected = {}, {}
    for component, power in watts.items():
        task = fit_task(component=component, output_type=output_type)
        made = _fit(_regressor(subject, task), single, power)
        fitted[component] = FittedComponent(made, None, power)
        expected[component] = np.maximum(_predict(made, single).ravel(), 0.0)
    metadata = {"model_name": f"{subject.name}_0", "trainer": subject.name, "output_type": output_type}
    try:
        files = export(FEATURES, SCALE, X, fitted, metadata, model_format=subject.plugin.model_format)
    except KeplerError as error:
        raise CheckError(
            f"what was fitted cannot be stored: {error}. Return something that skl2onnx can convert or that has a flat "
            f"coef_ and one intercept_, set model_format, or let fit leave an equal regressor in portable_"
        ) from error
    return files, X, expected, watts


_ALONE = """
import sys
for name in sys.argv[2:]:
    sys.modules[name] = None  # an import of it fails
from kepler_core.models.loading import load_model
load_model(sys.argv[1]).predict([[0.0, 0.0, 0.0], [1e8, 5e10, 7e10]])
"""


@check_of(Trainer)
def stored_model_needs_no_plugin(subject: Subject) -> None:
    """Loading and predicting work where neither the plugin nor scikit-learn is installed."""
    files, *_ = _exported(subject, "AbsPower")
    own = subject.plugin.__module__.partition(".")[0]
    blocked = ["sklearn", "pandas", "xgboost", "lightgbm"]
    if own not in ("kepler_core", "kepler_plugins", "__main__"):
        blocked.append(own)
    with tempfile.TemporaryDirectory(prefix="kepler-check-") as folder:
        _write(files, Path(folder))
        done = subprocess.run(
            [sys.executable, "-c", _ALONE, folder, *blocked], capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckError(f"the stored model cannot be used without {', '.join(blocked)}: {last}")


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@check_of(Trainer)
def fits_in_memory(subject: Subject) -> None:
    """Several fits run at a time."""
    X, y = load_and_power(MOST_ROWS)
    made: Any = _regressor(subject)
    tracemalloc.start()
    try:
        _predict(_fit(made, X, y), X[:100])
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    require(
        peak <= MOST_MEGABYTES,
        f"a fit of {MOST_ROWS} rows takes {peak:.0f} MB, more than {MOST_MEGABYTES}; one runs on every core at a time",
    )
