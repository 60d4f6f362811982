"""Curves over the main feature, which Kepler evaluates itself.

The formulas are those of Kepler's `CurveFit_Weights`: logarithmic a·ln(b·x+1)+c, exponential
a·e^(b·x)+c, logistic A/(1+e^(−k(x−x0)))+off. Bounds on the parameters make sure that power does not fall
as load rises, and that it is not negative at no load.

Fitting is separable: for fixed inner parameters the outer two are a least-squares line. A coarse grid of
inner parameters finds the start for any target, and a bounded least-squares solver refines it.
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

    `fit` sets the inner parameters `inner_` and the line `slope_` ≥ 0, `offset_`, such that
    predict(X) = slope_ · shape(x, *inner_) + offset_.
    """

    curve: ClassVar[str]
    """The name of the formula."""
    inner_grid: ClassVar[tuple[tuple[float, ...], ...]]
    """For each inner parameter the values of the grid. The first and the last are its bounds."""

    def __init__(self, column: int = 0) -> None:
        self.column = column

    @staticmethod
    @abstractmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        """Return the curve without slope and offset. It rises with x."""

    @abstractmethod
    def weights(self, scale: float) -> list[float]:
        """Return Kepler's `CurveFit_Weights` for x in its own unit: the scaled x is x / scale."""

    def fit(self, X: FloatArray, y: FloatArray) -> CurveRegressor:
        x, y = np.asarray(X, dtype=np.float64)[:, self.column], np.asarray(y, dtype=np.float64)
        best: tuple[float, tuple[float, ...], float, float] | None = None
        for inner in itertools.product(*self.inner_grid):
            slope, offset, error = self._line(x, y, inner)
            if best is None or error < best[0]:
                best = error, inner, slope, offset
        assert best is not None  # no grid is empty
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

    The slope is ≥ 0, and the power at `s_idle`, the shape's value at no load, is not negative: Kepler
    stores power in an unsigned integer, where a negative number becomes an enormous one.
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
    """a·ln(b·x+1)+c with a, b ≥ 0."""

    curve = "logarithmic"
    inner_grid = ((1e-2, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e5),)

    @staticmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        return np.log1p(inner[0] * np.maximum(x, 0.0))

    def weights(self, scale: float) -> list[float]:
        return [self.slope_, self.inner_[0] / scale, self.offset_]


class ExponentialRegressor(CurveRegressor):
    """a·e^(b·x)+c with a, b ≥ 0."""

    curve = "exponential"
    inner_grid = ((1e-2, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 8.0),)

    @staticmethod
    def shape(x: FloatArray, *inner: float) -> FloatArray:
        # e^50 is finite, and no machine reaches it
        return np.exp(np.minimum(inner[0] * x, 50.0))

    def weights(self, scale: float) -> list[float]:
        return [self.slope_, self.inner_[0] / scale, self.offset_]


class LogisticRegressor(CurveRegressor):
    """A/(1+e^(−k(x−x0)))+off with A, k ≥ 0."""

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
    """a·ln(b·x+1)+c over the main feature."""

    regressor_class = LogarithmicRegressor


class ExponentialRegressionTrainer(_CurveTrainer):
    """a·e^(b·x)+c over the main feature."""

    regressor_class = ExponentialRegressor


class LogisticRegressionTrainer(_CurveTrainer):
    """A/(1+e^(−k(x−x0)))+off over the main feature."""

    regressor_class = LogisticRegressor
