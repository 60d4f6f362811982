"""Trainers of models that compare a row with the training rows: nearest neighbours and support vectors."""

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
from kepler_plugins.bounds import check_above, check_at_least
from kepler_plugins.trainers.standardisation import standardiser, varying

NEAR = 1e-4
"""Rows count as one state of the machine if their scaled features, rounded to multiples of this number, are equal."""


class StableNeighborsRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor with nearest neighbours, whose predictions do not depend on rounding errors.

    Scikit-learn and the stored model round differently. Without precautions, they would therefore find different
    neighbours, for two reasons:

    - An idle machine gives many rows that differ only in the last digits. So all rows of one state of the machine
      (see `NEAR`) are replaced by the mean of their features and the mean of their power.
    - Two states can have exactly the same distance from a third state, because counters are whole numbers. So each
      state is moved by a seeded random distance of at most a thousandth of `NEAR` per feature.

    Constant features (see `varying`) are neither compared nor moved.
    """

    def __init__(self, n_neighbors: int = 6, seed: int = 0) -> None:
        self.n_neighbors = n_neighbors
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> StableNeighborsRegressor:
        X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        compared = np.where(varying(X), X, 0.0)
        _, state = np.unique(np.round(compared / NEAR), axis=0, return_inverse=True)
        state = state.reshape(len(X))
        count = np.bincount(state)
        means = np.column_stack([np.bincount(state, weights=column) / count for column in compared.T])
        displacement = NEAR * 1e-3 * np.random.default_rng(self.seed).uniform(-1, 1, means.shape)
        mean_X = np.where(varying(X), means + displacement, 0.0)[state]
        mean_y = (np.bincount(state, weights=y) / count)[state]
        scaler = standardiser(mean_X)
        neighbors = KNeighborsRegressor(self.n_neighbors).fit(scaler.transform(mean_X), mean_y)
        self.portable_ = make_pipeline(scaler, neighbors)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.portable_.predict(X))


class KNeighborsRegressorTrainer(Trainer):
    """Predicts the mean power of the nearest training rows. The features are standardised."""

    def __init__(self, n_neighbors: int = 6) -> None:
        check_at_least("n_neighbors", n_neighbors, 1)
        self.n_neighbors = n_neighbors

    def regressor(self, task: FitTask) -> Regressor:
        return StableNeighborsRegressor(self.n_neighbors, task.seed)


class StandardisedSupportVectorRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Support vector regression (RBF kernel) on standardised features and power, without constant features."""

    def __init__(self, C: float = 10.0, epsilon: float = 0.1) -> None:
        self.C = C
        self.epsilon = epsilon

    def fit(self, X: FloatArray, y: FloatArray) -> StandardisedSupportVectorRegressor:
        X = np.asarray(X, dtype=np.float64)
        scaler = standardiser(X)
        svr = SVR(C=self.C, epsilon=self.epsilon, cache_size=100)
        scaled = TransformedTargetRegressor(svr, transformer=StandardScaler()).fit(scaler.transform(X), y)
        self.portable_ = make_pipeline(scaler, scaled)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        return np.asarray(self.portable_.predict(X))


class SVRRegressorTrainer(Trainer):
    """Fits support vector regression (RBF kernel) on standardised features and power.

    `C` and `epsilon` are in standard deviations of the power. The errors of a DynPower model add up over the
    containers of a node, so the trainer uses a tenth of `epsilon` for a DynPower model.
    """

    def __init__(self, C: float = 10.0, epsilon: float = 0.1) -> None:
        check_above("C", C, 0)
        check_at_least("epsilon", epsilon, 0)
        self.C = C
        self.epsilon = epsilon

    def regressor(self, task: FitTask) -> Regressor:
        epsilon = self.epsilon if task.output_type == "AbsPower" else self.epsilon / 10
        return StandardisedSupportVectorRegressor(self.C, epsilon)
