"""Checks of model formats."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import SingleArray
from kepler_core.contracts import ModelFormat
from kepler_core.errors import ModelError
from kepler_core.plugins import registry
from kepler_core.testing.checks import CheckError, Subject, check_of, require
from kepler_core.testing.samples import FEATURES, load_and_power


def _fitted(subject: Subject) -> tuple[Any, SingleArray]:
    """A regressor that the format writes, and rows that it was fitted on."""
    from sklearn.base import clone
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    X, y = load_and_power()
    single = X.astype(np.float32)
    given = subject.given.get("regressor")
    candidates = [LinearRegression(), GradientBoostingRegressor(n_estimators=20, random_state=0)]
    form = subject.make()
    for candidate in candidates if given is None else [given]:
        fitted = clone(candidate).fit(single.astype(np.float64), y)
        if form.supports(fitted):
            return fitted, single
    raise CheckError(
        "supports() takes neither linear regression nor gradient boosting; give the checks regressor=… that it takes"
    )


def _content(subject: Subject) -> tuple[bytes, Any, SingleArray]:
    fitted, X = _fitted(subject)
    found = subject.make().dump(fitted, FEATURES, X)
    require(isinstance(found, bytes) and found, f"dump() returned {type(found).__name__}; return bytes")
    return found, fitted, X


@check_of(ModelFormat)
def has_a_suffix(subject: Subject) -> None:
    """Files are named component + suffix."""
    suffix = subject.plugin.suffix
    require(
        isinstance(suffix, str) and suffix.startswith(".") and "/" not in suffix and len(suffix) > 1,
        f'suffix is {suffix!r}; write it with its dot, e.g. suffix = ".json"',
    )


@check_of(ModelFormat)
def supports_only_what_it_knows(subject: Subject) -> None:
    """Regressors of all kinds are shown to it."""
    try:
        found = subject.make().supports(object())
    except Exception as error:
        raise CheckError(f"supports(object()) raises {registry.one_line(error)}; return False") from error
    require(not found, "supports() is true for an object that is no regressor")


@check_of(ModelFormat)
def reads_back_what_it_wrote(subject: Subject) -> None:
    """Loaded models predict what was fitted, also a row at a time and in a process that stays."""
    content, fitted, X = _content(subject)
    wanted = np.asarray(fitted.predict(X.astype(np.float64))).ravel()
    form = subject.make()
    for how in (form.load, form.load_resident):
        loaded = how(content, FEATURES)
        found = np.asarray(loaded.predict(X))
        require(found.shape == (len(X),), f"predict gave shape {found.shape} for {len(X)} rows")
        off = float(np.max(np.abs(found - wanted)))
        require(off <= 0.001 * np.ptp(wanted), f"{how.__name__}: off by {off:.3g} W from what was fitted")
        one = np.asarray(loaded.predict(X[3:4])).item()
        require(abs(one - found[3]) <= 1e-4 * np.ptp(wanted), f"{how.__name__}: a row alone is predicted differently")


@check_of(ModelFormat)
def writes_the_same_bytes(subject: Subject) -> None:
    """The same fit gives the same file, so that a store can tell what changed."""
    fitted, X = _fitted(subject)
    first, second = (subject.make().dump(fitted, FEATURES, X) for _ in range(2))
    require(first == second, "two dumps of one regressor differ; leave out times, random names and unordered sets")


@check_of(ModelFormat)
def refuses_what_is_no_model(subject: Subject) -> None:
    """Files come from anywhere: `ModelError`, and nothing is run."""
    content, *_ = _content(subject)
    form = subject.make()
    bad = {
        "no bytes": b"",
        "random bytes": bytes(np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8)),
        "the first half of a file": content[: len(content) // 2],
        "a JSON document": b'{"a": [1, 2, 3]}',
        "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
    }
    for what, wrong in bad.items():
        try:
            form.load(wrong, FEATURES)
        except ModelError:
            continue
        except Exception as error:
            raise CheckError(f"load() of {what} raises {registry.one_line(error)}; raise ModelError") from error
        raise CheckError(f"load() takes {what} for a model; raise ModelError")


@check_of(ModelFormat)
def refuses_other_features(subject: Subject) -> None:
    """A file of three features is no model of two."""
    content, *_ = _content(subject)
    try:
        loaded = subject.make().load(content, FEATURES[:1])
        found = np.asarray(loaded.predict(np.zeros((1, 1), dtype=np.float32)))
    except ModelError:
        return
    except Exception as error:
        raise CheckError(
            f"a model of other features raises {registry.one_line(error)}; raise ModelError in load()"
        ) from error
    raise CheckError(f"a model of {len(FEATURES)} features was loaded as one of 1, and predicts {found}")


_ALONE = """
import pickle, sys
for name in ("sklearn", "pandas", "scipy", "xgboost", "lightgbm"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from kepler_core.contracts import ModelFormat
import importlib
def refuse(*arguments, **more):
    raise SystemExit("it unpickles")
pickle.loads = pickle.load = pickle.Unpickler = refuse
module, _, name = sys.argv[1].partition(":")
form = getattr(importlib.import_module(module), name)()
with open(sys.argv[2], "rb") as file:
    content = file.read()
form.load(content, sys.argv[3:]).predict(np.zeros((2, len(sys.argv[3:])), dtype=np.float32))
"""


@check_of(ModelFormat)
def loads_without_what_fitted(subject: Subject) -> None:
    """Neither scikit-learn nor pandas is imported to load and predict, and nothing is unpickled."""
    content, *_ = _content(subject)
    target = f"{subject.plugin.__module__}:{subject.plugin.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="kepler-check-") as folder:
        path = Path(folder) / "model"
        path.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-c", _ALONE, target, str(path), *FEATURES],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if f"No module named {subject.plugin.__module__.partition('.')[0]!r}" in last:
            return  # defined in a test or a single file
        raise CheckError(
            f"cannot be loaded without scikit-learn, pandas and SciPy: {last}; import what dump() needs in dump()"
        )


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
