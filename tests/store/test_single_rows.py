"""A row gets exactly the same answer alone, with a second row, and as one of many rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from xgboost import XGBRegressor

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Regressor
from kepler_core.errors import ModelError
from kepler_core.honesty.document import Twin
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import FEATURE_LIMIT
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.models.twins import CheckedWatts, TwinnedModel, twinned
from kepler_core.plugins import registry

FEATURES = ("bpf_cpu_time_ms", "cache_miss", "cpu_cycles", "cpu_instructions", "task_clock_ms")
SCALE = dict(zip(FEATURES, (3.2e4, 2e8, 5e10, 8e10, 7.0), strict=True))
COUNTERS = ("cache_miss", "cpu_cycles", "cpu_instructions")
HIGHEST = 1e16
"""The estimator accepts no feature values above this number."""

LIMIT_WATTS = 40.0


def linear() -> Regressor:
    return LinearRegression()


def boosting() -> Regressor:
    return GradientBoostingRegressor(n_estimators=30, max_depth=3, random_state=1)


def deep() -> Regressor:
    return XGBRegressor(n_estimators=9, max_depth=6, n_jobs=1)


def files_of(
    features: Sequence[str], regressors: Mapping[str, Callable[[], Regressor] | None], factor: float = 1.0
) -> dict[str, bytes]:
    """Fit a model and return its files. None as a regressor gives constant watts. `factor` multiplies the scales."""
    scale = [SCALE[name] * factor for name in features]
    X = np.random.default_rng(3).uniform(0.1, 1.0, (200, len(features))).astype(np.float32)
    files: dict[str, bytes] = {}
    parts: dict[str, Any] = {}
    for number, (component, regressor) in enumerate(regressors.items()):
        if regressor is None:
            parts[component] = {"ceiling": 9.0, "constant": 3.5}
            continue
        power = 10 * (number + 1) + (20 + number) * np.sqrt(X).sum(axis=1) * (1 + X[:, 0])
        fitted: Any = regressor()
        fitted.fit(X.astype(np.float64), power)
        name = "weights" if regressor is linear else "onnx"
        model_format = registry.model_formats.create(name)
        file = component + model_format.suffix
        parts[component] = {"ceiling": float(power.max()) * 1.2, "format": name, "file": file}
        if component == "dram" and regressor is linear and "cache_miss" in features:
            parts[component] |= {"proportional_to": "cache_miss", "ceiling": float(power.max()) * 3.0}
        files[file] = model_format.dump(fitted, list(features), X)
    layout = {
        "layout": 1,
        "features": list(features),
        "scale": scale,
        "components": parts,
        "lowest": [0.1 * value for value in scale],
    }
    metadata = {"model_name": "Model_0", "feature_group": "CounterOnly"}
    return {**files, "model.json": msgspec.json.encode(layout), "metadata.json": msgspec.json.encode(metadata)}


ALL = ("package", "core", "uncore", "dram")
Factory = Callable[[], Regressor] | None


def of(factory: Factory, components: Sequence[str] = ALL) -> dict[str, Factory]:
    return dict.fromkeys(components, factory)


PAIRS: dict[str, tuple[tuple[str, ...], dict[str, Factory], dict[str, Factory] | None, float]] = {
    "linear": (FEATURES, of(linear), None, 1.0),
    "linear, one component": (FEATURES, of(linear, ["platform"]), None, 1.0),
    "boosted": (FEATURES, of(boosting), None, 1.0),
    "boosted, one component": (FEATURES, of(boosting, ["platform"]), None, 1.0),
    "boosted, two features": (FEATURES[:2], of(boosting), None, 1.0),
    "boosted, one feature": (FEATURES[2:3], of(boosting), None, 1.0),
    "many leaves": (FEATURES, of(deep, ["package", "dram"]), None, 1.0),
    "several kinds": (FEATURES, {"package": boosting, "core": None, "dram": linear}, None, 1.0),
    "linear with a boosted twin": (FEATURES, of(linear), of(boosting, ALL[::-1]), 1.0),
    "linear with a boosted twin of other scales": (FEATURES, of(linear), of(boosting), 0.8),
    "linear with a linear twin": (FEATURES, of(linear), of(linear), 1.0),
    "boosted with a linear twin": (FEATURES, of(boosting), of(linear), 1.0),
    "boosted with a boosted twin": (FEATURES, of(boosting), of(boosting), 1.0),
    "boosted with a boosted twin of other scales": (FEATURES, of(boosting), of(boosting), 1.3),
    "few and many leaves": (FEATURES, of(boosting, ["package"]), of(deep, ["package"]), 1.0),
}


@cache
def model(kind: str, corrections: bool = False) -> TwinnedModel:
    """Load a model and its twin as the estimator does. They disagree if a component differs by over `LIMIT_WATTS`."""
    features, own, other, factor = PAIRS[kind]
    files = files_of(features, own)
    if corrections:
        files = dict(recalibrated(files, {next(iter(own)): Correction(1.25, -40.0)}))
    loaded = load_model(files, resident=True)
    if other is None:
        return TwinnedModel(loaded)
    twin = load_model(files_of(COUNTERS, other, factor), resident=True)
    return twinned(loaded, twin, Twin("Model_0", "CounterOnly", dict.fromkeys(own, LIMIT_WATTS)))


def rows(features: Sequence[str], count: int) -> FloatArray:
    """Return rows inside and outside of the training range, and rows at the ends of the range and other limits."""
    random = np.random.default_rng(count)
    usual = random.uniform(0.15, 1.0, (count, len(features)))
    wide = random.gamma(1.0, 0.8, (count, len(features)))
    ends = random.choice([0.0, 0.1, 0.05, 1.0, FEATURE_LIMIT, 1.1, 3.0, 3.1, 1e9], (count, len(features)))
    return np.vstack([usual, wide, ends]) * [SCALE[name] for name in features]


def check_answers(checked: TwinnedModel, X: FloatArray, names: Sequence[str]) -> None:
    together = checked.watts(X, names)
    for step in (1, 2):
        for start in range(0, len(X), step):
            few = slice(start, start + step)
            assert as_lists(checked.watts(X[few], names)) == as_lists(together, few)


def as_lists(answer: CheckedWatts, few: slice = slice(None)) -> dict[str, Any]:
    difference = answer.difference
    return {
        "watts": answer.watts[:, few].tolist(),
        "outside": answer.outside[few].tolist(),
        "disagrees": answer.disagrees[few].tolist(),
        "difference": None if difference is None else difference[:, few].tolist(),
    }


@pytest.mark.parametrize("corrections", [False, True], ids=["as trained", "recalibrated"])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_row_gets_the_same_answer_alone_and_with_others(kind: str, corrections: bool) -> None:
    checked = model(kind, corrections)
    assert checked.predicts_single_rows
    features = checked.model.features
    check_answers(checked, rows(features, 40), features)
    shuffled = [*features[::-1], "bpf_page_cache_hit"]
    values = rows(features, 12)[:, ::-1]
    check_answers(checked, np.hstack([values, np.full((len(values), 1), 7.0)]), shuffled)


def test_the_rows_of_these_tests_reach_all_cases() -> None:
    checked = model("linear with a boosted twin")
    answer = checked.watts(rows(FEATURES, 40))
    assert 0 < answer.outside.sum() < len(answer.outside)
    assert 0 < answer.disagrees.sum() < len(answer.disagrees)
    dram = model("linear").watts(rows(FEATURES, 40)).watts[3]
    lower = rows(FEATURES, 40)
    np.minimum(lower[:, 1], FEATURE_LIMIT * SCALE["cache_miss"], out=lower[:, 1])
    assert (dram != model("linear").watts(lower).watts[3]).any(), "no row with more cache misses than the limit"


values = st.floats(0.0, HIGHEST) | st.sampled_from(
    [factor * scale for scale in SCALE.values() for factor in (0.0, 0.1, 1.0, FEATURE_LIMIT, 3.0)]
)


@given(
    st.lists(st.tuples(*[values] * len(FEATURES)), min_size=3, max_size=6),
    st.sampled_from([kind for kind, (features, *_) in PAIRS.items() if features == FEATURES]),
)
def test_any_row_gets_the_same_answer_alone_and_with_others(few: list[tuple[float, ...]], kind: str) -> None:
    check_answers(model(kind), np.array(few), FEATURES)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_single_row_that_is_not_finite_is_an_error(wrong: float) -> None:
    X = np.array([[wrong, *(SCALE[name] / 2 for name in FEATURES[1:])]])
    with pytest.raises(ModelError, match="a feature is NaN or infinite"):
        model("linear with a boosted twin").watts(X)


def test_a_single_row_without_a_feature_is_an_error() -> None:
    checked = model("linear with a boosted twin")
    with pytest.raises(ModelError, match="needs task_clock_ms"):
        checked.watts(np.ones((1, 4)), FEATURES[:4])
    with pytest.raises(ModelError, match="'cache_miss' is given twice"):
        checked.watts(np.ones((1, 6)), (*FEATURES, "cache_miss"))
    with pytest.raises(ModelError, match="expected rows of 5 values"):
        checked.watts(np.ones((1, 4)))


def test_a_single_number_is_an_error() -> None:
    with pytest.raises(ModelError):
        model("linear with a boosted twin").watts(np.array(5.0))


def test_a_failing_function_for_single_rows_is_not_needed() -> None:
    """If a third-party regressor's function for single rows fails, its function for arrays of rows is used."""

    class Failing:
        def watts(self, row: list[float]) -> None:
            raise OverflowError("math range error")

    checked = TwinnedModel(load_model(files_of(FEATURES, of(linear)), resident=True))
    X = rows(FEATURES, 1)[:1]
    expected = checked.watts(X).watts
    object.__setattr__(checked, "_row_evaluator", Failing())
    assert checked.watts(X).watts.tolist() == expected.tolist()


def test_models_of_onnx_runtime_answer_single_rows_too() -> None:
    """If trees have too many leaves, the model has no fast function for single rows, and ONNX Runtime is used."""
    files = files_of(FEATURES, {"package": lambda: GradientBoostingRegressor(n_estimators=2, max_depth=12)})
    checked = TwinnedModel(load_model(files, resident=True))
    assert not checked.predicts_single_rows
    X = rows(FEATURES, 4)
    assert checked.watts(X[:1]).watts.tolist() == checked.model.watts(X)[:, :1].tolist()
