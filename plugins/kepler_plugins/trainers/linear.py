"""Trainers of linear and polynomial models."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_plugins.bounds import check_at_least


class LinearRegressionTrainer(Trainer):
    """Fits linear least squares with coefficients that are not negative.

    An idle container has no dynamic power, so DynPower models have no intercept.
    """

    def regressor(self, task: FitTask) -> Regressor:
        return LinearRegression(positive=True, fit_intercept=task.output_type == "AbsPower")  # type: ignore[no-any-return]


class PolynomialRegressionTrainer(Trainer):
    """Fits least squares over all products of features up to a degree.

    Without a penalty, nearly equal features would get huge coefficients of opposite sign. Sums with such coefficients
    are inaccurate in single precision. The ridge penalty `alpha` prevents such coefficients, and is too small to
    change the predictions noticeably.
    """

    def __init__(self, degree: int = 2, alpha: float = 1e-4) -> None:
        check_at_least("degree", degree, 1)
        check_at_least("alpha", alpha, 0)
        self.degree = degree
        self.alpha = alpha

    def regressor(self, task: FitTask) -> Regressor:
        terms = PolynomialFeatures(self.degree, include_bias=False)
        return make_pipeline(terms, Ridge(alpha=self.alpha))  # type: ignore[no-any-return]


def non_negative_solution(A: FloatArray, y: FloatArray) -> FloatArray:
    """Return the vector w ≥ 0 that minimises ‖Aw − y‖². Its length is the number of columns of A.

    SciPy solves the problem with the method of Lawson and Hanson (1974).
    """
    if not A.shape[1]:
        return np.zeros(0)
    # Replace A and y by the triangular factor of the QR decomposition of [A, y]. The solution stays the same, but this
    # factor has few rows.
    r: FloatArray = np.linalg.qr(np.column_stack([A, y]), mode="r")  # type: ignore[assignment]
    return np.asarray(nnls(r[:, :-1], r[:, -1], maxiter=100 * A.shape[1])[0])


class NonNegativeLeastSquares(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Least squares with weights w ≥ 0 and intercept b ≥ 0: minimises ‖Xw + b − y‖² over w and b.

    The weights of the columns in `left_out`, and of columns that are constant in X, are 0. `fit` sets `coef_`, shape
    (features,), and `intercept_`.
    """

    def __init__(self, fit_intercept: bool = True, left_out: tuple[int, ...] = ()) -> None:
        self.fit_intercept = fit_intercept
        self.left_out = left_out

    def fit(self, X: FloatArray, y: FloatArray) -> NonNegativeLeastSquares:
        X = np.asarray(X, dtype=np.float64)
        weighted = np.ptp(X, axis=0) > 0
        weighted[list(self.left_out)] = False
        A = X[:, weighted]
        if self.fit_intercept:
            A = np.column_stack([A, np.ones(len(X))])
        solution = non_negative_solution(A, np.asarray(y, dtype=np.float64))
        self.coef_ = np.zeros(X.shape[1])
        self.coef_[weighted] = solution[: np.count_nonzero(weighted)]
        self.intercept_ = float(solution[-1]) if self.fit_intercept else 0.0
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(np.asarray(X) @ self.coef_ + self.intercept_)


class SGDRegressorTrainer(Trainer):
    """Fits non-negative least squares: neither the weights nor the bias are negative.

    Kepler evaluates the linear weights itself. It requests them under the name SGDRegressorTrainer, although
    the solver is exact and does not use stochastic gradient descent (SGD). The weights of
    rare features (`FitTask.rare_columns`) and of features that never vary are 0, so Kepler does not use these features.
    """

    def regressor(self, task: FitTask) -> Regressor:
        return NonNegativeLeastSquares(task.output_type == "AbsPower", task.rare_columns)
