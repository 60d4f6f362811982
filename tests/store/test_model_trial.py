"""Tests of models that cannot be evaluated although their files are readable.

`load_model` refuses such models. If a model fails after it was loaded, its prediction raises `ModelError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kepler_core.errors import ModelError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import ComponentPart, PowerModel
from kepler_core.models.predictors import ComponentPredictor

FEATURES = ["a", "b"]


def graph(*nodes: onnx.NodeProto, **constants: Any) -> bytes:
    """Return an ONNX model that computes the output Y from the input X, which has two columns."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


GRAPHS: dict[str, Callable[[], bytes]] = {
    "wrong-shape": lambda: graph(helper.make_node("Identity", ["C"], ["Y"]), C=np.zeros(7, np.float32)),
    "fails-when-run": lambda: graph(helper.make_node("Gather", ["X", "at"], ["Y"], axis=1), at=np.int64(9)),
    "not-finite": lambda: graph(
        helper.make_node("ReduceSum", ["X", "axes"], ["S"], keepdims=1),
        helper.make_node("Div", ["S", "S"], ["Y"]),  # 0 / 0 on an idle machine
        axes=np.array([1], np.int64),
    ),
}


def files(content: bytes) -> dict[str, bytes]:
    layout = {
        "layout": 1,
        "features": FEATURES,
        "scale": [10.0, 100.0],
        "components": {"package": {"ceiling": 500.0, "format": "onnx", "file": "package.onnx"}},
    }
    return {
        "metadata.json": b'{"model_name":"Graph_0"}',
        "model.json": msgspec.json.encode(layout),
        "package.onnx": content,
    }


@pytest.mark.parametrize("resident", [False, True], ids=["loaded", "resident"])
@pytest.mark.parametrize("name", GRAPHS)
def test_loading_refuses_it(name: str, resident: bool) -> None:
    with pytest.raises(ModelError, match=r"^model: ") as caught:
        load_model(files(GRAPHS[name]()), resident=resident)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weights",
    [
        b'{"type":"linear","weights":{"a":1e308,"b":1e308},"bias":0}',
        b'{"type":"linear","weights":{"a":1e305,"b":-1e305},"bias":0}',
        b'{"type":"curve","curve":"exponential","feature":"a","weights":[1e300,1,0]}',
    ],
)
def test_weights_whose_sum_overflows(weights: bytes) -> None:
    """Weights are refused if the sum of weight · feature may overflow to infinity.

    The component's upper limit would replace infinity by watts that look valid.
    """
    model = {name: content.replace(b"onnx", b"weights") for name, content in files(b"").items()}
    model["package.weights"] = weights
    with pytest.raises(ModelError, match="so large that their sum may overflow"):
        load_model(model)


class Failing:
    """A predictor that raises an exception with several lines, as libraries of model formats do."""

    def predict(self, X: Any) -> Any:
        raise RuntimeError("out of\nmemory")


def test_a_failure_when_it_is_used_is_one_error_of_one_line() -> None:
    model = PowerModel(
        {"model_name": "X_0"},
        ("a",),
        np.array([1.0]),
        np.array([0.0]),
        {"package": ComponentPart(100.0, "onnx", "package.onnx")},
        [ComponentPredictor(("package",), Failing())],
    )
    with pytest.raises(ModelError, match=r"^X_0 cannot be evaluated: RuntimeError: out of memory$"):
        model.watts([[1.0]])
