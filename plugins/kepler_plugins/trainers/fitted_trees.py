"""Read the trees of fitted scikit-learn ensembles."""

from __future__ import annotations

from typing import Any

import numpy as np

from kepler_plugins.model_formats.stored_trees import FittedTree
from kepler_plugins.model_formats.tree_ensemble import rounded_down


def of_decision_trees(trees: Any, factor: float) -> list[FittedTree]:
    """Return the trees of an ensemble of `DecisionTreeRegressor`. The values of the leaves are multiplied by `factor`.

    `trees` are the elements of the ensemble's `estimators_`. For a `GradientBoostingRegressor`, `factor` is the
    learning rate. For an ensemble that predicts the mean of its trees, `factor` is 1 / number of trees.
    """
    fitted = []
    for regressor in trees:
        tree = regressor.tree_
        fitted.append(
            FittedTree(
                left=tree.children_left,
                right=tree.children_right,
                is_leaf=tree.children_left < 0,
                feature=tree.feature,
                threshold=rounded_down(tree.threshold),
                value=tree.value[:, 0, 0] * factor,
            )
        )
    return fitted


def of_histogram_trees(regressor: Any) -> tuple[list[FittedTree], float]:
    """Return the trees of a `HistGradientBoostingRegressor`, and the power that is added to their sum.

    scikit-learn has no public access to these trees. Its versions 1.5 to 1.9 keep them in `_predictors`.
    """
    fitted = []
    for (tree,) in regressor._predictors:
        nodes = tree.nodes
        fitted.append(
            FittedTree(
                left=nodes["left"],
                right=nodes["right"],
                is_leaf=nodes["is_leaf"],
                feature=nodes["feature_idx"],
                threshold=rounded_down(nodes["num_threshold"]),
                value=nodes["value"],
            )
        )
    return fitted, float(np.asarray(regressor._baseline_prediction).item())
