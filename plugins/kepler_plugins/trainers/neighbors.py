"""Trainers that compare with what was seen."""

from __future__ import annotations

from sklearn.compose import TransformedTargetRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from kepler_core.contracts import FitTask, Regressor, Trainer


class KNeighborsRegressorTrainer(Trainer):
    """The mean of the nearest training rows, on standardised features."""

    def __init__(self, n_neighbors: int = 6) -> None:
        self.n_neighbors = n_neighbors

    def regressor(self, task: FitTask) -> Regressor:
        return make_pipeline(StandardScaler(), KNeighborsRegressor(self.n_neighbors))  # type: ignore[no-any-return]


class SVRRegressorTrainer(Trainer):
    """Support vector regression (RBF kernel) on standardised features and power.

    `C` and `epsilon` are in standard deviations of the power.
    """

    def __init__(self, C: float = 10.0, epsilon: float = 0.05) -> None:
        self.C = C
        self.epsilon = epsilon

    def regressor(self, task: FitTask) -> Regressor:
        svr = SVR(C=self.C, epsilon=self.epsilon, cache_size=100)
        scaled = TransformedTargetRegressor(svr, transformer=StandardScaler())
        return make_pipeline(StandardScaler(), scaled)  # type: ignore[no-any-return]
