"""The trainer of a blend: the mean of five models, which are tree ensembles and a physical model with corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, check_X_y

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_core.honesty.ratios import RATIO_FEATURES
from kepler_core.models.power_model import ceiling_of
from kepler_core.vocabulary import PREVIOUS_SUFFIX
from kepler_plugins.bounds import check_above, check_at_least, check_at_most
from kepler_plugins.model_formats.blend import (
    LAYOUT,
    StoredBlend,
    StoredEnsemble,
    StoredPhysical,
    StoredRatio,
    StoredTerms,
)
from kepler_plugins.model_formats.blend_terms import LogRatio, PhysicalModel, physical_terms, with_ratios
from kepler_plugins.model_formats.stored_trees import FittedTree, encode
from kepler_plugins.trainers.fitted_trees import of_decision_trees, of_histogram_trees
from kepler_plugins.trainers.linear import non_negative_solution
from kepler_plugins.trainers.rising_features import rising

_FACTOR = 0.2
"""Factor of each of the five models. The factors are equal, because no model is the best on all held-out data."""


class BlendRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of five models: three tree ensembles, and a physical model with two different corrections.

    The three ensembles are gradient boosting, gradient boosting whose power never falls with more work, and extra
    trees. The physical model is a non-negative linear model over each feature, the root of the feature and the square
    of the feature. The predictions of the physical model have an upper limit. One correction is gradient boosting, the
    other correction is extra trees. The corrections are fitted to the residual of the physical model. All trees also
    compare ratios of features (`RATIO_FEATURES`). The values in X must be exact in single precision, because the
    stored model gets its input in single precision.
    """

    def __init__(
        self,
        features: tuple[str, ...],
        scale: tuple[float, ...],
        fit_intercept: bool = True,
        boosted_trees: int = 200,
        extra_trees: int = 50,
        learning_rate: float = 0.05,
        min_samples_leaf: int = 3,
        seed: int = 0,
    ) -> None:
        self.features = features
        self.scale = scale
        self.fit_intercept = fit_intercept
        self.boosted_trees = boosted_trees
        self.extra_trees = extra_trees
        self.learning_rate = learning_rate
        self.min_samples_leaf = min_samples_leaf
        self.seed = seed

    def fit(self, X: FloatArray, y: FloatArray) -> BlendRegressor:
        X, y = check_X_y(X, y, dtype=np.float64, order="C")
        scale = self.scale or (1.0,) * len(self.features)
        column = {name: index for index, name in enumerate(self.features)}
        self.ratios_ = tuple(
            LogRatio(column[top], column[bottom], scale[column[top]], scale[column[bottom]])
            for top, bottom in RATIO_FEATURES.values()
            if top in column and bottom in column
        )
        self.physical_ = self._fitted_physical(X, y)
        columns = self._columns(X)
        mean = float(y.mean())
        self.mean_ = mean
        self.boosting_ = self._boosting(len(X)).fit(columns, y - mean)
        self.rising_boosting_ = self._rising_boosting(columns.shape[1]).fit(columns, y)
        self.extra_trees_ = self._extra_trees().fit(columns, y)
        residual = y - self.physical_.predict(X.astype(np.float32))
        self.residual_boosting_ = self._boosting(len(X)).fit(columns, residual)
        self.residual_trees_ = self._extra_trees().fit(columns, residual)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        check_is_fitted(self)
        X = np.ascontiguousarray(X, dtype=np.float64)
        columns = self._columns(X)
        physical = self.physical_.predict(X.astype(np.float32))
        parts = (
            self.mean_ + self.boosting_.predict(columns),
            self.rising_boosting_.predict(columns),
            self.extra_trees_.predict(columns),
            physical + self.residual_boosting_.predict(columns),
            physical + self.residual_trees_.predict(columns),
        )
        return np.asarray(_FACTOR * sum(parts))

    def blend(self, features: Sequence[str]) -> StoredBlend:
        """Return the content of the file that stores this regressor; `features` names the columns of X."""
        terms = zip(features, self.physical_.weights.T.tolist(), strict=True)
        return StoredBlend(
            layout=LAYOUT,
            features=list(features),
            ratios=[
                StoredRatio(features[ratio.top], features[ratio.bottom], ratio.top_scale, ratio.bottom_scale)
                for ratio in self.ratios_
            ],
            physical=StoredPhysical(
                factor=2 * _FACTOR,  # the physical model is a part of two of the five models
                terms={name: StoredTerms(*weights) for name, weights in terms},
                bias=self.physical_.bias,
                highest=self.physical_.highest,
            ),
            ensembles=list(self._ensembles()),
        )

    def _columns(self, X: FloatArray) -> FloatArray:
        """Return the columns that the trees compare: the features and their ratios, rounded to single precision."""
        return with_ratios(X.astype(np.float32), self.ratios_).astype(np.float64)

    def _fitted_physical(self, X: FloatArray, y: FloatArray) -> PhysicalModel:
        # The physical model uses only the present load, not the load at the previous timestamp.
        present = np.array([not name.endswith(PREVIOUS_SUFFIX) for name in self.features])
        columns = np.hstack(physical_terms(X[:, present].astype(np.float32)))
        terms = np.hstack([columns, np.ones((len(X), int(self.fit_intercept)))])
        solution = non_negative_solution(terms, y)
        weights = np.zeros((3, X.shape[1]))
        weights[:, present] = solution[: columns.shape[1]].reshape(3, -1)
        bias = float(solution[-1]) if self.fit_intercept else 0.0
        return PhysicalModel(weights, bias, ceiling_of(float(y.max())))

    def _boosting(self, rows: int) -> Any:
        return GradientBoostingRegressor(
            init="zero",  # `fit` has subtracted the mean of y
            n_estimators=self.boosted_trees,
            learning_rate=self.learning_rate,
            max_depth=4,
            min_samples_leaf=self.min_samples_leaf,
            subsample=0.8 if rows > 1 else 1.0,  # with 0.8, a single row would give no row
            random_state=self.seed,
        )

    def _rising_boosting(self, n_columns: int) -> Any:
        names = (*self.features, *("",) * (n_columns - len(self.features)))
        return HistGradientBoostingRegressor(
            max_iter=self.boosted_trees,
            learning_rate=self.learning_rate,
            min_samples_leaf=3 * self.min_samples_leaf,
            monotonic_cst=rising(names),
            early_stopping=False,
            random_state=self.seed,
        )

    def _extra_trees(self) -> Any:
        return ExtraTreesRegressor(
            self.extra_trees,
            max_leaf_nodes=64,  # leaf masks support at most 64 leaves per tree
            min_samples_leaf=self.min_samples_leaf,
            random_state=self.seed,
        )

    def _ensembles(self) -> Iterator[StoredEnsemble]:
        rising_trees, base = of_histogram_trees(self.rising_boosting_)
        boosted = of_decision_trees(self.boosting_.estimators_[:, 0], self.learning_rate)
        residual_boosted = of_decision_trees(self.residual_boosting_.estimators_[:, 0], self.learning_rate)
        parts: list[tuple[str, list[FittedTree], float]] = [
            ("gradient boosting", boosted, self.mean_),
            ("gradient boosting that never falls with more work", rising_trees, base),
            ("extra trees", of_decision_trees(self.extra_trees_.estimators_, 1 / self.extra_trees), 0.0),
            ("gradient boosting on the residual of the physical model", residual_boosted, 0.0),
            (
                "extra trees on the residual of the physical model",
                of_decision_trees(self.residual_trees_.estimators_, 1 / self.extra_trees),
                0.0,
            ),
        ]
        for name, trees, base_watts in parts:
            features, numbers = encode(trees)
            library = f"scikit-learn {sklearn.__version__}"
            yield StoredEnsemble(name, library, _FACTOR, base_watts, features, numbers)


class BlendTrainer(Trainer):
    """Fits the mean of five models with different weaknesses: see `BlendRegressor`.

    Each of the three boosted ensembles has `boosted_trees` trees. Each of the two ensembles of extra trees has
    `extra_trees` trees.
    """

    model_format = "blend"

    def __init__(
        self,
        boosted_trees: int = 200,
        extra_trees: int = 50,
        learning_rate: float = 0.05,
        min_samples_leaf: int = 3,
    ) -> None:
        check_at_least("boosted_trees", boosted_trees, 1)
        check_at_most("boosted_trees", boosted_trees, 300)  # the limits of a stored blend, see `blend.MAX_GROUPS`
        check_at_least("extra_trees", extra_trees, 1)
        check_at_most("extra_trees", extra_trees, 150)
        check_above("learning_rate", learning_rate, 0)
        check_at_least("min_samples_leaf", min_samples_leaf, 1)
        self.parameters: dict[str, Any] = {
            "boosted_trees": boosted_trees,
            "extra_trees": extra_trees,
            "learning_rate": learning_rate,
            "min_samples_leaf": min_samples_leaf,
        }

    def regressor(self, task: FitTask) -> Regressor:
        intercept = task.output_type == "AbsPower"
        return BlendRegressor(task.features, task.scale, intercept, seed=task.seed, **self.parameters)
