"""Trainers of tree ensembles."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import GradientBoostingRegressor

from kepler_core.contracts import FitTask, Regressor, Trainer


class GradientBoostingRegressorTrainer(Trainer):
    """scikit-learn's gradient boosted regression trees."""

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 3,
        min_samples_leaf: int = 1,
        subsample: float = 1.0,
    ) -> None:
        self.parameters: dict[str, Any] = {
            "n_estimators": n_estimators,
            "learning_rate": learning_rate,
            "max_depth": max_depth,
            "min_samples_leaf": min_samples_leaf,
            "subsample": subsample,
        }

    def regressor(self, task: FitTask) -> Regressor:
        return GradientBoostingRegressor(random_state=task.seed, **self.parameters)  # type: ignore[no-any-return]


class XgboostFitTrainer(Trainer):
    """XGBoost's gradient boosted trees (histogram method, one thread)."""

    extra = "xgboost"

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        min_child_weight: float = 1.0,
        subsample: float = 1.0,
    ) -> None:
        self.parameters: dict[str, Any] = {
            "n_estimators": n_estimators,
            "learning_rate": learning_rate,
            "max_depth": max_depth,
            "min_child_weight": min_child_weight,
            "subsample": subsample,
        }

    def regressor(self, task: FitTask) -> Regressor:
        from xgboost import XGBRegressor

        return XGBRegressor(tree_method="hist", n_jobs=1, random_state=task.seed, **self.parameters)  # type: ignore[no-any-return]
