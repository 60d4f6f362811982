"""The model format `onnx`, for regressors of scikit-learn, XGBoost and LightGBM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import JointPredictor, ModelFormat, Predictor, Regressor
from kepler_core.errors import MissingExtraError, ModelError
from kepler_core.messages import one_line
from kepler_plugins.model_formats.leaf_masks import JointLeafMasks, LeafMasks, leaf_masks
from kepler_plugins.model_formats.onnx_conversion import INPUT_NAME, to_onnx
from kepler_plugins.model_formats.step_table import JointStepTables, StepTable, step_table
from kepler_plugins.model_formats.tree_ensemble import read_trees

_MAX_RELATIVE_ERROR = 1e-5
"""Largest accepted error of single precision, relative to the range of the predictions."""
_REASON_CHARACTERS = 160

_JOINT_PREDICTORS: dict[type[Predictor], Callable[[Any], JointPredictor]] = {
    StepTable: JointStepTables,
    LeafMasks: JointLeafMasks,
}


class OnnxPredictor:
    """Evaluates an ONNX graph with ONNX Runtime, on one thread."""

    def __init__(self, content: bytes, n_features: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Requests are small and the process is resident: an arena would only keep memory.
        options.enable_cpu_mem_arena = False
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(
                f"not a model that ONNX Runtime can load: {one_line(error, _REASON_CHARACTERS)}"
            ) from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].name != INPUT_NAME or inputs[0].shape[-1] != n_features:
            raise ModelError(f"the graph does not take one input {INPUT_NAME!r} of {n_features} features")
        self._dtype = np.float64 if inputs[0].type == "tensor(double)" else np.float32
        self._session = session

    def predict(self, X: SingleArray) -> FloatArray:
        output = self._session.run(None, {INPUT_NAME: np.ascontiguousarray(X, dtype=self._dtype)})[0]
        return np.asarray(output, dtype=np.float64).reshape(len(X))


class OnnxFormat(ModelFormat):
    """Stores an ONNX graph per component. Its input `X` has the scaled features as columns."""

    suffix = ".onnx"

    def supports(self, regressor: Regressor) -> bool:
        # Only a conversion shows whether it is possible: third-party converters register themselves with skl2onnx.
        return hasattr(regressor, "predict")

    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        regressor = getattr(regressor, "portable_", regressor)
        expected = np.asarray(regressor.predict(X.astype(np.float64)), dtype=np.float64).reshape(len(X))
        spread = float(np.ptp(expected)) or 1.0
        best: tuple[float, bytes] | None = None
        reason = ""
        for double in (False, True):
            try:
                content = to_onnx(regressor, len(features), double=double)
                error = float(np.max(np.abs(OnnxPredictor(content, len(features)).predict(X) - expected)))
            except MissingExtraError:
                raise
            except Exception as failure:  # converters raise exceptions of any type
                reason = reason or one_line(failure, _REASON_CHARACTERS)
                continue
            if best is None or error < best[0]:
                best = error, content
            if error <= _MAX_RELATIVE_ERROR * spread:
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
        types = {type(predictor) for predictor in predictors}
        joint = _JOINT_PREDICTORS.get(types.pop()) if len(types) == 1 else None
        return None if joint is None else joint(predictors)
