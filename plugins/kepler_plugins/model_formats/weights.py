"""The model format `weights`, which stores linear models and curves as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import JointPredictor, ModelFormat, Predictor, Regressor, RowFunction
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import ModelError
from kepler_plugins.model_formats.ordered_sums import sum_in_order

MAX_FACTOR = 1e30
"""Upper bound of all numbers by which the evaluation of a model multiplies a weight.

A scaled feature is at most 1e6, and the exponential function in a curve is at most e^50.
"""


class Linear(msgspec.Struct, tag="linear", forbid_unknown_fields=True):
    """The weights of a linear model, which predicts bias + Σ weights · x from the scaled features x."""

    weights: dict[str, float]
    bias: float

    def predictor(self, features: Sequence[str]) -> LinearPredictor:
        return LinearPredictor(np.array([self.weights.get(name, 0.0) for name in features]), np.array(self.bias))

    def numbers(self) -> list[float]:
        return [*self.weights.values(), self.bias]


class Curve(msgspec.Struct, tag="curve", forbid_unknown_fields=True):
    """The weights of one of Kepler's curves over a single scaled feature."""

    curve: str
    feature: str
    weights: list[float]

    def predictor(self, features: Sequence[str]) -> CurvePredictor:
        return CurvePredictor(CURVES[self.curve][1], list(features).index(self.feature), self.weights)

    def numbers(self) -> list[float]:
        return self.weights


def _logarithmic(x: FloatArray, a: float, b: float, c: float) -> FloatArray:
    return a * np.log1p(b * np.maximum(x, 0.0)) + c


def _exponential(x: FloatArray, a: float, b: float, c: float) -> FloatArray:
    return a * np.exp(np.minimum(b * x, 50.0)) + c


def _logistic(x: FloatArray, height: float, x0: float, k: float, offset: float) -> FloatArray:
    return height / (1.0 + np.exp(np.clip(-k * (x - x0), -500.0, 500.0))) + offset


CURVES: dict[str, tuple[int, Any]] = {
    "logarithmic": (3, _logarithmic),
    "exponential": (3, _exponential),
    "logistic": (4, _logistic),
}
"""For each curve, the number of its weights, and its formula. Kepler defines the order of the weights."""

_FACTORS_OF_X: dict[str, tuple[int, ...]] = {"logarithmic": (1,), "exponential": (1,), "logistic": (2,)}
"""For each curve, the indices of the weights by which the formula multiplies x."""
_POSITIONS_ON_X: dict[str, tuple[int, ...]] = {"logarithmic": (), "exponential": (), "logistic": (1,)}
"""For each curve, the indices of the weights that are values of x, such as the midpoint of the logistic curve."""


@attrs.frozen(eq=False)
class LinearPredictor:
    """Predicts Σ weights · features + bias in double precision, for one component or several components."""

    coefficients: FloatArray
    """Weights of the features. The shape is (features,) for one component and (components, features) for several."""
    bias: FloatArray
    """Bias in watts. The shape is () for one component and (components, 1) for several."""

    _by_feature: FloatArray = attrs.field(init=False)
    """The coefficients, shape (features, 1) for one component and (features, components, 1) for several."""

    @_by_feature.default
    def _coefficients_of_features(self) -> FloatArray:
        return np.ascontiguousarray(self.coefficients.T)[..., None]

    def predict(self, X: SingleArray) -> FloatArray:
        columns = X.T.astype(np.float64)
        # A product of matrices is faster, but it rounds sums differently for each number of rows and each processor.
        watts = sum_in_order(self._by_feature * (columns if self.coefficients.ndim == 1 else columns[:, None]))
        watts += self.bias
        return watts

    def row_function(self) -> RowFunction:
        """Return a function that predicts a single row with Python's floats."""
        lines = list(zip(np.atleast_2d(self.coefficients).tolist(), np.ravel(self.bias).tolist(), strict=True))

        def predict_row(row: list[float]) -> list[float]:
            watts = []
            for weights, bias in lines:
                total = 0.0
                for weight, value in zip(weights, row, strict=True):
                    total += weight * value  # `sum` of Python 3.12 and later rounds differently
                watts.append(total + bias)
            return watts

        return predict_row


@attrs.frozen(eq=False)
class CurvePredictor:
    """Predicts the values of a curve over one column of X."""

    curve: Callable[..., FloatArray]
    column: int
    weights: Sequence[float]

    def predict(self, X: SingleArray) -> FloatArray:
        return self.curve(X[:, self.column].astype(np.float64), *self.weights)


class WeightsFormat(ModelFormat):
    """Stores linear regressors (with `coef_` and `intercept_`) and Kepler's curves as JSON weights."""

    suffix = ".json"

    def supports(self, regressor: Regressor) -> bool:
        if hasattr(regressor, "curve"):
            return regressor.curve in CURVES
        # Linear models have a flat coef_ and a single intercept_. Kernel models and pipelines have no flat coef_.
        return np.ndim(getattr(regressor, "coef_", 0)) == 1 and np.ndim(getattr(regressor, "intercept_", [])) == 0

    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        fitted: Any = regressor  # `supports` has accepted the regressor's type
        if hasattr(fitted, "curve"):
            numbers = [float(weight) for weight in fitted.weights(1.0)]
            weights: Linear | Curve = Curve(fitted.curve, features[fitted.column], numbers)
        else:
            by_name = dict(zip(features, map(float, fitted.coef_), strict=True))
            weights = Linear(by_name, float(fitted.intercept_))
        if not np.isfinite(weights.numbers()).all():
            raise ModelError("a weight is not finite")
        return msgspec.json.encode(weights)

    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        return self._decoded(content, features).predictor(features)

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        linear = [predictor for predictor in predictors if isinstance(predictor, LinearPredictor)]
        if len(linear) < len(predictors):
            return None
        return LinearPredictor(
            np.array([predictor.coefficients for predictor in linear]),
            np.array([[float(predictor.bias)] for predictor in linear]),
        )

    def weights(self, content: bytes, features: Sequence[str], scale: Mapping[str, float]) -> dict[str, Any]:
        weights = self._decoded(content, features)
        if isinstance(weights, Linear):
            numerical = {f: {"scale": scale[f], "weight": weights.weights.get(f, 0.0)} for f in features}
            return {
                "All_Weights": {
                    "Bias_Weight": weights.bias,
                    "Categorical_Variables": {},
                    "Numerical_Variables": numerical,
                }
            }
        feature_scale = scale[weights.feature]
        curve = list(weights.weights)
        for index in _FACTORS_OF_X[weights.curve]:
            curve[index] /= feature_scale
        for index in _POSITIONS_ON_X[weights.curve]:
            curve[index] *= feature_scale
        # These weights apply to the unscaled feature, so the scale by which Kepler divides the feature is 1.
        return {
            "All_Weights": {
                "Categorical_Variables": {},
                "Numerical_Variables": {weights.feature: {"scale": 1.0}},
                "CurveFit_Weights": curve,
            }
        }

    def _decoded(self, content: bytes, features: Sequence[str]) -> Linear | Curve:
        try:
            weights = decode_json(content, Linear | Curve)
        except DocumentError as error:
            raise ModelError(f"not a weights file: {error}") from error
        if not math.isfinite(sum(map(abs, weights.numbers())) * MAX_FACTOR):
            raise ModelError("the weights are so large that their sum may overflow")
        if isinstance(weights, Curve):
            if weights.curve not in CURVES or len(weights.weights) != CURVES[weights.curve][0]:
                raise ModelError(
                    f"not a weights file: Kepler has no formula for a curve named {weights.curve!r} with "
                    f"{len(weights.weights)} weights"
                )
            if weights.feature not in features:
                raise ModelError(f"the feature {weights.feature!r} of the weights is not one of the model's features")
        elif unknown := sorted(set(weights.weights) - set(features)):
            raise ModelError(f"the feature {unknown[0]!r} of the weights is not one of the model's features")
        return weights
