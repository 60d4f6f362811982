"""Trainers that compare with what was seen."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer

NEAR = 1e-4
"""Rows that agree to this part of every feature's scale are copies of one state of the machine."""


class CalmNeighborsRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours whose answer does not hang on the order of equally near rows.

    An idle machine gives many rows that differ in the last digits only. Which of them are the
    nearest is then a matter of rounding, and differs between scikit-learn's releases and the stored
    model. So rows that are near copies are given their common mean, features and target; and states
    that are exactly as far from a third, as counters in whole numbers make them, are told apart by a
    seeded displacement a thousand times smaller than what counts as a copy.
    """

    def __init__(self, n_neighbors: int = 6, seed: int = 0) -> None:
        self.n_neighbors = n_neighbors
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> CalmNeighborsRegressor:
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        _, state = np.unique(np.round(X / NEAR), axis=0, return_inverse=True)
        state = state.reshape(len(X))
        count = np.bincount(state)
        means = np.column_stack([np.bincount(state, weights=column) / count for column in X.T])
        means += NEAR * 1e-3 * np.random.default_rng(self.seed).uniform(-1, 1, means.shape)
        calm_X = means[state]
        calm_y = (np.bincount(state, weights=y) / count)[state]
        self.portable_ = make_pipeline(StandardScaler(), KNeighborsRegressor(self.n_neighbors)).fit(calm_X, calm_y)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.portable_.predict(X))


class KNeighborsRegressorTrainer(Trainer):
    """The mean of the nearest training rows, on standardised features."""

    def __init__(self, n_neighbors: int = 6) -> None:
        self.n_neighbors = n_neighbors

    def regressor(self, task: FitTask) -> Regressor:
        return CalmNeighborsRegressor(self.n_neighbors, task.seed)


class SVRRegressorTrainer(Trainer):
    """Support vector regression (RBF kernel) on standardised features and power.

    `C` and `epsilon` are in standard deviations of the power. A DynPower model's errors add up over a
    node's containers, so its `epsilon` is a tenth.
    """

    def __init__(self, C: float = 10.0, epsilon: float = 0.1) -> None:
        self.C = C
        self.epsilon = epsilon

    def regressor(self, task: FitTask) -> Regressor:
        epsilon = self.epsilon if task.output_type == "AbsPower" else self.epsilon / 10
        svr = SVR(C=self.C, epsilon=epsilon, cache_size=100)
        scaled = TransformedTargetRegressor(svr, transformer=StandardScaler())
        return make_pipeline(StandardScaler(), scaled)  # type: ignore[no-any-return]
