"""Tests of power models: predictions of models loaded with `resident=True`, columns in any order, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import ModelError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel

FEATURES = ["a", "b", "c"]
LINES: dict[str, Any] = {
    "package": {"type": "linear", "weights": {"a": 2.5, "c": 0.1}, "bias": 30.0},
    "dram": {"type": "linear", "weights": {"b": -4.0}, "bias": 7.0},
    "uncore": {"type": "linear", "weights": {"a": 1e30}, "bias": 0.0},
    "core": {"type": "curve", "curve": "logarithmic", "feature": "b", "weights": [3.0, 2.0, 1.0]},
}
CONSTANT = 1.25


def model(components: Mapping[str, Any], *, resident: bool) -> PowerModel:
    """Load a model. `components` maps each component to its weights, or to None if its watts are constant."""
    parts: dict[str, Any] = {}
    files = {"metadata.json": b'{"model_name":"Lines_0"}'}
    for name, weights in components.items():
        if weights is None:
            parts[name] = {"ceiling": 500.0, "constant": CONSTANT}
        else:
            parts[name] = {"ceiling": 500.0, "format": "weights", "file": f"{name}.json"}
            files[f"{name}.json"] = msgspec.json.encode(weights)
    layout = {"layout": 1, "features": FEATURES, "scale": [10.0, 100.0, 0.5], "components": parts}
    return load_model({**files, "model.json": msgspec.json.encode(layout)}, resident=resident)


_values = st.lists(st.lists(st.floats(0, 1e16), min_size=3, max_size=3), max_size=6)


@given(st.permutations(sorted(LINES)), st.integers(1, 4), st.sets(st.sampled_from(sorted(LINES))), _values)
def test_resident_models_predict_the_same(names: list[str], count: int, constant: set[str], values: Any) -> None:
    components = {name: None if name in constant else LINES[name] for name in names[:count]}
    X = np.array(values, dtype=np.float64).reshape(-1, 3)
    expected = model(components, resident=False).predict(X)
    resident = model(components, resident=True)
    watts = resident.watts(X)
    assert watts.shape == (count, len(X))
    for row, (name, power) in enumerate(resident.predict(X).items()):
        assert name == names[row]
        assert power.tolist() == watts[row].tolist()
        np.testing.assert_allclose(power, expected[name], rtol=1e-12, atol=1e-12)
        if name in constant:
            assert (power == CONSTANT).all()


def test_columns_in_any_order_with_extra_ones() -> None:
    resident = model(LINES, resident=True)
    X = np.random.default_rng(0).uniform(0, 100, (5, 3))
    expected = resident.watts(X).tolist()
    table = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "d": np.ones(5), **{f"x{n}": np.ones(5) for n in range(40)}}
    for seed in range(100):  # 100 orders of columns are more than a model keeps in its cache
        names = [str(name) for name in np.random.default_rng(seed).permutation(sorted(table))]
        for _ in range(2):
            assert resident.watts(np.column_stack([table[name] for name in names]), names).tolist() == expected


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["a", "b"], [[1, 2]], "needs c"),
        (["a", "b", "c", "a"], [[1, 2, 3, 4]], "'a' is given twice"),
        (["a", "b", "c"], [[1, 2]], "rows of 3 values"),
        (["a", "b", "c"], [[1, 2, float("nan")]], "NaN or infinite"),
        (["c", "b", "a"], [[1, 2, float("inf")]], "NaN or infinite"),
    ],
)
def test_wrong_features_and_values(names: list[str], values: Any, message: str) -> None:
    resident = model(LINES, resident=True)
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            resident.watts(values, names)
