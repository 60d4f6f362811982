"""Test that two fast predictors of tree ensembles give exactly the same predictions as ONNX Runtime.

The two predictors are step tables (look-up tables) and leaf masks (bit masks of the leaves that a row can reach).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lightgbm import LGBMRegressor
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBRegressor

from kepler_core.arrays import SingleArray
from kepler_core.errors import ModelError
from kepler_plugins.model_formats.cell_cache import CellCache
from kepler_plugins.model_formats.leaf_masks import MAX_LEAVES, LeafMasks, leaf_masks
from kepler_plugins.model_formats.onnx_checks import check_graph
from kepler_plugins.model_formats.onnx_graph import OnnxFormat, OnnxPredictor
from kepler_plugins.model_formats.onnx_reading import read_graph
from kepler_plugins.model_formats.row_masks import ResidentMasks
from kepler_plugins.model_formats.step_table import MAX_CELLS, JointStepTables, StepTable, step_table
from kepler_plugins.model_formats.tree_ensemble import read_trees

_FORMAT = OnnxFormat()
_REGRESSORS = {
    "GradientBoosting": lambda: GradientBoostingRegressor(n_estimators=60, random_state=1),
    "GradientBoosting, deep": lambda: GradientBoostingRegressor(n_estimators=15, max_depth=7, random_state=1),
    "one tree": lambda: GradientBoostingRegressor(n_estimators=1, random_state=1),
    "XGBoost": lambda: XGBRegressor(n_estimators=60, max_depth=4, random_state=1, n_jobs=1),
    "XGBoost, deep": lambda: XGBRegressor(n_estimators=15, max_depth=8, random_state=1, n_jobs=1),
    "LightGBM": lambda: LGBMRegressor(n_estimators=40, num_leaves=31, random_state=1, n_jobs=1, verbose=-1),
    "histogram trees": lambda: HistGradientBoostingRegressor(max_iter=30, random_state=1),
    "random forest": lambda: RandomForestRegressor(n_estimators=20, max_depth=5, random_state=1),
}


def rows(features: int, seed: int = 0) -> SingleArray:
    """Return random training rows. As with real counters, some values are repeated and some are 0."""
    random = np.random.default_rng(seed)
    X = random.gamma(2.0, 0.3, (300, features)).astype(np.float32)
    X[::7] = 0.0
    X[1::5] = np.round(X[1::5], 1)
    return X


def graph(regressor: Any, X: SingleArray) -> bytes:
    """Fit a regressor and return its ONNX graph."""
    y = 40 + 30 * np.sqrt(X[:, 0].astype(np.float64)) + X.sum(axis=1)
    regressor.fit(X.astype(np.float64), y)
    return _FORMAT.dump(regressor, [f"f{n}" for n in range(X.shape[1])], X)


_SMALL = graph(GradientBoostingRegressor(n_estimators=2, max_depth=2, random_state=1), rows(2))


@pytest.fixture(scope="module", params=[(name, n) for name in _REGRESSORS for n in (1, 2, 3, 6)], ids=str)
def tree(request: pytest.FixtureRequest) -> tuple[bytes, int]:
    """The ONNX graph of a tree ensemble, and its number of features."""
    name, features = request.param
    return graph(_REGRESSORS[name](), rows(features)), features


def critical_values(content: bytes, features: int) -> list[SingleArray]:
    """Return for each feature its thresholds, the next floats above and below them, and quite different values."""
    node = onnx.load_from_string(content).graph.node[0]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    splits = np.array([mode != b"LEAF" for mode in attributes["nodes_modes"]])
    of_feature = np.array(attributes["nodes_featureids"])
    values = np.array(attributes["nodes_values"], dtype=np.float32)
    critical = []
    for feature in range(features):
        thresholds = values[splits & (of_feature == feature)]
        below = np.nextafter(thresholds, np.float32(-np.inf))
        above = np.nextafter(thresholds, np.float32(np.inf))
        outside = np.array([0.0, -0.0, -1.0, 1e6, -1e6, np.finfo(np.float32).tiny, 1e-45], dtype=np.float32)
        critical.append(np.unique(np.concatenate([below, thresholds, above, outside])))
    return critical


def predictors_of(content: bytes, features: int) -> list[StepTable | LeafMasks]:
    """Return the predictors of the types `StepTable` and `LeafMasks` that can be made from a graph."""
    try:
        graph = read_graph(content)
        check_graph(graph)
    except ModelError:
        return []
    trees = read_trees(graph, features)
    if trees is None:
        return []
    return [predictor for predictor in (step_table(trees), leaf_masks(trees)) if predictor is not None]


def test_the_same_watts_at_the_thresholds_and_beside_them(tree: tuple[bytes, int]) -> None:
    content, features = tree
    predictors = predictors_of(content, features)
    assert predictors or most_leaves(content) > MAX_LEAVES
    runtime = OnnxPredictor(content, features)
    points = critical_values(content, features)
    assert len(points[0]) > 10
    random = np.random.default_rng(5)
    # Combine each value of one feature with random values of the other features, and add random combinations.
    one_by_one = [
        np.column_stack([points[f] if f == feature else random.choice(points[f], len(points[feature]))
                         for f in range(features)])
        for feature in range(features)
    ]  # fmt: skip
    mixed = np.column_stack([random.choice(of_feature, 20_000) for of_feature in points])
    X = np.concatenate([*one_by_one, mixed, rows(features, 9)]).astype(np.float32)
    expected = runtime.predict(X)
    for predictor in predictors:
        assert np.array_equal(predictor.predict(X), expected)
        for i in random.choice(len(X), 300, replace=False):
            assert predictor.predict(X[i : i + 1]).tolist() == [expected[i]]
        assert predictor.predict(X[:0]).shape == (0,)


def most_leaves(content: bytes) -> int:
    """Return the number of leaves of a graph's largest tree."""
    node = onnx.load_from_string(content).graph.node[0]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    leaf = np.array([mode == b"LEAF" for mode in attributes["nodes_modes"]])
    return int(np.bincount(np.array(attributes["nodes_treeids"])[leaf]).max())


def test_the_kind_of_a_resident_predictor(tree: tuple[bytes, int]) -> None:
    """The numbers of features and leaves determine the predictor that a server uses for a tree ensemble.

    With up to two features, it is a `StepTable`. With more features, it is `ResidentMasks`, or ONNX Runtime if a tree
    has too many leaves.
    """
    content, features = tree
    names = [f"f{n}" for n in range(features)]
    masks = [LeafMasks] if most_leaves(content) <= MAX_LEAVES else []
    assert [type(predictor) for predictor in predictors_of(content, features)] == [StepTable] * (features <= 2) + masks
    kind = StepTable if features <= 2 else ResidentMasks if masks else OnnxPredictor
    assert type(_FORMAT.load_resident(content, names)) is kind
    assert type(_FORMAT.load(content, names)) is OnnxPredictor


@pytest.mark.parametrize(
    "regressor",
    [
        KNeighborsRegressor(3),
        make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=5, random_state=1)),
    ],
    ids=["no trees", "a scaler before the trees"],
)
def test_other_graphs_have_no_table(regressor: Any) -> None:
    content = graph(regressor, rows(2))
    assert read_trees(read_graph(content), 2) is None
    runtime = OnnxPredictor(content, 2)
    resident = _FORMAT.load_resident(content, ["a", "b"])
    assert np.array_equal(resident.predict(rows(2, 3)), runtime.predict(rows(2, 3)))


def test_tables_and_masks_have_a_maximum_size() -> None:
    X = np.random.default_rng(0).uniform(0, 1, (6000, 2)).astype(np.float32)
    model = GradientBoostingRegressor(n_estimators=60, max_depth=9, random_state=1)
    model.fit(X.astype(np.float64), np.sin(40 * X[:, 0].astype(np.float64)) * np.cos(37 * X[:, 1]))
    content = _FORMAT.dump(model, ["a", "b"], X)
    splits = [
        {float(t) for e in model.estimators_ for t in e[0].tree_.threshold[e[0].tree_.feature == f]} for f in (0, 1)
    ]
    assert len(splits[0]) * len(splits[1]) > 2 * MAX_CELLS, "the example is too small to show it"
    trees = read_trees(read_graph(content), 2)
    assert trees is not None
    assert step_table(trees) is None
    assert leaf_masks(trees) is None


@given(st.integers(1, 2), st.data())
def test_joint_tables_predict_what_each_table_predicts(features: int, data: st.DataObject) -> None:
    """Several step tables that are evaluated together predict the same watts as each table alone.

    An edge is a feature value at which the watts of a table change. Several tables have the same edge. The test uses
    values on edges, between edges and beyond all edges.
    """
    edge_values = st.integers(-3, 3)
    tables = []
    for _ in range(data.draw(st.integers(1, 4))):
        edges = [
            np.array(sorted(data.draw(st.sets(edge_values, min_size=1))), dtype=np.float32) for _ in range(features)
        ]
        shape = (len(edges[0]) + 1, len(edges[1]) + 1 if features > 1 else 1)
        tables.append(StepTable(edges, np.random.default_rng(len(tables)).random(shape, dtype=np.float32)))
    grid = np.arange(-4.0, 4.5, 0.5, dtype=np.float32)
    X = np.stack(np.meshgrid(*[grid] * features), axis=-1).reshape(-1, features)
    watts = JointStepTables(tables).predict(X)
    assert watts.dtype == np.float64
    assert watts.tolist() == [table.predict(X).tolist() for table in tables]


def test_joint_masks_predict_what_each_ensemble_predicts() -> None:
    """Several ensembles that are evaluated together predict the same watts as each ensemble alone.

    They have different numbers of trees and leaves, and some ensembles do not use every feature.
    """
    names, X = ["a", "b", "c"], rows(3)
    small = [
        graph(GradientBoostingRegressor(n_estimators=n, max_depth=depth, random_state=1), X)
        for n, depth in ((30, 3), (1, 1), (7, 2))
    ]
    large = graph(XGBRegressor(n_estimators=9, max_depth=6, random_state=1, n_jobs=1), X)
    points = np.concatenate(
        [rows(3, 4), *(np.column_stack(critical_values(content, 3)[:1] * 3) for content in [*small, large])]
    )
    for contents in (small, [large, *small], [large], [large, large]):
        joint = _FORMAT.join([_FORMAT.load_resident(content, names) for content in contents])
        assert isinstance(joint, CellCache)
        for X in (points, points[:1], points[:128], points[:129]):
            watts = joint.predict(X)
            assert watts.dtype == np.float64
            assert watts.tolist() == [OnnxPredictor(content, 3).predict(X).tolist() for content in contents]


@pytest.mark.parametrize("leaves", [MAX_LEAVES, MAX_LEAVES + 1])
def test_trees_with_more_leaves_than_bits_have_no_masks(leaves: int) -> None:
    X = np.linspace(0, 1, 4 * leaves, dtype=np.float32)[:, None].repeat(3, axis=1)
    model = LGBMRegressor(n_estimators=2, num_leaves=leaves, min_child_samples=1, n_jobs=1, verbose=-1)
    model.fit(X.astype(np.float64), np.random.default_rng(1).random(len(X)))
    content = _FORMAT.dump(model, ["a", "b", "c"], X)
    predictors = predictors_of(content, 3)
    assert len(predictors) == (1 if leaves == MAX_LEAVES else 0)
    for predictor in predictors:
        assert np.array_equal(predictor.predict(X), OnnxPredictor(content, 3).predict(X))


def test_only_predictors_of_one_type_are_joined() -> None:
    X = rows(2)
    table = _FORMAT.load_resident(_SMALL, ["a", "b"])
    joint = _FORMAT.join([table, table])
    assert joint is not None
    assert joint.predict(X).tolist() == [OnnxPredictor(_SMALL, 2).predict(X).tolist()] * 2
    assert _FORMAT.join([table, _FORMAT.load(_SMALL, ["a", "b"])]) is None


def changed(content: bytes, **attributes: Any) -> bytes:
    """Return a graph in which `attributes` replace attributes of the tree ensemble. None removes an attribute."""
    model = onnx.load_from_string(content)
    (node,) = model.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items() if v is not None)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "attributes",
    [
        {"aggregate_function": "AVERAGE"},
        {"aggregate_function": "MIN"},
        {"aggregate_function": "MAX"},
        {"post_transform": "LOGISTIC"},
        {"post_transform": "SOFTMAX"},
        {"base_values": [3.25]},
        {"base_values": None},
        {"base_values": [1.0, 2.0]},
        {"n_targets": 2},
        {"nodes_modes": None},
        {"nodes_values": [1.0]},
        {"target_ids": None},
        {"target_weights": [1.0]},
        {"target_weights": None},
        {"target_nodeids": [2, 2, 5, 6, 2, 3, 5, 6]},
        {"target_nodeids": [2, 1, 5, 6, 2, 3, 5, 6]},
        {"target_treeids": [0, 0, 0, 0, 0, 1, 1, 1]},
        {"nodes_missing_value_tracks_true": None},
    ],
    ids=str,
)
def test_unusual_attributes_are_respected(attributes: dict[str, Any]) -> None:
    """If ONNX Runtime accepts a graph with unusual attributes, the other predictors must predict the same numbers."""
    content = changed(_SMALL, **attributes)
    X = np.array([[a, b] for a in (0.0, 0.1, 0.3, 1.0, 9.0) for b in (0.0, 0.1, 0.3, 1.0, 9.0)], dtype=np.float32)
    predictors = predictors_of(content, 2)
    try:
        expected = OnnxPredictor(content, 2).predict(X)
    except (ModelError, ValueError):
        return
    for predictor in predictors:
        assert np.array_equal(predictor.predict(X), expected)


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_NEQ"])
def test_every_mode_of_nodes(mode: str) -> None:
    model = onnx.load_from_string(_SMALL)
    (node,) = model.graph.node
    (modes,) = (a for a in node.attribute if a.name == "nodes_modes")
    (values,) = (a for a in node.attribute if a.name == "nodes_values")
    modes.strings[:] = [old if old == b"LEAF" else mode.encode() for old in modes.strings]
    content = bytes(model.SerializeToString())
    runtime, resident = OnnxPredictor(content, 2), _FORMAT.load_resident(content, ["a", "b"])
    thresholds = np.array(values.floats, dtype=np.float32)
    points = np.concatenate(
        [thresholds, np.nextafter(thresholds, np.float32(9)), np.nextafter(thresholds, -thresholds)]
    )
    X = np.array([[a, b] for a in points for b in points], dtype=np.float32)
    assert np.array_equal(resident.predict(X), runtime.predict(X))
    assert isinstance(resident, StepTable) or mode not in ("BRANCH_LEQ", "BRANCH_LT")


def test_malformed_graphs_are_an_error() -> None:
    for content in (b"", b"not a graph", bytes(100)):
        with pytest.raises(ModelError):
            _FORMAT.load_resident(content, ["a"])


# --- arbitrary bytes instead of an ONNX graph ---


def check_predictors(content: bytes, features: int) -> None:
    """Check that each predictor made from `content`, which may be any bytes, returns one number for each row."""
    for predictor in predictors_of(content, features):
        assert predictor.predict(np.ones((4, features), dtype=np.float32)).shape == (4,)


@given(st.binary(max_size=300), st.integers(0, 4))
@example(b"", 1)
@example(b"\x3a\x02\x0a\x00", 1)
@example(b"\xff" * 20, 2)
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 2)
def test_arbitrary_bytes_as_a_graph(content: bytes, features: int) -> None:
    check_predictors(content, features)


@given(st.data())
def test_a_graph_with_bytes_changed_or_cut(data: st.DataObject) -> None:
    content = bytearray(_SMALL)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=6)):
        content[at] = value
    end = data.draw(st.none() | st.integers(0, len(content)))
    check_predictors(bytes(content[:end]), data.draw(st.integers(1, 3)))


def test_every_byte_of_a_graph_changed() -> None:
    for at in range(len(_SMALL)):
        for change in (0x01, 0x80):
            content = bytearray(_SMALL)
            content[at] ^= change
            check_predictors(bytes(content), 2)
