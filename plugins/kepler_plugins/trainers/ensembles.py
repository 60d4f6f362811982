"""Trainers of tree ensembles."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import GradientBoostingRegressor

from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_plugins.bounds import check_above, check_at_least


class GradientBoostingRegressorTrainer(Trainer):
    """Fits scikit-learn's gradient boosted regression trees."""

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 3,
        min_samples_leaf: int = 1,
        subsample: float = 1.0,
    ) -> None:
        check_at_least("n_estimators", n_estimators, 1)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("max_depth", max_depth, 1)
        check_at_least("min_samples_leaf", min_samples_leaf, 1)
        check_above("subsample", subsample, 0, highest=1)
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
    """Fits XGBoost's gradient boosted trees (histogram method, one thread)."""

    extra = "xgboost"

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 4,
        min_child_weight: float = 1.0,
        subsample: float = 1.0,
    ) -> None:
        check_at_least("n_estimators", n_estimators, 1)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("max_depth", max_depth, 0)  # 0 means no limit
        check_at_least("min_child_weight", min_child_weight, 0)
        check_above("subsample", subsample, 0, highest=1)
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
