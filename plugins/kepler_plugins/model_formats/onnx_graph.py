"""ONNX: for all that scikit-learn, XGBoost and LightGBM fit."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import JointPredictor, ModelFormat, Predictor, Regressor
from kepler_core.errors import MissingExtraError, ModelError
from kepler_plugins.model_formats.leaf_masks import LeafMasks, SeveralLeafMasks, leaf_masks
from kepler_plugins.model_formats.step_table import StepTable, StepTables, step_table
from kepler_plugins.model_formats.tree_ensemble import read_trees

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_INPUT = "X"
_AGREES = 1e-5
"""Single precision is good enough if it is off by less than this part of the predictions' range."""


_JOINT: dict[type[Predictor], Callable[[Any], JointPredictor]] = {StepTable: StepTables, LeafMasks: SeveralLeafMasks}
"""What several of a kind become together."""


class OnnxPredictor:
    """Evaluates an ONNX graph with ONNX Runtime, on one thread."""

    def __init__(self, content: bytes, n_features: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Rows are few and the process stays: an arena would only hold on to memory.
        options.enable_cpu_mem_arena = False
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"not a model that ONNX Runtime can load: {_one_line(error)}") from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].name != _INPUT or inputs[0].shape[-1] != n_features:
            raise ModelError(f"the graph does not take one input {_INPUT!r} of {n_features} features")
        self._dtype = np.float64 if inputs[0].type == "tensor(double)" else np.float32
        self._session = session

    def predict(self, X: SingleArray) -> FloatArray:
        found = self._session.run(None, {_INPUT: np.ascontiguousarray(X, dtype=self._dtype)})[0]
        return np.asarray(found, dtype=np.float64).reshape(len(X))


class OnnxFormat(ModelFormat):
    """An ONNX graph per component; input `X`, the scaled features as columns."""

    suffix = ".onnx"

    def supports(self, regressor: Regressor) -> bool:
        # The converters are asked by trying: third-party ones register themselves with skl2onnx.
        return hasattr(regressor, "predict")

    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        regressor = getattr(regressor, "portable_", regressor)
        expected = np.asarray(regressor.predict(X.astype(np.float64)), dtype=np.float64).reshape(len(X))
        spread = float(np.ptp(expected)) or 1.0
        best: tuple[float, bytes] | None = None
        reason = ""
        for double in (False, True):
            try:
                content = _convert(regressor, len(features), double)
                error = float(np.max(np.abs(OnnxPredictor(content, len(features)).predict(X) - expected)))
            except MissingExtraError:
                raise
            except Exception as failure:  # converters raise whatever they like
                reason = reason or _one_line(failure)
                continue
            if best is None or error < best[0]:
                best = error, content
            if error <= _AGREES * spread:
                break
        if best is None:
            raise ModelError(
                f"{type(regressor).__name__} cannot be written as ONNX ({reason}); a trainer's regressor must be one "
                "that skl2onnx can convert, have a flat coef_ and an intercept_, leave such a one as portable_, or "
                "come with a model_format of its own"
            )
        return best[1]

    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        return OnnxPredictor(content, len(features))

    def load_resident(self, content: bytes, features: Sequence[str]) -> Predictor:
        trees = read_trees(content, len(features))
        table = None if trees is None else step_table(trees) or leaf_masks(trees)
        return table or OnnxPredictor(content, len(features))

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        kinds = {type(predictor) for predictor in predictors}
        joint = _JOINT.get(kinds.pop()) if len(kinds) == 1 else None
        return None if joint is None else joint(predictors)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 160, placeholder=' …')}"


def _convert(regressor: Any, n_features: int, double: bool) -> bytes:
    try:
        from onnx import helper
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    except ImportError as error:
        raise MissingExtraError("writing ONNX", "train", "skl2onnx") from error
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.svm import SVR

    _register_boosters(regressor)
    regressor, affine = _without_target_scaling(regressor)
    last = regressor.steps[-1][1] if hasattr(regressor, "steps") else regressor
    # a matrix of distances instead of a loop over rows: a hundred times faster
    options = {id(last): {"optim": "cdist"}} if isinstance(last, KNeighborsRegressor) else None
    own: dict[type, Any] = {HistGradientBoostingRegressor: _histogram_trees}
    if double:
        own[SVR] = _rbf_in_double
    tensor = (DoubleTensorType if double else FloatTensorType)([None, n_features])
    graph = convert_sklearn(
        regressor,
        initial_types=[(_INPUT, tensor)],
        target_opset=_OPSETS,
        options=options,
        custom_conversion_functions=own,
        name="power",
    )
    if affine is not None:
        _append_affine(graph, *affine)
    # skl2onnx names graphs at random; the same fit must give the same bytes
    graph.graph.name = "power"
    opsets = sorted(((opset.domain, opset.version) for opset in graph.opset_import), key=str)
    del graph.opset_import[:]
    graph.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)
    return bytes(graph.SerializeToString(deterministic=True))


def _rbf_in_double(scope: Any, operator: Any, container: Any) -> None:
    """Support vectors with an RBF kernel as matrix products in double precision: Σ αᵢ e^(−γ‖x−sᵢ‖²) + b.

    ONNX's own SVMRegressor knows single precision only, and sums over thousands of vectors lose
    three digits in it.
    """
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType

    svr = operator.raw_operator
    if svr.kernel != "rbf":
        raise ModelError(f"an SVR with kernel {svr.kernel!r} cannot be written in double precision")
    vectors = np.asarray(svr.support_vectors_, dtype=np.float64)
    x = operator.inputs[0].full_name
    if not isinstance(operator.inputs[0].type, DoubleTensorType):
        raise ModelError("the input of the SVR is not double")

    def constant(name: str, values: Any, kind: int = TensorProto.DOUBLE) -> str:
        array = np.asarray(values)
        full: str = scope.get_unique_variable_name(name)
        container.add_initializer(full, kind, array.shape, array.ravel().tolist())
        return full

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
    """A pipeline whose last step scales its target linearly, without that; and factor and offset."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import Pipeline

    steps = list(regressor.steps) if isinstance(regressor, Pipeline) else [("regressor", regressor)]
    name, last = steps[-1]
    if not isinstance(last, TransformedTargetRegressor):
        return regressor, None
    zero, one = last.transformer_.inverse_transform(np.array([[0.0], [1.0]])).ravel()
    two = float(last.transformer_.inverse_transform(np.array([[2.0]])).item())
    if not np.isclose(two - one, one - zero):
        raise ModelError("its target is transformed by something that is not linear")
    return Pipeline([*steps[:-1], (name, last.regressor_)]), (float(one - zero), float(zero))


def _append_affine(model: Any, factor: float, offset: float) -> None:
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


def _changed(convert: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """A converter whose nodes have their attributes changed."""

    def converted(scope: Any, operator: Any, container: Any) -> None:
        add_node = container.add_node

        def add_changed(*what: Any, **attributes: Any) -> Any:
            change(attributes)
            return add_node(*what, **attributes)

        container.add_node = add_changed
        try:
            convert(scope, operator, container)
        finally:
            del container.add_node

    return converted


def _round_thresholds_down(attributes: dict[str, Any]) -> None:
    if "nodes_values" in attributes:
        attributes["nodes_values"] = _rounded_down(attributes["nodes_values"]).tolist()


def _bools_as_numbers(attributes: dict[str, Any]) -> None:
    if (tracks := attributes.get("nodes_missing_value_tracks_true")) is not None:
        attributes["nodes_missing_value_tracks_true"] = [int(true) for true in tracks]


def _histogram_trees(scope: Any, operator: Any, container: Any) -> None:
    """skl2onnx's converter, which rounds thresholds itself, to the nearest, and writes bools, which onnx refuses."""
    from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_regressor_converter

    operator.raw_operator = copy.deepcopy(operator.raw_operator)
    for (tree,) in operator.raw_operator._predictors:
        tree.nodes["num_threshold"] = _rounded_down(tree.nodes["num_threshold"])
    _changed(convert_sklearn_random_forest_regressor_converter, _bools_as_numbers)(scope, operator, container)


def _rounded_down(values: Sequence[float]) -> SingleArray:
    """Thresholds of trees that compare in double precision, for a graph that does in single.

    For a number x of single precision, x ≤ t is the same as x ≤ the next such number below t. Rounded
    to the nearest one, t could become a reading that is to go the other way.
    """
    exact = np.asarray(values, dtype=np.float64)
    nearest = exact.astype(np.float32)
    lower: SingleArray = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > exact, lower, nearest)


def _register_boosters(regressor: Any) -> None:
    """Tell skl2onnx how to convert the boosters that are not scikit-learn's."""
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

            convert, options = _changed(convert_lightgbm, _round_thresholds_down), {"split": None}
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"writing {type(regressor).__name__} as ONNX", "train", error.name or "onnxmltools"
        ) from error
    update_registered_converter(type(regressor), type(regressor).__name__, shapes, convert, options=options)
