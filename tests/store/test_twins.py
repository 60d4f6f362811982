"""Test that a model and its twin, evaluated together, predict exactly the same numbers as each of them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from xgboost import XGBRegressor

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Regressor
from kepler_core.honesty.document import Twin
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.models.twins import TwinnedModel, twinned
from kepler_plugins.model_formats.onnx_graph import OnnxFormat
from kepler_plugins.model_formats.weights import WeightsFormat

FEATURES = ("a", "b", "c", "d", "e")
SCALE = dict(zip(FEATURES, (2e8, 5e10, 8e10, 3.2e4, 7.0), strict=True))
TWIN = ("c", "a", "b")
_FORMATS = {"weights": WeightsFormat(), "onnx": OnnxFormat()}
_CONSTANT = 3.5


def boosting(trees: int = 30, depth: int = 3) -> Regressor:
    return GradientBoostingRegressor(n_estimators=trees, max_depth=depth, random_state=1)


def rows(count: int, seed: int) -> FloatArray:
    """Return rows with values of all features. Some rows are outside the range of the training."""
    return np.random.default_rng(seed).gamma(2.0, 0.25, (count, len(FEATURES))) * list(SCALE.values())


def files_of(
    features: Sequence[str], components: Mapping[str, Regressor | None], scale: Mapping[str, float]
) -> dict[str, bytes]:
    """Fit a model and return its files. A component without a regressor is constant."""
    X = rows(200, 0)[:, [FEATURES.index(name) for name in features]] / [scale[name] for name in features]
    single = X.astype(np.float32)
    files: dict[str, bytes] = {}
    parts: dict[str, Any] = {}
    for number, (component, regressor) in enumerate(components.items()):
        if regressor is None:
            parts[component] = {"ceiling": 9.0, "constant": _CONSTANT}
            continue
        power = 10 * (number + 1) + (20 + number) * np.sqrt(X).sum(axis=1) * (1 + X[:, 0])
        regressor.fit(single.astype(np.float64), power)
        name = next(name for name, model_format in _FORMATS.items() if model_format.supports(regressor))
        file = component + _FORMATS[name].suffix
        parts[component] = {"ceiling": float(power.max()) * 0.9, "format": name, "file": file}
        files[file] = _FORMATS[name].dump(regressor, list(features), single)
    layout = {
        "layout": 1,
        "features": list(features),
        "scale": [scale[name] for name in features],
        "components": parts,
    }
    metadata = {"model_name": "Trees_0", "feature_group": "CounterOnly"}
    return {**files, "model.json": msgspec.json.encode(layout), "metadata.json": msgspec.json.encode(metadata)}


def pair(model: Mapping[str, bytes], twin: Mapping[str, bytes]) -> TwinnedModel:
    """Load a model and its twin as the estimator does. No limits are set, so their predictions may always differ."""
    loaded = [load_model(files, resident=True) for files in (model, twin)]
    return twinned(*loaded, Twin("Trees_0", "CounterOnly", {}))


def differences(model: PowerModel, twin: PowerModel, X: FloatArray) -> FloatArray:
    """Return the absolute differences between the predictions of two models, each of which is evaluated alone."""
    own, other = model.predict(X, FEATURES), twin.predict(X, FEATURES)
    return np.array([np.abs(own[component] - other[component]) for component in own])


def check_predictions(checked: TwinnedModel) -> None:
    assert checked.twin is not None
    for count in (0, 1, 2, 3, 128, 300):
        X = rows(count, count)
        answer = checked.watts(X, FEATURES)
        assert answer.watts.tolist() == checked.model.watts(X, FEATURES).tolist()
        assert answer.difference is not None
        assert answer.difference.tolist() == differences(checked.model, checked.twin, X).tolist()
        assert answer.outside.tolist() == checked.model.outside(X, FEATURES).tolist()


ALL = ("package", "core", "uncore", "dram")
PAIRS: dict[str, tuple[dict[str, Regressor | None], dict[str, Regressor | None]]] = {
    "equal components": ({c: boosting() for c in ALL}, {c: boosting() for c in ALL}),
    "another order": ({c: boosting() for c in ALL}, {c: boosting() for c in ALL[::-1]}),
    "one component": ({"platform": boosting()}, {"platform": boosting()}),
    "constant components": (
        {"package": boosting(), "core": None, "uncore": None, "dram": boosting()},
        {"package": boosting(), "core": boosting(), "uncore": None, "dram": None},
    ),
    "other numbers of trees": ({c: boosting(40) for c in ALL[:2]}, {c: boosting(7, 1) for c in ALL[:2]}),
    "many leaves": (
        {c: XGBRegressor(n_estimators=9, max_depth=5, n_jobs=1) for c in ALL[:2]},
        {c: XGBRegressor(n_estimators=12, max_depth=6, n_jobs=1) for c in ALL[:2]},
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("scales", ["equal scales", "other scales", "one other scale"])
def test_one_pass_predicts_what_the_model_and_the_twin_predict_alone(kind: str, scales: str) -> None:
    model, twin = PAIRS[kind]
    factors = {"equal scales": (1.0, 1.0, 1.0), "other scales": (1.1, 0.7, 1.3), "one other scale": (1.0, 1.0, 0.9)}
    scale = {name: SCALE[name] * factor for name, factor in zip(TWIN, factors[scales], strict=True)}
    checked = pair(files_of(FEATURES, model, SCALE), files_of(TWIN, twin, scale))
    assert checked.is_one_pass
    check_predictions(checked)


def test_corrections_of_the_model_and_of_the_twin_apply_in_one_pass() -> None:
    components = {"package": boosting(), "dram": boosting()}
    model = recalibrated(files_of(FEATURES, components, SCALE), {"package": Correction(1.25, -3.0)})
    twin = recalibrated(files_of(TWIN, components, SCALE), {"dram": Correction(0.5, 1.0)})
    checked = pair(model, twin)
    assert checked.is_one_pass
    check_predictions(checked)


def linear() -> Regressor:
    return LinearRegression()


DIFFERENT: dict[str, tuple[Callable[[], Regressor], Callable[[], Regressor]]] = {
    "few and many leaves": (boosting, lambda: XGBRegressor(n_estimators=20, max_depth=6, n_jobs=1)),
    "a linear model with a boosted twin": (linear, boosting),
    "a boosted model with a linear twin": (boosting, linear),
}


@pytest.mark.parametrize("kind", DIFFERENT)
@pytest.mark.parametrize("components", [ALL, ALL[:1]], ids=["four components", "one component"])
@pytest.mark.parametrize("factor", [1.0, 0.8], ids=["equal scales", "another scale"])
def test_models_of_different_kinds_predict_in_one_pass_what_they_predict_alone(
    kind: str, components: tuple[str, ...], factor: float
) -> None:
    own, other = DIFFERENT[kind]
    scale = {name: SCALE[name] * factor for name in TWIN}
    checked = pair(
        files_of(FEATURES, {c: own() for c in components}, SCALE),
        files_of(TWIN, {c: other() for c in reversed(components)}, scale),
    )
    assert checked.is_one_pass
    check_predictions(checked)


def test_models_of_several_kinds_of_predictors_are_evaluated_one_after_the_other() -> None:
    checked = pair(
        files_of(FEATURES, {"package": boosting(), "dram": linear()}, SCALE),
        files_of(TWIN, {"package": boosting(), "dram": boosting()}, SCALE),
    )
    assert not checked.is_one_pass
    check_predictions(checked)


def test_rows_in_which_the_two_disagree_get_the_watts_of_the_twin() -> None:
    components = {"package": boosting(), "dram": boosting()}
    checked = pair(files_of(FEATURES, components, SCALE), files_of(TWIN, components, SCALE))
    assert checked.twin is not None
    X = rows(60, 5)
    limit = float(np.median(differences(checked.model, checked.twin, X)[0]))
    limited = twinned(checked.model, checked.twin, Twin("Trees_0", "CounterOnly", {"package": limit}))
    answer = limited.watts(X, FEATURES)
    assert answer.disagrees.sum() == 30
    expected = np.where(answer.disagrees, checked.twin.watts(X, FEATURES), checked.model.watts(X, FEATURES))
    assert answer.watts.tolist() == expected.tolist()
