"""Conversion of fitted regressors to ONNX with skl2onnx and onnxmltools."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from kepler_core.errors import MissingExtraError, ModelError
from kepler_plugins.model_formats.tree_ensemble import rounded_down

INPUT_NAME = "X"
"""Name of the graph's only input."""

_OPSETS = {"": 18, "ai.onnx.ml": 3}


def to_onnx(regressor: Any, n_features: int, *, double: bool) -> bytes:
    """Convert a fitted regressor to an ONNX model with one input of `n_features` columns.

    With `double`, the model calculates in double precision. Raises `MissingExtraError` if a converter's
    library is not installed. Errors of the converters themselves are passed on.
    """
    try:
        from onnx import helper
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise MissingExtraError("writing ONNX", "train", "skl2onnx") from error
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor
    from sklearn.svm import SVR

    _register_boosters(regressor)
    regressor, affine = _without_target_scaling(regressor)
    last = regressor.steps[-1][1] if hasattr(regressor, "steps") else regressor
    # The option "cdist" makes a graph that calculates all distances as one matrix. Without the option, the graph would
    # loop over the rows. Loops take a hundred times as long, and `onnx_checks` rejects them.
    by_distance = (KNeighborsRegressor, RadiusNeighborsRegressor, GaussianProcessRegressor)
    options = {id(last): {"optim": "cdist"}} if isinstance(last, by_distance) else None
    converters: dict[type, Any] = {HistGradientBoostingRegressor: _convert_histogram_trees}
    if double:
        converters[SVR] = _convert_rbf_in_double
    tensor = (DoubleTensorType if double else FloatTensorType)([None, n_features])
    graph = convert_sklearn(
        regressor,
        initial_types=[(INPUT_NAME, tensor)],
        target_opset=_OPSETS,
        options=options,
        custom_conversion_functions=converters,
        name="power",
    )
    if affine is not None:
        _append_affine(graph, *affine)
    # skl2onnx gives each graph a random name, but the same fit must give the same bytes. So the name is fixed, and
    # the operator sets are sorted.
    graph.graph.name = "power"
    opsets = sorted(((opset.domain, opset.version) for opset in graph.opset_import), key=str)
    del graph.opset_import[:]
    graph.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)
    return bytes(graph.SerializeToString(deterministic=True))


def _convert_rbf_in_double(scope: Any, operator: Any, container: Any) -> None:
    """Convert an SVR with an RBF kernel to matrix products in double precision.

    The prediction for a row x is Σ αᵢ e^(−γ‖x−sᵢ‖²) + b, with the support vectors sᵢ, their coefficients αᵢ,
    the parameter γ of the kernel and the intercept b. ONNX's own operator SVMRegressor has single precision
    only, in which sums over thousands of support vectors lose three digits.
    """
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    svr = operator.raw_operator
    if svr.kernel != "rbf":
        raise ModelError(f"an SVR with kernel {svr.kernel!r} cannot be written in double precision")
    vectors = np.asarray(svr.support_vectors_, dtype=np.float64)
    x = operator.inputs[0].full_name
    if not isinstance(operator.inputs[0].type, DoubleTensorType):
        raise ModelError("the input of the SVR is not in double precision")

    def constant(name: str, values: Any, kind: int = TensorProto.DOUBLE) -> str:
        array = np.asarray(values)
        unique_name: str = scope.get_unique_variable_name(name)
        container.add_initializer(unique_name, kind, array.shape, array.ravel().tolist())
        return unique_name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        output: str = scope.get_unique_variable_name(kind.lower())
        container.add_node(
            kind, list(inputs), [output], name=scope.get_unique_operator_name(kind), op_version=18, **attributes
        )
        return output

    squares = node("ReduceSum", node("Mul", x, x), constant("axis", [1], TensorProto.INT64), keepdims=1)
    products = node("MatMul", x, constant("vectors", -2.0 * vectors.T))
    lengths = constant("lengths", np.sum(vectors**2, axis=1)[None, :])
    distances = node("Add", node("Add", products, squares), lengths)
    kernel = node("Exp", node("Mul", distances, constant("gamma", [-float(svr._gamma)])))
    total = node("MatMul", kernel, constant("alpha", svr.dual_coef_.T))
    container.add_node(
        "Add",
        [total, constant("intercept", svr.intercept_)],
        operator.outputs[0].full_name,
        name=scope.get_unique_operator_name("Intercept"),
        op_version=18,
    )


def _without_target_scaling(regressor: Any) -> tuple[Any, tuple[float, float] | None]:
    """Remove a linear transformation of the target from the last step of a pipeline.

    Returns the pipeline without the transformation, and the pair (factor, offset). The original pipeline predicts
    factor · p + offset, where p is the prediction of the returned pipeline. If the target is not transformed, returns
    the pipeline unchanged, and None in place of the pair.
    Raises `ModelError` if the transformation is not linear.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import Pipeline

    steps = list(regressor.steps) if isinstance(regressor, Pipeline) else [("regressor", regressor)]
    name, last = steps[-1]
    if not isinstance(last, TransformedTargetRegressor):
        return regressor, None
    zero, one = last.transformer_.inverse_transform(np.array([[0.0], [1.0]])).ravel()
    two = float(last.transformer_.inverse_transform(np.array([[2.0]])).item())
    if not np.isclose(two - one, one - zero):
        raise ModelError("the transformation of the target is not linear")
    return Pipeline([*steps[:-1], (name, last.regressor_)]), (float(one - zero), float(zero))


def _append_affine(model: Any, factor: float, offset: float) -> None:
    """Append two operators to a graph, so that its output becomes output · factor + offset."""
    from onnx import helper, numpy_helper

    graph = model.graph
    output = graph.output[0]
    dtype = np.float64 if output.type.tensor_type.elem_type == 11 else np.float32
    inner = output.name + "_scaled"
    for node in graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array([factor], dtype=dtype), "target_factor"))
    graph.initializer.append(numpy_helper.from_array(np.array([offset], dtype=dtype), "target_offset"))
    graph.node.append(helper.make_node("Mul", [inner, "target_factor"], [inner + "_times"], name="TargetFactor"))
    graph.node.append(helper.make_node("Add", [inner + "_times", "target_offset"], [output.name], name="TargetOffset"))


def _with_changed_attributes(convert: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """Return a converter that calls `change` with the attributes of each node before `convert` adds the node."""

    def convert_with_changes(scope: Any, operator: Any, container: Any) -> None:
        add_node = container.add_node

        def add_changed_node(*arguments: Any, **attributes: Any) -> Any:
            change(attributes)
            return add_node(*arguments, **attributes)

        container.add_node = add_changed_node
        try:
            convert(scope, operator, container)
        finally:
            del container.add_node

    return convert_with_changes


def _round_thresholds_down(attributes: dict[str, Any]) -> None:
    if "nodes_values" in attributes:
        attributes["nodes_values"] = rounded_down(attributes["nodes_values"]).tolist()


def _bools_to_integers(attributes: dict[str, Any]) -> None:
    if (tracks := attributes.get("nodes_missing_value_tracks_true")) is not None:
        attributes["nodes_missing_value_tracks_true"] = [int(true) for true in tracks]


def _convert_histogram_trees(scope: Any, operator: Any, container: Any) -> None:
    """Convert histogram-based trees with skl2onnx's converter, and correct two mistakes of this converter.

    skl2onnx 1.20.0 rounds thresholds to the nearest number in single precision instead of rounding down. It
    also writes booleans where onnx accepts only integers.
    """
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_regressor_converter

    operator.raw_operator = copy.deepcopy(operator.raw_operator)
    for (tree,) in operator.raw_operator._predictors:
        tree.nodes["num_threshold"] = rounded_down(tree.nodes["num_threshold"])
    convert = _with_changed_attributes(convert_sklearn_random_forest_regressor_converter, _bools_to_integers)
    convert(scope, operator, container)


def _register_boosters(regressor: Any) -> None:
    """Register the converter of an XGBoost or LightGBM regressor with skl2onnx."""
    module = type(regressor).__module__.partition(".")[0]
    if module not in ("xgboost", "lightgbm"):
        return
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as shapes

    options: dict[str, Any] | None = None
    try:
        if module == "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as convert
        else:
            from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

            convert, options = _with_changed_attributes(convert_lightgbm, _round_thresholds_down), {"split": None}
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"writing {type(regressor).__name__} as ONNX", "train", error.name or "onnxmltools"
        ) from error
    update_registered_converter(type(regressor), type(regressor).__name__, shapes, convert, options=options)
