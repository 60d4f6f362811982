"""Trainers of tree ensembles."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor

from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_plugins.bounds import check_above, check_at_least, check_at_most
from kepler_plugins.trainers.rising_features import RISING_FEATURES, rising


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


class HistGradientBoostingRegressorTrainer(Trainer):
    """Fits scikit-learn's histogram-based boosted trees, whose power never falls if a CPU does more work.

    `rising` names features: if the value of one of them rises and no other feature changes, the predicted power never
    falls. By default, these are the features in `RISING_FEATURES`. A name that a feature group lacks has no effect.
    With an empty list, the predicted power may fall with any feature.
    """

    def __init__(
        self,
        max_iter: int = 100,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 31,
        min_samples_leaf: int = 10,
        l2_regularization: float = 0.0,
        rising: list[str] | None = None,
    ) -> None:
        check_at_least("max_iter", max_iter, 1)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("max_leaf_nodes", max_leaf_nodes, 2)
        check_at_most("max_leaf_nodes", max_leaf_nodes, 64)  # leaf masks support at most 64 leaves per tree
        check_at_least("min_samples_leaf", min_samples_leaf, 1)
        check_at_least("l2_regularization", l2_regularization, 0)
        self.rising = RISING_FEATURES if rising is None else tuple(rising)
        self.parameters: dict[str, Any] = {
            "max_iter": max_iter,
            "learning_rate": learning_rate,
            "max_leaf_nodes": max_leaf_nodes,
            "min_samples_leaf": min_samples_leaf,
            "l2_regularization": l2_regularization,
        }

    def regressor(self, task: FitTask) -> Regressor:
        # With more than 10,000 rows, scikit-learn's default is to stop early if the error on random rows no longer
        # falls. But these random rows are nearly copies of training rows.
        return HistGradientBoostingRegressor(  # type: ignore[no-any-return]
            early_stopping=False,
            monotonic_cst=rising(task.features, self.rising),
            random_state=task.seed,
            **self.parameters,
        )


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
