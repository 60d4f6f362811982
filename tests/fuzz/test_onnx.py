"""Fuzz ONNX graphs: each graph is rejected with a one-line `ModelError`, or evaluated within its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.svm import SVR
from support.fuzzing import damaged, fuzz
from support.server_process import check_one_line

from kepler_core.errors import ModelError
from kepler_plugins.model_formats.onnx_checks import OPERATORS
from kepler_plugins.model_formats.onnx_graph import OnnxFormat

FEATURES = ["a", "b"]
_RANDOM = np.random.default_rng(1)
_X = _RANDOM.uniform(0, 1, (40, 2)).astype(np.float32)
_Y = 40 + 30 * _X[:, 0] + _X[:, 1]


def _written(regressor: Any) -> bytes:
    return OnnxFormat().dump(regressor.fit(_X.astype(np.float64), _Y), FEATURES, _X)


WRITTEN = [
    _written(GradientBoostingRegressor(n_estimators=2, max_depth=2, random_state=1)),
    _written(SVR(max_iter=20)),
]

OPSETS = {"": 18, "ai.onnx.ml": 3, "com.microsoft": 1}

names = st.sampled_from(["X", "c0", "c1", "v0", "v1", "v2", "v3", "Y"])
constants = st.lists(st.integers(-3, 5), max_size=4).map(np.array) | st.sampled_from(
    [np.float32(2), np.ones((1, 2), np.float32), np.array([10**9]), np.array([2**62]), np.ones((300, 1), np.float32)]
)
attributes = st.fixed_dictionaries(
    {}, optional={"axis": st.integers(-3, 3), "keepdims": st.integers(0, 1), "to": st.integers(1, 11)}
)


@st.composite
def graphs(draw: st.DrawFn) -> bytes:
    """Generate a random ONNX graph of one to four nodes. Kepler Core accepts the operators of the nodes."""
    nodes = []
    for n in range(draw(st.integers(1, 4))):
        domain = draw(st.sampled_from(sorted(OPERATORS)))
        operator = draw(st.sampled_from(sorted(OPERATORS[domain])))
        output = draw(st.sampled_from([f"v{n}", "Y"]))
        inputs = draw(st.lists(names, min_size=1, max_size=3))
        nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **draw(attributes)))
    initializers = [numpy_helper.from_array(draw(constants), name) for name in ("c0", "c1")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [onnx.ValueInfoProto(name="Y")],
        initializers,
    )
    opsets = [
        helper.make_opsetid("", 18),
        helper.make_opsetid("ai.onnx.ml", 3),
        helper.make_opsetid("com.microsoft", 1),
    ]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def check(content: bytes) -> None:
    for load in (OnnxFormat().load, OnnxFormat().load_resident):
        try:
            predictor = load(content, FEATURES)
        except ModelError as error:
            check_one_line(error)
            continue
        assert predictor.predict(np.zeros((64, 2), dtype=np.float32)).shape == (64,)


def test_graphs_of_accepted_operators() -> None:
    fuzz(graphs(), check)


def test_damaged_graphs() -> None:
    fuzz(damaged(st.sampled_from(WRITTEN) | graphs()), check)
