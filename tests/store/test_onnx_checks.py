"""Test that untrusted ONNX graphs are accepted only if they do nothing except calculate, in little memory and time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import HuberRegressor, LinearRegression, QuantileRegressor, RidgeCV, TweedieRegressor
from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, PowerTransformer, RobustScaler, StandardScaler
from sklearn.svm import SVR, LinearSVR, NuSVR
from sklearn.tree import DecisionTreeRegressor
from support.paths import SHARED

from kepler_core.errors import ModelError
from kepler_plugins.model_formats.onnx_checks import MAX_NODES, OPERATORS, check_graph
from kepler_plugins.model_formats.onnx_graph import MAX_MEMORY_BYTES, OnnxFormat, OnnxPredictor
from kepler_plugins.model_formats.onnx_reading import read_graph

X_INPUT = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])
FEATURES = ["a", "b"]
REGRESSORS = {
    "ada boost": AdaBoostRegressor(n_estimators=10, random_state=1),
    "bagging": BaggingRegressor(n_estimators=3, random_state=1),
    "extra trees": ExtraTreesRegressor(n_estimators=5, random_state=1),
    "gaussian process": GaussianProcessRegressor(),
    "gradient boosting": GradientBoostingRegressor(n_estimators=5, random_state=1),
    "histogram trees": HistGradientBoostingRegressor(max_iter=5, random_state=1),
    "huber": HuberRegressor(),
    "linear support vectors": LinearSVR(random_state=1),
    "linear": LinearRegression(),
    "logistic network": MLPRegressor(hidden_layer_sizes=[4], activation="logistic", max_iter=20, random_state=1),
    "nearest neighbours": KNeighborsRegressor(3),
    "network": MLPRegressor(hidden_layer_sizes=[4], max_iter=20, random_state=1),
    "neighbours in a radius": RadiusNeighborsRegressor(5.0),
    "nu support vectors": NuSVR(),
    "polynomial": make_pipeline(PolynomialFeatures(2), RidgeCV()),
    "power transformer": make_pipeline(PowerTransformer(), LinearRegression()),
    "quantile": QuantileRegressor(),
    "random forest": RandomForestRegressor(n_estimators=5, random_state=1),
    "robust scaler": make_pipeline(RobustScaler(), MinMaxScaler(clip=True), LinearRegression()),
    "scaled neighbours": make_pipeline(StandardScaler(), KNeighborsRegressor(3)),
    "stacking": StackingRegressor([("tree", DecisionTreeRegressor(random_state=1)), ("linear", LinearRegression())]),
    "support vectors": SVR(),
    "tanh network": MLPRegressor(hidden_layer_sizes=[4], activation="tanh", max_iter=20, random_state=1),
    "tweedie": TweedieRegressor(power=0),
    "voting": VotingRegressor([("tree", DecisionTreeRegressor(random_state=1)), ("linear", LinearRegression())]),
}


def model(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Return an ONNX model with the nodes `nodes`, the input X (two columns) and the output Y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [X_INPUT],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)])
    made.ir_version = 8
    return made


def row_sum(name: str = "Y") -> onnx.NodeProto:
    return helper.make_node("ReduceSum", ["X", "columns"], [name], keepdims=1)


def trees(**changes: Any) -> bytes:
    """Return an ONNX model of one tree with two leaves. `changes` replaces attributes of its tree ensemble."""
    attributes: dict[str, Any] = {
        "n_targets": 1,
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [10.0, 20.0],
        **changes,
    }
    node = helper.make_node("TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", **attributes)
    return bytes(model(node).SerializeToString())


def refusal(content: bytes) -> str:
    """Return the message of the error with which `load` and `load_resident` refuse a graph. It must be one line."""
    messages = set()
    for load in (OnnxFormat().load, OnnxFormat().load_resident):
        with pytest.raises(ModelError) as caught:
            load(content, FEATURES)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", REGRESSORS)
def test_what_the_converters_write_is_accepted(name: str) -> None:
    random = np.random.default_rng(1)
    X = random.uniform(0, 1, (60, 2)).astype(np.float32)
    regressor = REGRESSORS[name].fit(X.astype(np.float64), 40 + 30 * X[:, 0] + X[:, 1] ** 2)
    content = OnnxFormat().dump(regressor, FEATURES, X)
    predicted = OnnxFormat().load(content, FEATURES).predict(X)
    np.testing.assert_allclose(predicted, regressor.predict(X.astype(np.float64)), rtol=1e-3)


def test_a_loop_is_refused() -> None:
    """A graph with a loop is refused, because 10^12 iterations would block the estimator's only thread."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"])],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("going", TensorProto.BOOL, [])],
    )
    loop = helper.make_node("Loop", ["trips", ""], [], body=body)
    content = model(loop, row_sum(), trips=np.int64(10**12), columns=np.array([1])).SerializeToString()
    assert "an attribute has field 6 of onnx.proto, which is not supported" in refusal(content)


@pytest.mark.parametrize(
    ("operator", "domain"), [("Loop", ""), ("RandomNormal", ""), ("StringNormalizer", ""), ("Inverse", "com.microsoft")]
)
def test_other_operators_are_refused(operator: str, domain: str) -> None:
    message = refusal(model(helper.make_node(operator, ["X"], ["Y"], domain=domain)).SerializeToString())
    assert operator in message
    assert "is not supported" in message


def test_operators_of_another_domain_are_refused() -> None:
    content = model(helper.make_node("Identity", ["X"], ["Y"]))
    content.opset_import.append(helper.make_opsetid("my.domain", 1))
    assert "the domain 'my.domain' are not supported" in refusal(content.SerializeToString())


def test_data_in_another_file_is_refused(tmp_path: Path) -> None:
    content = model(helper.make_node("Add", ["X", "secret"], ["Y"]), secret=np.zeros((1, 2), np.float32))
    (tensor,) = content.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="etc/shadow")
    assert "a tensor has field 1" in refusal(content.SerializeToString())


def test_functions_are_refused() -> None:
    content = model(helper.make_node("Identity", ["X"], ["Y"]))
    content.functions.append(
        helper.make_function("", "Identity", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [])
    )
    assert "the model has field 25" in refusal(content.SerializeToString())


def test_two_graphs_in_one_model_are_refused() -> None:
    """A model file with two graphs is refused: Protobuf would merge them, so a check of one graph is not enough."""
    harmless = model(helper.make_node("Identity", ["X"], ["Y"])).SerializeToString()
    other = onnx.ModelProto()
    other.graph.node.append(helper.make_node("Loop", [], []))
    assert "the model has field 7 of onnx.proto twice" in refusal(harmless + other.SerializeToString())


def test_a_tensor_of_more_elements_than_bytes_is_refused() -> None:
    content = model(helper.make_node("Add", ["X", "c"], ["Y"]), c=np.zeros((1, 2), np.float32))
    content.graph.initializer[0].dims[:] = [2**40, 2**40]
    assert "a tensor states" in refusal(content.SerializeToString())


def test_too_many_nodes_are_refused() -> None:
    nodes = [helper.make_node("Identity", [f"v{n}" if n else "X"], [f"v{n + 1}"]) for n in range(MAX_NODES)]
    content = model(*nodes, helper.make_node("Identity", [f"v{MAX_NODES}"], ["Y"])).SerializeToString()
    assert f"{MAX_NODES + 1} nodes" in refusal(content)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nodes_truenodeids": [2, 0, 0]}, "a node with two parents"),
        ({"nodes_truenodeids": [0, 0, 0]}, "tree nodes that no root reaches"),
        ({"nodes_treeids": [0, 0, 1]}, "a child node is missing"),
        ({"nodes_truenodeids": [7, 0, 0]}, "a child node is missing"),
        ({"nodes_nodeids": [0, 1, 1]}, "two nodes with the same number in a tree"),
        ({"nodes_nodeids": [0, 1]}, "attributes with lists of different lengths"),
        ({"nodes_nodeids": [-1, 1, 2]}, "nodes_nodeids outside of 0 to"),
        ({"nodes_featureids": [-1, 0, 0]}, "nodes_featureids outside of 0 to"),
        ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAFY"]}, "a tree node with an unknown kind of split"),
        ({"target_ids": [0, 1]}, "trees with more than one target"),
        ({"n_targets": 2}, "trees with more than one target"),
        (
            {
                "nodes_treeids": [0] * 6,
                "nodes_nodeids": [0, 1, 2, 3, 4, 5],
                "nodes_featureids": [0] * 6,
                "nodes_values": [0.5] * 6,
                "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
                "nodes_truenodeids": [1, 0, 0, 4, 3, 0],
                "nodes_falsenodeids": [2, 0, 0, 5, 5, 0],
            },
            "a node with two parents",
        ),
    ],
)
def test_ensembles_that_are_no_trees_are_refused(changes: dict[str, Any], reason: str) -> None:
    assert f"damaged TreeEnsembleRegressor: {reason}" in refusal(trees(**changes))


def test_the_unchanged_ensemble_is_accepted() -> None:
    X = np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    for load in (OnnxFormat().load, OnnxFormat().load_resident):
        assert load(trees(), FEATURES).predict(X).tolist() == [10.0, 20.0]


def test_a_feature_that_the_input_lacks_is_an_error() -> None:
    with pytest.raises(ModelError):
        OnnxPredictor(trees(nodes_featureids=[2, 0, 0]), 2)


def test_nodes_that_share_children_are_refused_at_once() -> None:
    """Nodes that share a child are refused quickly, although forty levels of such nodes have 2^40 paths."""
    levels = 40
    ids = list(range(levels + 1))
    changes: dict[str, Any] = {
        "nodes_treeids": [0] * (levels + 1),
        "nodes_nodeids": ids,
        "nodes_featureids": [0] * (levels + 1),
        "nodes_values": [0.5] * (levels + 1),
        "nodes_modes": ["BRANCH_LEQ"] * levels + ["LEAF"],
        "nodes_truenodeids": [*ids[1:], 0],
        "nodes_falsenodeids": [*ids[1:], 0],
        "target_treeids": [0],
        "target_nodeids": [levels],
        "target_ids": [0],
        "target_weights": [10.0],
    }
    assert "a node with two parents" in refusal(trees(**changes))


def test_support_vectors_without_coefficients_are_refused() -> None:
    node = helper.make_node(
        "SVMRegressor",
        ["X"],
        ["Y"],
        domain="ai.onnx.ml",
        kernel_type="RBF",
        kernel_params=[0.5, 0.0, 3.0],
        n_supports=1000,
        rho=[0.0],
        coefficients=[1.0],
        support_vectors=[0.0] * 2000,
    )
    assert "the numbers of coefficients and of support vectors differ" in refusal(model(node).SerializeToString())


GREEDY = {
    "constant of shape": lambda: model(
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        row_sum("sum"),
        helper.make_node("Add", ["sum", "zero"], ["Y"]),
        n=np.array([500_000_000]),
        columns=np.array([1]),
    ),
    "column plus row": lambda: model(
        helper.make_node("Add", ["column", "row"], ["matrix"]),
        helper.make_node("ReduceSum", ["matrix"], ["zero"], keepdims=0),
        row_sum("sum"),
        helper.make_node("Add", ["sum", "zero"], ["Y"]),
        column=np.zeros((20_000, 1), np.float32),
        row=np.zeros((1, 20_000), np.float32),
        columns=np.array([1]),
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_graph_cannot_fill_the_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "greedy.onnx"
    path.write_bytes(GREEDY[name]().SerializeToString())
    script = f"""
import resource, sys
from kepler_core.errors import ModelError
from kepler_plugins.model_formats.onnx_graph import OnnxPredictor
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    OnnxPredictor(open({str(path)!r}, "rb").read(), 2)
except ModelError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    message, growth = result.stdout.splitlines()
    assert message.startswith("the graph cannot be evaluated: ")
    assert int(growth) < MAX_MEMORY_BYTES + 60 * 2**20
    assert result.stderr == ""


def test_a_graph_cannot_take_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kepler_plugins.model_formats.onnx_graph._TRIAL_SECONDS", 0.5)
    products = [helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(2000)]
    content = model(
        helper.make_node("Add", ["column", "row"], ["m0"]),
        *products,
        helper.make_node("ReduceSum", ["m2000"], ["zero"], keepdims=0),
        row_sum("sum"),
        helper.make_node("Add", ["sum", "zero"], ["Y"]),
        column=np.zeros((1000, 1), np.float32),
        row=np.zeros((1, 1000), np.float32),
        columns=np.array([1]),
    ).SerializeToString()
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"^predicting 64 rows takes more than 0\.5 s$"):
        OnnxPredictor(content, 2)
    assert time.monotonic() - started < 30.0


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["onnx_shape", "onnx_runtime"])
def test_the_handed_cases(name: str) -> None:
    refusal((SHARED / "cases" / "hostile" / f"{name}.onnx").read_bytes())


@given(st.sampled_from(sorted(OPERATORS[""])), st.binary(min_size=1, max_size=40))
def test_a_node_with_changed_bytes(operator: str, noise: bytes) -> None:
    content = bytearray(model(helper.make_node(operator, ["X"], ["Y"])).SerializeToString())
    at = noise[0] % len(content)
    content[at : at + len(noise)] = noise
    with contextlib.suppress(ModelError):
        check_graph(read_graph(bytes(content)))
