"""The trainer of models for machines of many kinds: tree ensembles that predict power ÷ thermal design power."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, VotingRegressor
from sklearn.utils.validation import check_is_fitted, check_X_y

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_plugins.bounds import check_above, check_at_least, check_at_most
from kepler_plugins.trainers.rising_features import rising

REFERENCE = "machine_tdp_w"
"""Default feature that the power is divided by: the thermal design power of all chips of the machine in watts."""
RISING = ("machine_load",)
"""Default features that can only raise the power."""

_SMALLEST_REFERENCE = 0.01
"""Smallest number that power is divided by, as a fraction of the largest reference in training."""

_NO_WATTS = 1e-9
"""Power that is used in place of 0 W, because the logarithm of 0 is not finite."""


class RatioRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Mean of boosted and extra trees, fitted to ln(y ÷ column `reference` of X), or to ln(y) if `reference` is None.

    The prediction is reference · exp(mean). So a machine that is larger than all machines of the training can get more
    predicted power than they have, although a tree never predicts more than its largest training value.
    """

    def __init__(
        self,
        reference: int | None,
        rising: tuple[int, ...],
        boosted_trees: int = 200,
        extra_trees: int = 50,
        learning_rate: float = 0.08,
        min_samples_leaf: int = 4,
        seed: int = 0,
    ) -> None:
        self.reference = reference
        self.rising = rising
        self.boosted_trees = boosted_trees
        self.extra_trees = extra_trees
        self.learning_rate = learning_rate
        self.min_samples_leaf = min_samples_leaf
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> RatioRegressor:
        X, y = check_X_y(X, y, dtype=np.float64)
        # Constant power does not depend on the reference.
        self.divides_ = self.reference is not None and float(np.ptp(y)) > 0
        usable = y > 0
        if not usable.any():  # no row has power, so that the ratio is 0 everywhere
            usable, y = np.ones(len(y), dtype=bool), np.full_like(y, _NO_WATTS)
        self.trees_ = self._trees().fit(X[usable], np.log(y[usable] / self._references(X)[usable]))
        self.n_features_in_ = X.shape[1]
        _register_converter()
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        check_is_fitted(self)
        X = np.asarray(X, dtype=np.float64)
        ratio: FloatArray = np.exp(self.trees_.predict(X))
        return self._references(X) * ratio

    def _references(self, X: FloatArray) -> FloatArray:
        """Return the number that the power of each row is divided by, shape (rows,)."""
        return np.maximum(X[:, self.reference], _SMALLEST_REFERENCE) if self.divides_ else np.ones(len(X))

    def _trees(self) -> Any:
        boosted = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.boosted_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            l2_regularization=1.0,
            max_features=0.5,
            monotonic_cst=list(self.rising),
            early_stopping=False,
            random_state=self.seed,
        )
        extra = ExtraTreesRegressor(
            self.extra_trees, min_samples_leaf=self.min_samples_leaf, max_features=0.5, random_state=self.seed
        )
        return VotingRegressor([("boosted", boosted), ("extra", extra)])


class MachinePowerTrainer(Trainer):
    """Fits trees to the ratio of power and thermal design power, for tables with machines of many kinds.

    `reference` names the feature that the power is divided by, and `rising` the features that can only raise the power
    that the boosted trees predict. If a feature group lacks the feature `reference`, the trees are fitted to the power.
    """

    def __init__(
        self,
        reference: str = REFERENCE,
        rising: list[str] | None = None,
        boosted_trees: int = 200,
        extra_trees: int = 50,
        learning_rate: float = 0.08,
        min_samples_leaf: int = 4,
    ) -> None:
        check_at_least("boosted_trees", boosted_trees, 1)
        check_at_most("boosted_trees", boosted_trees, 1000)
        check_at_least("extra_trees", extra_trees, 1)
        check_at_most("extra_trees", extra_trees, 500)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("min_samples_leaf", min_samples_leaf, 1)
        self.reference = reference
        self.rising = RISING if rising is None else tuple(rising)
        self.parameters: dict[str, Any] = {
            "boosted_trees": boosted_trees,
            "extra_trees": extra_trees,
            "learning_rate": learning_rate,
            "min_samples_leaf": min_samples_leaf,
        }

    def regressor(self, task: FitTask) -> Regressor:
        reference = task.features.index(self.reference) if self.reference in task.features else None
        return RatioRegressor(reference, tuple(rising(task.features, self.rising)), seed=task.seed, **self.parameters)


def _register_converter() -> None:
    """Register the conversion of `RatioRegressor` to ONNX with skl2onnx, if it is installed."""
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as shapes
    except ImportError:
        return  # the model format reports the missing library
    update_registered_converter(RatioRegressor, "KeplerRatioRegressor", shapes, _convert, overwrite=True)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Convert a `RatioRegressor`: the trees, their exponential, and the product with the reference."""
    from onnx import TensorProto
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import DoubleTensorType

    regressor = operator.raw_operator
    trees = scope.declare_local_operator(sklearn_operator_name_map[VotingRegressor], regressor.trees_)
    trees.inputs = operator.inputs
    logs = scope.declare_local_variable("logs", type(operator.outputs[0].type)([None, 1]))
    trees.outputs.append(logs)

    def constant(name: str, kind: int, value: float) -> str:
        unique_name: str = scope.get_unique_variable_name(name)
        container.add_initializer(unique_name, kind, [1], [value])
        return unique_name

    def node(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, list(inputs), [output], name=scope.get_unique_operator_name(kind), **attributes)
        return output

    is_double = isinstance(operator.inputs[0].type, DoubleTensorType)
    number = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
    if not regressor.divides_:
        node("Exp", logs.full_name, output=operator.outputs[0].full_name, op_version=13)
        return
    index = constant("reference", TensorProto.INT64, regressor.reference)
    column = node("Gather", operator.inputs[0].full_name, index, axis=1, op_version=13)
    reference = node("Max", column, constant("smallest", number, _SMALLEST_REFERENCE), op_version=13)
    ratio = node("Exp", logs.full_name, op_version=13)
    node("Mul", ratio, reference, output=operator.outputs[0].full_name, op_version=14)
