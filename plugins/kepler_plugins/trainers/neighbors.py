"""Trainers that compare a row with training rows."""

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
"""Rows whose features agree to this part of the scale count as one state of the machine."""


class StableNeighborsRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours whose predictions do not depend on rounding errors.

    An idle machine gives many rows that differ only in the last digits. Rounding would decide which of
    them are nearest, and scikit-learn and the stored model round differently. So the rows of one state
    (see `NEAR`) get the mean of their features and of their power. Two states can also have exactly the
    same distance from a third, because counters are whole numbers. A seeded displacement of the states,
    a thousandth of `NEAR`, makes their distances differ.
    """

    def __init__(self, n_neighbors: int = 6, seed: int = 0) -> None:
        self.n_neighbors = n_neighbors
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> StableNeighborsRegressor:
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        _, state = np.unique(np.round(X / NEAR), axis=0, return_inverse=True)
        state = state.reshape(len(X))
        count = np.bincount(state)
        means = np.column_stack([np.bincount(state, weights=column) / count for column in X.T])
        means += NEAR * 1e-3 * np.random.default_rng(self.seed).uniform(-1, 1, means.shape)
        mean_X = means[state]
        mean_y = (np.bincount(state, weights=y) / count)[state]
        self.portable_ = make_pipeline(StandardScaler(), KNeighborsRegressor(self.n_neighbors)).fit(mean_X, mean_y)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.portable_.predict(X))


class KNeighborsRegressorTrainer(Trainer):
    """The mean of the nearest training rows, on standardised features."""

    def __init__(self, n_neighbors: int = 6) -> None:
        self.n_neighbors = n_neighbors

    def regressor(self, task: FitTask) -> Regressor:
        return StableNeighborsRegressor(self.n_neighbors, task.seed)


class SVRRegressorTrainer(Trainer):
    """Support vector regression (RBF kernel) on standardised features and power.

    `C` and `epsilon` are in standard deviations of the power. The errors of a DynPower model add up over
    the containers of a node, so a DynPower model uses a tenth of `epsilon`.
    """

    def __init__(self, C: float = 10.0, epsilon: float = 0.1) -> None:
        self.C = C
        self.epsilon = epsilon

    def regressor(self, task: FitTask) -> Regressor:
        epsilon = self.epsilon if task.output_type == "AbsPower" else self.epsilon / 10
        svr = SVR(C=self.C, epsilon=epsilon, cache_size=100)
        scaled = TransformedTargetRegressor(svr, transformer=StandardScaler())
        return make_pipeline(StandardScaler(), scaled)  # type: ignore[no-any-return]
