"""The model format `onnx`, for regressors of scikit-learn, XGBoost and LightGBM."""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import JointPredictor, ModelFormat, Predictor, Regressor
from kepler_core.errors import MissingExtraError, ModelError
from kepler_core.messages import one_line
from kepler_plugins.model_formats.cell_cache import join_with_cache
from kepler_plugins.model_formats.onnx_checks import check_graph
from kepler_plugins.model_formats.onnx_conversion import INPUT_NAME, to_onnx
from kepler_plugins.model_formats.onnx_reading import read_graph
from kepler_plugins.model_formats.row_masks import ResidentMasks, resident_masks
from kepler_plugins.model_formats.step_table import JointStepTables, StepTable, step_table
from kepler_plugins.model_formats.tree_ensemble import read_trees

_MAX_RELATIVE_ERROR = 1e-5
"""Maximum error of a model in single precision, as a fraction of the range of its predictions.

If the error is larger, the model is also converted in double precision. The more accurate graph is stored.
"""
_REASON_CHARACTERS = 160
MAX_MEMORY_BYTES = 256 * 2**20
"""Limit of the total memory of all ONNX graphs in a process, including the intermediate results of graph nodes."""
_ROWS_PER_RUN = 512
"""Maximum number of rows per run of a graph. It limits the memory of a run.

With ten thousand support vectors in double precision, 512 rows take 40 MB.
"""
_TRIAL_ROWS = 64
_TRIAL_SECONDS = 5.0
_FATAL = 4
"""ONNX Runtime's log level for fatal errors only. At other levels, it would also print the errors that it raises."""

_JOINT_PREDICTORS: dict[type[Predictor], Callable[[Any], JointPredictor]] = {
    StepTable: JointStepTables,
    ResidentMasks: join_with_cache,
}


class OnnxPredictor:
    """A predictor that evaluates an ONNX graph with ONNX Runtime on one thread, with limits of memory and time."""

    def __init__(self, content: bytes, n_features: int) -> None:
        """Raise `ModelError` if the graph is not allowed, cannot be loaded, or exceeds the limits."""
        check_graph(read_graph(content))
        options = _session_options()
        try:
            session = onnxruntime().InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ModelError(
                f"not a model that ONNX Runtime can load: {one_line(error, _REASON_CHARACTERS)}"
            ) from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].name != INPUT_NAME or inputs[0].shape[-1] != n_features:
            raise ModelError(f"the graph must have one input {INPUT_NAME!r} with {n_features} features")
        self._dtype = np.float64 if inputs[0].type == "tensor(double)" else np.float32
        self._session = session
        self._try(n_features)

    def predict(self, X: SingleArray) -> FloatArray:
        X = np.ascontiguousarray(X, dtype=self._dtype)
        if len(X) <= _ROWS_PER_RUN:
            return self._run(X)
        return np.concatenate(
            [self._run(X[start : start + _ROWS_PER_RUN]) for start in range(0, len(X), _ROWS_PER_RUN)]
        )

    def _run(self, X: SingleArray, options: Any = None) -> FloatArray:
        output = self._session.run(None, {INPUT_NAME: X}, options)[0]
        return np.asarray(output, dtype=np.float64).reshape(len(X))

    def _try(self, n_features: int) -> None:
        """Evaluate the graph on a few rows. Raise `ModelError` if the evaluation fails or takes too long.

        `check_graph` accepts only graphs without subgraphs. So the time of a run depends on the number of rows, but
        not on their values.
        """
        options = onnxruntime().RunOptions()
        options.log_severity_level = _FATAL
        timer = threading.Timer(_TRIAL_SECONDS, lambda: setattr(options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            self._run(np.zeros((_TRIAL_ROWS, n_features), dtype=self._dtype), options)
        except Exception as error:
            if options.terminate:
                raise ModelError(f"predicting {_TRIAL_ROWS} rows takes more than {_TRIAL_SECONDS:g} s") from error
            raise ModelError(f"the graph cannot be evaluated: {one_line(error, _REASON_CHARACTERS)}") from error
        finally:
            timer.cancel()


@functools.cache
def onnxruntime() -> Any:
    """Import ONNX Runtime on first use, and limit the memory of all its sessions together.

    A graph of a few bytes can need gigabytes. For example, the sum of a column and a row is a whole matrix. Raises
    `ModelError` with the pip command if ONNX Runtime is not installed: few models need it (see `load_resident`).
    """
    try:
        import onnxruntime as runtime
    except ModuleNotFoundError as error:
        raise ModelError(MissingExtraError("this kind of model", "onnx", "onnxruntime").message) from error

    memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    # arena_extend_strategy 1 extends the arena by the requested size. The default strategy doubles the arena.
    arena = runtime.OrtArenaCfg({"max_mem": MAX_MEMORY_BYTES, "arena_extend_strategy": 1})
    runtime.create_and_register_allocator(memory, arena)
    return runtime


def _session_options() -> Any:
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # Graph optimizations would calculate with the graph's constants while the session loads, and nothing limits the
    # time of loading.
    options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


class OnnxFormat(ModelFormat):
    """Stores one ONNX graph per component. The graph's input `X` has the scaled features as columns."""

    suffix = ".onnx"

    def supports(self, regressor: Regressor) -> bool:
        # The only way to know whether a regressor can be converted is to try it, because third-party converters
        # register themselves with skl2onnx.
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
            except Exception as failure:  # the converters of other libraries may raise any exception
                reason = reason or one_line(failure, _REASON_CHARACTERS)
                continue
            if best is None or error < best[0]:
                best = error, content
            if error <= _MAX_RELATIVE_ERROR * spread:
                break
        if best is None:
            raise ModelError(
                f"{type(regressor).__name__} cannot be written as ONNX ({reason}); give the trainer a model_format of "
                "its own; or let it return a regressor that skl2onnx can convert, or that has a flat coef_ and an "
                "intercept_; or let the regressor's fit() set portable_ to a regressor of this kind"
            )
        return best[1]

    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        try:
            return OnnxPredictor(content, len(features))
        except ModelError:
            if importlib.util.find_spec("onnxruntime") is None:
                return self.load_resident(content, features)
            raise

    def load_resident(self, content: bytes, features: Sequence[str]) -> Predictor:
        graph = read_graph(content)
        check_graph(graph)
        trees = read_trees(graph, len(features))
        table = None if trees is None else step_table(trees) or resident_masks(trees)
        return table or OnnxPredictor(content, len(features))

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        types = {type(predictor) for predictor in predictors}
        joint = _JOINT_PREDICTORS.get(types.pop()) if len(types) == 1 else None
        return None if joint is None else joint(predictors)
