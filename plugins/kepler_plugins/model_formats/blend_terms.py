"""The columns and physical terms that a blend computes from a model's features.

Training and evaluation share these functions, so that trees compare the same numbers with their thresholds in training
and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, SingleArray


@attrs.frozen
class LogRatio:
    """The logarithm of the ratio of two counters, both in their own units: ln((top + 1) / (bottom + 1)).

    The addition of 1 makes the logarithm finite if a counter is 0. A counter below 0 counts as 0.
    """

    top: int
    """Column of the numerator in X."""
    bottom: int
    top_scale: float
    """Factor that converts the scaled feature to its own unit."""
    bottom_scale: float

    def values(self, X: SingleArray) -> FloatArray:
        """Return the logarithm of the ratio in each row, shape (rows,), in double precision."""
        top = np.maximum(X[:, self.top].astype(np.float64), 0.0) * self.top_scale
        bottom = np.maximum(X[:, self.bottom].astype(np.float64), 0.0) * self.bottom_scale
        logarithms: FloatArray = np.log1p(top) - np.log1p(bottom)
        return logarithms


@attrs.frozen(eq=False)
class PhysicalModel:
    """A linear model over each scaled feature, the root of the feature and the square of the feature.

    The square stands for dynamic power that rises with the frequency, the root for power that saturates.
    """

    weights: FloatArray
    """Weights in watts, shape (3, features): of each feature, of its root and of its square."""
    bias: float
    highest: float
    """Upper limit of the predictions in watts. Far from the training data, the sum of the terms may be far too high."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (rows,), in double precision."""
        features, roots, squares = physical_terms(X)
        watts: FloatArray = features @ self.weights[0] + roots @ self.weights[1] + squares @ self.weights[2]
        return np.minimum(watts + self.bias, self.highest)


def physical_terms(X: SingleArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the features, their roots and their squares, each of shape (rows, features). Values below 0 count as 0."""
    features = np.maximum(X.astype(np.float64), 0.0)
    return features, np.sqrt(features), np.square(features)


def with_ratios(X: SingleArray, ratios: Sequence[LogRatio]) -> SingleArray:
    """Return X with a column appended for each ratio, in single precision."""
    if not ratios:
        return X
    columns = np.empty((len(X), X.shape[1] + len(ratios)), dtype=np.float32)
    columns[:, : X.shape[1]] = X
    for column, ratio in enumerate(ratios, start=X.shape[1]):
        columns[:, column] = ratio.values(X)
    return columns
