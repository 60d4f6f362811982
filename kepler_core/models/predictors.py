"""Predictors that are loaded from a model's files, and the components that each predicts."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_core.contracts import JointPredictor, Predictor, RowFunction, SingleRowPredictor


@attrs.frozen(eq=False)
class ComponentPredictor:
    """A predictor, and the components that it predicts, in the order of the rows of its result."""

    components: tuple[str, ...]
    predictor: Predictor | JointPredictor


@attrs.frozen(eq=False)
class PredictorPair:
    """A joint predictor of two predictors that cannot share their work, such as a linear model and a tree ensemble."""

    first: ComponentPredictor
    second: ComponentPredictor
    first_features: int | None
    """Number of the first columns of X that are the features of `first`. None: all columns are features of `first`."""
    second_columns: IndexArray
    """Index of each feature of `second` in X."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the watts, shape (components, rows): first the components of `first`, then those of `second`."""
        components = len(self.first.components)
        watts = np.empty((components + len(self.second.components), len(X)))
        # The columns are copied, because NumPy may round sums differently in another memory order.
        own = X if self.first_features is None else X[:, : self.first_features].copy()
        watts[:components] = self.first.predictor.predict(own)
        watts[components:] = self.second.predictor.predict(X.take(self.second_columns, axis=1))
        return watts

    def row_function(self) -> RowFunction | None:
        """Return a function that predicts a single row; None if one of the predictors has no such function."""
        first, second = row_function(self.first.predictor), row_function(self.second.predictor)
        if first is None or second is None:
            return None
        return _of_both(first, second, self.first_features, self.second_columns.tolist())


def row_function(predictor: Predictor | JointPredictor) -> RowFunction | None:
    """Return the function of a predictor that predicts a single row; None if there is none."""
    return predictor.row_function() if isinstance(predictor, SingleRowPredictor) else None


def _of_both(
    first: RowFunction, second: RowFunction, first_features: int | None, second_columns: list[int]
) -> RowFunction:
    def predict_row(row: list[float]) -> list[float]:
        return first(row[:first_features]) + second([row[column] for column in second_columns])

    return predict_row
