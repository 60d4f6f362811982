"""Trainers of curves over the main feature. Kepler can evaluate such curves itself.

The formulas are those of Kepler's `CurveFit_Weights`, where x is the main feature: logarithmic a·ln(b·x+1)+c,
exponential a·e^(b·x)+c, logistic A/(1+e^(−k(x−x0)))+off. All other letters are parameters that are fitted.
Bounds on the parameters make sure that power does not fall as load rises, and that it is not negative at no
load.

The inner parameters (b, or k and x0) determine the shape of a curve. The two outer parameters (a and c, or A
and off) are its slope and offset. For fixed inner parameters, linear least squares gives the outer
parameters. So a fit first tries a coarse grid of inner parameters, and then refines the best point of the grid
with a bounded least-squares solver.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import least_squares
from sklearn.base import BaseEstimator, RegressorMixin

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer


class CurveRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A rising curve over one column of X.

    `fit` sets the inner parameters `inner_`, the slope `slope_` ≥ 0 and the offset `offset_` of the curve. The
    prediction for a value x of the column is slope_ · shape(x, *inner_) + offset_.
    """

    curve: ClassVar[str]
    """Name of the formula: "logarithmic", "exponential" or "logistic"."""
    inner_grid: ClassVar[tuple[tuple[float, ...], ...]]
    """Values that the fit tries for each inner parameter, i.e. each parameter of the curve's shape.

    The first and the last of these values are also the bounds of the parameter.
    """

    def __init__(self, column: int = 0) -> None:
        self.column = column

    @staticmethod
    @abstractmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        """Return the values of the curve with slope 1 and offset 0. They rise with x."""

    @abstractmethod
    def weights(self, scale: float) -> list[float]:
        """Return Kepler's `CurveFit_Weights` for x in its own unit. The curve itself was fitted to x / `scale`."""

    def fit(self, X: FloatArray, y: FloatArray) -> CurveRegressor:
        x, y = np.asarray(X, dtype=np.float64)[:, self.column], np.asarray(y, dtype=np.float64)
        best: tuple[float, tuple[float, ...], float, float] | None = None
        for inner in itertools.product(*self.inner_grid):
            slope, offset, error = self._line(x, y, inner)
            if best is None or error < best[0]:
                best = error, inner, slope, offset
        assert best is not None  # the loop runs at least once, because every grid has a value
        self.inner_, self.slope_, self.offset_ = best[1], best[2], best[3]
        if self.slope_ > 0:
            self._refine(x, y)
        self.n_features_in_ = np.shape(X)[1]
        return self

    def _refine(self, x: FloatArray, y: FloatArray) -> None:
        lower = np.array([grid[0] for grid in self.inner_grid])
        upper = np.array([grid[-1] for grid in self.inner_grid])

        def residuals(inner: FloatArray) -> FloatArray:
            slope, offset, _ = self._line(x, y, inner)
            return slope * self.shape(x, *inner) + offset - y

        start = np.clip(self.inner_, lower + 1e-9, upper - 1e-9)
        solution = least_squares(residuals, start, bounds=(lower, upper), x_scale=np.maximum(np.abs(start), 0.1))
        slope, offset, error = self._line(x, y, solution.x)
        if error <= self._line(x, y, self.inner_)[2]:
            self.inner_, self.slope_, self.offset_ = tuple(map(float, solution.x)), slope, offset

    def _line(self, x: FloatArray, y: FloatArray, inner: Iterable[float]) -> tuple[float, float, float]:
        return _rising_line(self.shape(x, *inner), float(self.shape(np.zeros(1), *inner)[0]), y)

    def predict(self, X: FloatArray) -> FloatArray:
        x = np.asarray(X, dtype=np.float64)[:, self.column]
        return np.asarray(self.slope_ * self.shape(x, *self.inner_) + self.offset_)


def _rising_line(s: FloatArray, s_idle: float, y: FloatArray) -> tuple[float, float, float]:
    """Return slope, offset and sum of squared errors of the least-squares line y ≈ slope·s + offset.

    `s` has the values of `CurveRegressor.shape` for the training rows. `s_idle` is the value of `shape` at no load.
    `y` is the measured power. The slope is ≥ 0, and the line's power at no load is not negative: Kepler stores power
    in an unsigned integer, in which a negative number becomes an enormous one.
    """
    s_mean, y_mean = float(s.mean()), float(y.mean())
    ds = s - s_mean
    spread = float(ds @ ds)
    slope = max(float(ds @ (y - y_mean)) / spread, 0.0) if spread > 1e-300 else 0.0
    offset = y_mean - slope * s_mean
    if slope * s_idle + offset < 0:
        rise = s - s_idle
        slope = max(float(rise @ y) / float(rise @ rise), 0.0)
        offset = -slope * s_idle
    error = y - (slope * s + offset)
    return slope, offset, float(error @ error)


class LogarithmicRegressor(CurveRegressor):
    """A regressor that fits the logarithmic curve a·ln(b·x+1)+c with a, b ≥ 0."""

    curve = "logarithmic"
    inner_grid = ((1e-2, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5),)

    @staticmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        return np.log1p(inner[0] * np.maximum(x, 0.0))

    def weights(self, scale: float) -> list[float]:
        return [self.slope_, self.inner_[0] / scale, self.offset_]


class ExponentialRegressor(CurveRegressor):
    """A regressor that fits the exponential curve a·e^(b·x)+c with a, b ≥ 0."""

    curve = "exponential"
    inner_grid = ((1e-2, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0),)

    @staticmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        # The exponent is limited to 50, because e^50 is finite, and is far above the power of any machine.
        return np.exp(np.minimum(inner[0] * x, 50.0))

    def weights(self, scale: float) -> list[float]:
        return [self.slope_, self.inner_[0] / scale, self.offset_]


class LogisticRegressor(CurveRegressor):
    """A regressor that fits the logistic curve A/(1+e^(−k(x−x0)))+off with A, k ≥ 0."""

    curve = "logistic"
    inner_grid = ((0.5, 2.0, 5.0, 10.0, 20.0, 50.0), (-0.5, 0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0))

    @staticmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        return 1.0 / (1.0 + np.exp(np.clip(-inner[0] * (x - inner[1]), -500.0, 500.0)))

    def weights(self, scale: float) -> list[float]:
        return [self.slope_, self.inner_[1] * scale, self.inner_[0] / scale, self.offset_]


class _CurveTrainer(Trainer):
    regressor_class: ClassVar[type[Any]]

    def regressor(self, task: FitTask) -> Regressor:
        return self.regressor_class(column=task.main_column)  # type: ignore[no-any-return]


class LogarithmicRegressionTrainer(_CurveTrainer):
    """Fits the logarithmic curve a·ln(b·x+1)+c, where x is the main feature."""

    regressor_class = LogarithmicRegressor


class ExponentialRegressionTrainer(_CurveTrainer):
    """Fits the exponential curve a·e^(b·x)+c, where x is the main feature."""

    regressor_class = ExponentialRegressor


class LogisticRegressionTrainer(_CurveTrainer):
    """Fits the logistic curve A/(1+e^(−k(x−x0)))+off, where x is the main feature."""

    regressor_class = LogisticRegressor
