"""Tests of blends, which are models that combine several tree ensembles.

A stored blend predicts the same numbers as the fitted blend. Damaged files raise `ModelError`.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.arrays import SingleArray
from kepler_core.errors import ModelError
from kepler_core.testing.samples import FEATURES, fit_task, load_and_power
from kepler_plugins.model_formats.blend import MAX_GROUPS, BlendFormat, JointBlend
from kepler_plugins.model_formats.leaf_masks import LeafMasks, leaf_masks
from kepler_plugins.model_formats.stored_trees import MAX_NODES, FittedTree, decode, encode
from kepler_plugins.trainers.blend import BlendRegressor, BlendTrainer

_FORMAT = BlendFormat()
SCALE = (2e8, 5e10, 8e10)


@functools.cache
def fitted(output_type: Any = "AbsPower", seed: int = 0) -> tuple[BlendRegressor, SingleArray]:
    """Return a small fitted blend of tree ensembles, and rows inside and outside of its training range."""
    X, y = load_and_power(300, seed=seed)
    single = X.astype(np.float32)
    task = fit_task(scale=SCALE, output_type=output_type)
    regressor: Any = BlendTrainer(boosted_trees=20, extra_trees=12).regressor(task)
    regressor.fit(single.astype(np.float64), y)
    outside = np.random.default_rng(2).gamma(1.0, 1.0, (200, 3)).astype(np.float32)
    return regressor, np.vstack([single, outside, np.zeros((1, 3), dtype=np.float32)])


@functools.cache
def content() -> bytes:
    regressor, X = fitted()
    return _FORMAT.dump(regressor, FEATURES, X)


def changed(**members: Any) -> bytes:
    """Return the file of a blend (model of several tree ensembles) with changed `members` of its JSON object."""
    return msgspec.json.encode({**msgspec.json.decode(content()), **members})


def changed_ensemble(**members: Any) -> bytes:
    """Return the file of a blend (model of several tree ensembles) with changed `members` of its first ensemble."""
    first, *others = msgspec.json.decode(content())["ensembles"]
    return changed(ensembles=[{**first, **members}, *others])


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_a_stored_blend_predicts_what_the_fitted_one_predicts(output_type: str) -> None:
    regressor, X = fitted(output_type)
    predictor = _FORMAT.load(_FORMAT.dump(regressor, FEATURES, X), FEATURES)
    expected = regressor.predict(X.astype(np.float64))
    np.testing.assert_allclose(predictor.predict(X), expected, atol=1e-3)
    alone = np.concatenate([predictor.predict(row[None]) for row in X[:40]])
    np.testing.assert_allclose(alone, expected[:40], atol=1e-3)
    assert predictor.predict(X[:0]).shape == (0,)


def test_each_ensemble_predicts_what_scikit_learn_predicts() -> None:
    regressor, X = fitted()
    columns = regressor._columns(X.astype(np.float64))
    single = columns.astype(np.float32)
    originals = (
        regressor.mean_ + regressor.boosting_.predict(columns),
        regressor.rising_boosting_.predict(columns),
        regressor.extra_trees_.predict(columns),
        regressor.residual_boosting_.predict(columns),
        regressor.residual_trees_.predict(columns),
    )
    stored = regressor.blend(FEATURES).ensembles
    for ensemble, expected in zip(stored, originals, strict=True):
        groups = list(decode(ensemble.features, ensemble.numbers, columns.shape[1], ensemble.base, 8))
        assert len(groups) > 1
        watts = sum(evaluator.predict(single) for trees in groups if (evaluator := leaf_masks(trees)) is not None)
        np.testing.assert_allclose(watts, expected, atol=1e-3)


def test_joined_blends_predict_what_each_predicts() -> None:
    contents = [_FORMAT.dump(*_arguments(seed)) for seed in (0, 3)]
    predictors = [_FORMAT.load_resident(one, FEATURES) for one in contents]
    joint = _FORMAT.join(predictors)
    assert isinstance(joint, JointBlend)
    _, X = fitted()
    np.testing.assert_allclose(joint.predict(X), [predictor.predict(X) for predictor in predictors], rtol=1e-9)
    np.testing.assert_allclose(joint.predict(X[:1]), [predictor.predict(X[:1]) for predictor in predictors], rtol=1e-9)


def _arguments(seed: int) -> tuple[BlendRegressor, tuple[str, ...], SingleArray]:
    regressor, X = fitted(seed=seed)
    return regressor, FEATURES, X


def test_blends_with_different_ratios_are_not_joined() -> None:
    other = _FORMAT.load(content(), FEATURES)
    ratio, *others = msgspec.json.decode(content())["ratios"]
    different = _FORMAT.load(changed(ratios=[{**ratio, "top_scale": 7.0}, *others]), FEATURES)
    assert _FORMAT.join([other, different]) is None


def test_a_blend_is_evaluated_without_onnxruntime_and_scikit_learn(tmp_path: Any) -> None:
    file = tmp_path / "package.json"
    file.write_bytes(content())
    code = (
        "import sys, pathlib, numpy as np\n"
        "from kepler_plugins.model_formats.blend import BlendFormat\n"
        f"model = BlendFormat().load_resident(pathlib.Path(sys.argv[1]).read_bytes(), {list(FEATURES)!r})\n"
        "model.predict(np.ones((2, 3), dtype=np.float32))\n"
        "print(sorted({'onnxruntime', 'sklearn', 'scipy', 'pandas'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_work_raises_the_power_of_the_rising_part() -> None:
    regressor, X = fitted()
    columns = regressor._columns(X.astype(np.float64))
    more = columns.copy()
    more[:, 1] *= 1.2
    assert (regressor.rising_boosting_.predict(more) >= regressor.rising_boosting_.predict(columns)).all()


def tree(leaves: int) -> FittedTree:
    """Return a tree in which each inner node has a leaf as its left child."""
    inner = leaves - 1
    ids = np.arange(2 * leaves - 1)
    is_leaf = ids >= inner
    right = np.where(ids + 1 < inner, ids + 1, len(ids) - 1)
    return FittedTree(
        left=ids + inner,
        right=right,
        is_leaf=is_leaf,
        feature=np.zeros(len(ids), dtype=np.int64),
        threshold=ids.astype(np.float32),
        value=ids.astype(np.float64),
    )


@pytest.mark.parametrize("leaves", [1, 2, 64])
def test_trees_of_all_sizes_are_decoded(leaves: int) -> None:
    trees = [tree(leaves), tree(1), tree(leaves)]
    (group,) = decode(*encode(trees), 1, 2.0, 50)
    masks = leaf_masks(group)
    assert isinstance(masks, LeafMasks)
    rows = np.array([[-1.0], [0.0], [0.5], [1e9]], dtype=np.float32)
    expected = [2 * (leaves - 1 + min(max(int(np.ceil(x)), 0), leaves - 1)) + 2.0 for x in rows[:, 0]]
    assert masks.predict(rows).tolist() == expected


_TOO_LARGE = dict(zip(("features", "numbers"), encode([tree(65)]), strict=True))
_NAN = dict(zip(("features", "numbers"), (b"\xff", np.array([np.nan], "<f4").tobytes()), strict=True))
_LONG = {"features": b"\xff" * (MAX_NODES + 1), "numbers": bytes(4 * MAX_NODES + 4)}
_MANY = dict(zip(("features", "numbers"), encode([tree(1)] * (50 * MAX_GROUPS + 1)), strict=True))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"\x80\x04.",
        lambda: content()[:-5],
        lambda: changed(layout=2),
        lambda: changed(features=["cpu_cycles"]),
        lambda: changed(features=[*FEATURES, "cpu_cycles"]),
        lambda: changed(unheard_of=1),
        lambda: changed(ensembles=[]),
        lambda: changed(ratios=[{"top": "x", "bottom": "cpu_cycles", "top_scale": 1.0, "bottom_scale": 1.0}]),
        lambda: changed(ratios=[{"top": "cpu_cycles", "bottom": "cache_miss", "top_scale": 0, "bottom_scale": 1.0}]),
        lambda: changed(ratios=[]),
        lambda: changed(physical={"factor": 0.25, "terms": {"x": [0, 0, 0]}, "bias": 0.0, "highest": 1.0}),
        lambda: changed(physical={"factor": 0.25, "terms": {}, "bias": 1e30, "highest": 1.0}),
        lambda: changed(physical={"factor": 2.0, "terms": {}, "bias": 0.0, "highest": 1.0}),
        lambda: changed_ensemble(factor=-1.0),
        lambda: changed_ensemble(base=1e300),
        lambda: changed_ensemble(features="////"),
        lambda: changed_ensemble(features="", numbers=""),
        lambda: changed_ensemble(features="not base64!"),
        lambda: changed_ensemble(**_encoded(_TOO_LARGE)),
        lambda: changed_ensemble(**_encoded(_NAN)),
        lambda: changed_ensemble(**_encoded(_MANY)),
        lambda: changed_ensemble(**_encoded({"features": b"\x00\xff", "numbers": bytes(8)})),
        lambda: changed_ensemble(**_encoded({"features": b"\x63\xff\xff", "numbers": bytes(12)})),
        lambda: changed_ensemble(**_encoded({"features": b"\xfe\xff\xff", "numbers": bytes(12)})),
        lambda: changed_ensemble(**_encoded(_LONG)),
    ],
)  # fmt: skip
def test_a_damaged_blend_is_an_error(damaged: Any) -> None:
    with pytest.raises(ModelError):
        _FORMAT.load(damaged() if callable(damaged) else damaged, FEATURES)


def _encoded(members: dict[str, bytes]) -> dict[str, Any]:
    return dict(msgspec.json.decode(msgspec.json.encode(members)))


@given(st.binary(max_size=40).map(lambda text: bytes(byte % 4 - 1 & 255 for byte in text)), st.integers(0, 2**32 - 1))
def test_arbitrary_nodes_are_an_error_or_trees_that_end(features: bytes, seed: int) -> None:
    numbers = np.random.default_rng(seed).normal(0, 10, len(features)).astype("<f4").tobytes()
    X = np.random.default_rng(seed).normal(0, 10, (5, 3)).astype(np.float32)
    try:
        groups = list(decode(features, numbers, 3, 1.0, 4))
    except ModelError:
        return
    # each tree has one leaf more than it has inner nodes
    assert sum(len(group.roots) for group in groups) == 2 * features.count(255) - len(features)
    for group in groups:
        masks = leaf_masks(group)
        assert masks is not None
        assert np.isfinite(masks.predict(X)).all()


@given(st.data())
def test_a_blend_with_changed_bytes_is_an_error_or_predicts(data: st.DataObject) -> None:
    damaged = bytearray(content())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        predictor = _FORMAT.load(bytes(damaged), FEATURES)
    except ModelError:
        return
    assert np.isfinite(predictor.predict(np.ones((2, 3), dtype=np.float32))).all()
