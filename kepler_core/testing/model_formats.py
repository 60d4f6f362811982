"""Checks of model formats."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import SingleArray
from kepler_core.errors import ModelError
from kepler_core.messages import one_line
from kepler_core.testing.blocked_imports import TRAINING_LIBRARIES, error_without
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require
from kepler_core.testing.samples import FEATURES, load_and_power


def _fitted(subject: Subject) -> tuple[Any, SingleArray]:
    """Return a fitted regressor that the format supports, and the rows X that it was fitted on."""
    from sklearn.base import clone
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    X, y = load_and_power()
    single = X.astype(np.float32)
    extra = subject.extras.get("regressor")
    candidates = [LinearRegression(), GradientBoostingRegressor(n_estimators=20, random_state=0)]
    model_format = subject.make()
    for candidate in candidates if extra is None else [extra]:
        fitted = clone(candidate).fit(single.astype(np.float64), y)
        if model_format.supports(fitted):
            return fitted, single
    raise CheckError(
        "supports() accepts neither linear regression nor gradient boosting; pass regressor=… to the checks"
    )


def _content(subject: Subject) -> tuple[bytes, Any, SingleArray]:
    """Return the bytes that `dump` writes for a fitted regressor, the regressor, and the rows it was fitted on."""
    fitted, X = _fitted(subject)
    content = subject.make().dump(fitted, FEATURES, X)
    require(isinstance(content, bytes) and content, f"dump() returned {type(content).__name__}; return bytes")
    return content, fitted, X


def has_a_suffix(subject: Subject) -> None:
    """Check that `suffix` is a file name suffix with a dot: files are named by their component and the suffix."""
    suffix = subject.plugin.suffix
    require(
        isinstance(suffix, str) and suffix.startswith(".") and "/" not in suffix and len(suffix) > 1,
        f'suffix is {suffix!r}; write it with its dot, e.g. suffix = ".json"',
    )


def supports_only_regressors(subject: Subject) -> None:
    """Check that `supports` returns False for an object that is not a regressor."""
    try:
        supported = subject.make().supports(object())
    except Exception as error:
        raise CheckError(f"supports(object()) raises {one_line(error)}; return False") from error
    require(not supported, "supports() returned True for an object that is no regressor")


def reads_back_what_it_wrote(subject: Subject) -> None:
    """Check that loaded models predict the same as the fitted regressor.

    The check loads a model with `load` and with `load_resident`, and predicts many rows at once and a single row.
    """
    content, fitted, X = _content(subject)
    expected = np.asarray(fitted.predict(X.astype(np.float64))).ravel()
    model_format = subject.make()
    for load in (model_format.load, model_format.load_resident):
        model = load(content, FEATURES)
        predicted = np.asarray(model.predict(X))
        require(predicted.shape == (len(X),), f"predict returned shape {predicted.shape} for {len(X)} rows")
        difference = float(np.max(np.abs(predicted - expected)))
        require(
            difference <= 0.001 * np.ptp(expected),
            f"{load.__name__}: predictions differ by {difference:.3g} W from those of the fitted regressor",
        )
        one = np.asarray(model.predict(X[3:4])).item()
        require(
            abs(one - predicted[3]) <= 1e-4 * np.ptp(expected),
            f"{load.__name__}: one row alone is predicted differently",
        )


def writes_the_same_bytes(subject: Subject) -> None:
    """Check that two calls of `dump` with a regressor return equal bytes, so that stores notice changed models."""
    fitted, X = _fitted(subject)
    first, second = (subject.make().dump(fitted, FEATURES, X) for _ in range(2))
    require(first == second, "two dumps of one regressor differ; leave out times, random names and unordered sets")


def rejects_other_bytes(subject: Subject) -> None:
    """Check that `load` raises `ModelError` for bytes that are not a model, because files can come from anywhere."""
    content, *_ = _content(subject)
    model_format = subject.make()
    bad_contents = {
        "no bytes": b"",
        "random bytes": bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
        "the first half of a file": content[: len(content) // 2],
        "a JSON document": b'{"a": [1, 2, 3]}',
        "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
    }
    for description, bad_content in bad_contents.items():
        try:
            model_format.load(bad_content, FEATURES)
        except ModelError:
            continue
        except Exception as error:
            raise CheckError(f"load() of {description} raises {one_line(error)}; raise ModelError") from error
        raise CheckError(f"load() accepts {description} as a model; raise ModelError")


def rejects_other_features(subject: Subject) -> None:
    """Check that `load` raises `ModelError` if it is called with fewer features than the model was fitted on."""
    content, *_ = _content(subject)
    try:
        model = subject.make().load(content, FEATURES[:1])
        predicted = np.asarray(model.predict(np.zeros((1, 1), dtype=np.float32)))
    except ModelError:
        return
    except Exception as error:
        raise CheckError(f"load() with too few features raises {one_line(error)}; raise ModelError") from error
    raise CheckError(
        f"load() accepts a model of {len(FEATURES)} features as a model of 1 feature, which predicts {predicted}; "
        f"raise ModelError in load()"
    )


_LOAD_AND_PREDICT = """
import importlib, pickle
import numpy as np
import kepler_core.contracts

def refuse(*arguments, **keywords):
    raise SystemExit("it unpickles")

pickle.loads = pickle.load = pickle.Unpickler = refuse
module, _, name = sys.argv[1].partition(":")
model_format = getattr(importlib.import_module(module), name)()
with open(sys.argv[2], "rb") as file:
    content = file.read()
features = sys.argv[3:]
model_format.load(content, features).predict(np.zeros((2, len(features)), dtype=np.float32))
"""


def loads_without_training_libraries(subject: Subject) -> None:
    """Check that a model loads and predicts without scikit-learn, pandas and SciPy, and without unpickling."""
    content, *_ = _content(subject)
    target = f"{subject.plugin.__module__}:{subject.plugin.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="kepler-check-") as folder:
        path = Path(folder) / "model"
        path.write_bytes(content)
        error = error_without(TRAINING_LIBRARIES, _LOAD_AND_PREDICT, target, str(path), *FEATURES)
    if f"No module named {subject.plugin.__module__.partition('.')[0]!r}" in error:
        return  # the class is defined in a test, so its module cannot be imported by name
    require(
        not error,
        f"cannot be loaded without scikit-learn, pandas and SciPy: {error}; import what dump() needs in dump()",
    )


CHECKS: tuple[CheckFunction, ...] = (
    has_a_suffix,
    supports_only_regressors,
    reads_back_what_it_wrote,
    writes_the_same_bytes,
    rejects_other_bytes,
    rejects_other_features,
    loads_without_training_libraries,
)
