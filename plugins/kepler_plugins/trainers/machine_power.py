"""The trainer of models for machines of many kinds: tree ensembles that predict power ÷ thermal design power."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, VotingRegressor
from sklearn.utils.validation import check_is_fitted, check_X_y

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_plugins.bounds import check_above, check_at_least, check_at_most
from kepler_plugins.trainers.machine_trend import Trend, TrendColumns, trend_columns
from kepler_plugins.trainers.rising_features import rising

REFERENCE = "machine_tdp_w"
"""Default name of the feature by which power is divided: the thermal design power of a machine's chips, in watts."""
RISING = ("machine_load",)
"""Default names of the features that can only raise the predicted power: a higher value never lowers it."""
LOAD = "machine_load"
"""Default name of the feature that has a machine's load, from 0 (idle) to 1."""
IDLE_RATIO = "machine_idle_per_w"
"""Default name of the feature that has a machine's known idle power, divided by the feature `REFERENCE`."""

_SMALLEST_REFERENCE = 0.01
"""Lower limit of the number by which power is divided, as a fraction of the largest such number in training."""

_NO_WATTS = 1e-9
"""Power that is used in place of 0 W, because the logarithm of 0 is not finite."""

_SMALLEST_SLOPE = 1e-3
"""Smallest power above idle per unit of load, as a fraction of the reference feature. Some machines draw no more power
at a low load than at idle, and the logarithm of 0 is not finite."""


TREND = 0.5
"""Default part of the linear trend. The power of new machines follows the trend of earlier years only in part. This was
tested on the table of SPECpower_ssj2008 results up to 2018. With half of the trend, models of machines up to 2011,
2012 and 2015 predict newer machines with mean errors of 25, 14 and 13 %. Without a trend, the errors are 28, 55 and
27 %. The whole trend gives larger errors than half of it."""


@attrs.frozen
class IdleColumns:
    """The columns of X from which the known idle power and the power above it are calculated."""

    load: int
    ratio: int
    """Column with the idle power, divided by the reference feature."""
    unit: float
    """Factor for the idle power: the idle power in watts is `unit` · column `ratio` · column `reference`."""


class RatioRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts the mean of boosted and extra trees. They are fitted to the logarithm of power.

    The trees are fitted to ln(y ÷ column `reference` of X), or to ln(y) if `reference` is None.

    The predicted power is reference · exp(m), where m is the mean of the trees' predictions. A tree never predicts more
    than its largest training value. Because of the factor `reference`, the predicted power of a machine that is larger
    than all machines of the training can still be above their power.

    With `trend`, the part `trend_part` of a linear `Trend` is subtracted from the logarithms before the trees are
    fitted. This part is added to m when the power is predicted.

    With `idle`, the idle power is known. The trees are fitted to ln((y − idle) ÷ (load · reference)) in the rows whose
    load is above 0, and the predicted power is idle + load · reference · exp(m). So it is exact at idle. The trees then
    predict a slope, which may fall as the load rises. So `rising` has no effect on the load.
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
        idle: IdleColumns | None = None,
        trend: TrendColumns | None = None,
        trend_part: float = TREND,
    ) -> None:
        self.reference = reference
        self.rising = rising
        self.idle = idle
        self.trend = trend
        self.trend_part = trend_part
        self.boosted_trees = boosted_trees
        self.extra_trees = extra_trees
        self.learning_rate = learning_rate
        self.min_samples_leaf = min_samples_leaf
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> RatioRegressor:
        X, y = check_X_y(X, y, dtype=np.float64)
        # If all rows have the same power, the power does not depend on the reference feature, and is not divided by it.
        self.divides_ = self.reference is not None and float(np.ptp(y)) > 0
        self.idle_ = self.idle if self.divides_ and self.idle is not None and (X[:, self.idle.load] > 0).any() else None
        if self.idle_ is None:
            usable = y > 0
            if not usable.any():  # all rows have a power of 0 W
                usable, y = np.ones(len(y), dtype=bool), np.full_like(y, _NO_WATTS)
            ratio = y / self._references(X)
        else:
            usable = X[:, self.idle_.load] > 0
            added = (y - self._idle_watts(X)) / np.where(usable, X[:, self.idle_.load], 1.0)
            ratio = np.maximum(added / self._references(X), _SMALLEST_SLOPE)
        X, logs = X[usable], np.log(ratio[usable])
        self.trend_ = Trend(self.trend).fit(X, logs) if self.divides_ and self.trend and self.trend_part else None
        if self.trend_ is not None:
            logs = logs - self.trend_part * self.trend_.predict(X)
        self.trees_ = self._trees().fit(X, logs)
        self.n_features_in_ = X.shape[1]
        _register_converter()
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        check_is_fitted(self)
        X = np.asarray(X, dtype=np.float64)
        logs = self.trees_.predict(X)
        if self.trend_ is not None:
            logs = logs + self.trend_part * self.trend_.predict(X)
        watts: FloatArray = self._references(X) * np.exp(logs)
        if self.idle_ is None:
            return watts
        return self._idle_watts(X) + watts * np.maximum(X[:, self.idle_.load], 0.0)

    def _references(self, X: FloatArray) -> FloatArray:
        """Return the number by which the power of each row is divided, shape (rows,)."""
        return np.maximum(X[:, self.reference], _SMALLEST_REFERENCE) if self.divides_ else np.ones(len(X))

    def _idle_watts(self, X: FloatArray) -> FloatArray:
        """Return the known idle power of each row, shape (rows,)."""
        assert self.idle_ is not None
        watts: FloatArray = self.idle_.unit * X[:, self.idle_.ratio] * self._references(X)
        return watts

    def _trees(self) -> Any:
        rising = list(self.rising)
        if self.idle_ is not None:
            rising[self.idle_.load] = 0
        boosted = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.boosted_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=15,
            min_samples_leaf=20,
            l2_regularization=1.0,
            max_features=0.5,
            monotonic_cst=rising,
            early_stopping=False,
            random_state=self.seed,
        )
        extra = ExtraTreesRegressor(
            self.extra_trees, min_samples_leaf=self.min_samples_leaf, max_features=0.5, random_state=self.seed
        )
        return VotingRegressor([("boosted", boosted), ("extra", extra)])


class MachinePowerTrainer(Trainer):
    """Fits trees to the ratio of power and thermal design power, for tables with machines of many kinds.

    `reference` names the feature by which the power is divided. `rising` names the features that can only raise the
    power that the boosted trees predict. If a feature group lacks the feature `reference`, the trees are fitted to the
    power itself. If the group also has the features `idle_ratio` (idle power ÷ reference) and `load`, the trees are
    fitted to the power above idle. The predicted power of a machine without load is then its idle power. `trend` is the
    part of a linear trend that the predictions contain. The trend is fitted to the facts about machines and their year.
    If `trend` is 0, the predictions come from the trees alone.
    """

    def __init__(
        self,
        reference: str = REFERENCE,
        rising: list[str] | None = None,
        boosted_trees: int = 200,
        extra_trees: int = 50,
        learning_rate: float = 0.08,
        min_samples_leaf: int = 4,
        load: str = LOAD,
        idle_ratio: str = IDLE_RATIO,
        trend: float = TREND,
    ) -> None:
        check_at_least("boosted_trees", boosted_trees, 1)
        check_at_most("boosted_trees", boosted_trees, 1000)
        check_at_least("extra_trees", extra_trees, 1)
        check_at_most("extra_trees", extra_trees, 500)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("min_samples_leaf", min_samples_leaf, 1)
        check_at_least("trend", trend, 0)
        check_at_most("trend", trend, 1)
        self.reference = reference
        self.trend = trend
        self.rising = RISING if rising is None else tuple(rising)
        self.load = load
        self.idle_ratio = idle_ratio
        self.parameters: dict[str, Any] = {
            "boosted_trees": boosted_trees,
            "extra_trees": extra_trees,
            "learning_rate": learning_rate,
            "min_samples_leaf": min_samples_leaf,
        }

    def regressor(self, task: FitTask) -> Regressor:
        reference = task.features.index(self.reference) if self.reference in task.features else None
        return RatioRegressor(
            reference,
            tuple(rising(task.features, self.rising)),
            seed=task.seed,
            idle=self._idle_columns(task),
            trend=trend_columns(task.features, self.load) if reference is not None else None,
            trend_part=self.trend,
            **self.parameters,
        )

    def _idle_columns(self, task: FitTask) -> IdleColumns | None:
        if any(name not in task.features for name in (self.reference, self.load, self.idle_ratio)):
            return None
        ratio = task.features.index(self.idle_ratio)
        scale = dict(zip(task.features, task.scale, strict=True)) if task.scale else {}
        unit = scale.get(self.idle_ratio, 1.0) * scale.get(self.reference, 1.0)
        return IdleColumns(task.features.index(self.load), ratio, unit)


def _register_converter() -> None:
    """Register the conversion of `RatioRegressor` to ONNX with skl2onnx, if skl2onnx is installed."""
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as shapes
    except ImportError:
        return  # a missing skl2onnx is reported later, by the model format
    update_registered_converter(RatioRegressor, "KeplerRatioRegressor", shapes, _convert, overwrite=True)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Convert a `RatioRegressor` to ONNX: its trees, the exponential function, and the product with the reference."""
    from onnx import TensorProto
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import DoubleTensorType

    regressor = operator.raw_operator
    trees = scope.declare_local_operator(sklearn_operator_name_map[VotingRegressor], regressor.trees_)
    trees.inputs = operator.inputs
    logs = scope.declare_local_variable("logs", type(operator.outputs[0].type)([None, 1]))
    trees.outputs.append(logs)

    is_double = isinstance(operator.inputs[0].type, DoubleTensorType)
    real = TensorProto.DOUBLE if is_double else TensorProto.FLOAT

    def constant(name: str, values: Any) -> str:
        """Add an array to the graph. Whole numbers (column numbers) stay integers; others become real numbers."""
        array = np.asarray(values)
        kind = TensorProto.INT64 if array.dtype.kind == "i" else real
        unique_name: str = scope.get_unique_variable_name(name)
        container.add_initializer(unique_name, kind, array.shape, array.ravel().tolist())
        return unique_name

    def node(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, list(inputs), [output], name=scope.get_unique_operator_name(kind), **attributes)
        return output

    total_log = logs.full_name
    if regressor.trend_ is not None:
        trend = regressor.trend_.convert(operator.inputs[0].full_name, node, constant, regressor.trend_part)
        total_log = node("Add", total_log, trend, op_version=14)
    if not regressor.divides_:
        node("Exp", total_log, output=operator.outputs[0].full_name, op_version=13)
        return

    def column(name: str, number: int) -> str:
        index = constant(name, [number])
        return node("Gather", operator.inputs[0].full_name, index, axis=1, op_version=13)

    reference = node(
        "Max",
        column("reference", regressor.reference),
        constant("smallest", [_SMALLEST_REFERENCE]),
        op_version=13,
    )
    ratio = node("Exp", total_log, op_version=13)
    idle = regressor.idle_
    if idle is None:
        node("Mul", ratio, reference, output=operator.outputs[0].full_name, op_version=14)
        return
    load = node("Max", column("load", idle.load), constant("no_load", [0.0]), op_version=13)
    slope = node("Mul", ratio, load, op_version=14)
    idle_ratio = node("Mul", column("idle", idle.ratio), constant("unit", [float(idle.unit)]), op_version=14)
    # The power is idle power + load · slope. It is computed as reference · (idle ratio + load · ratio).
    total = node("Add", idle_ratio, slope, op_version=14)
    node("Mul", total, reference, output=operator.outputs[0].full_name, op_version=14)
