"""Twins: models with fewer features that check the predictions of other models.

The metadata of a model may name a twin (`kepler_core.honesty.document.Twin`) and limits. In validation, the predictions
of the two models differed by more than the limits in only 1 % of the samples. If the predictions for a row differ by
more than a limit, the row is unlike the training data. Then the twin is more likely to be right, because it has fewer
features that may leave the range of the training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import gt
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.contracts import ExtensiblePredictor, JointPredictor
from kepler_core.errors import ModelError
from kepler_core.honesty.document import Twin
from kepler_core.models.power_model import PowerModel, any_true
from kepler_core.models.predictors import ComponentPredictor, PredictorPair
from kepler_core.models.single_rows import MAX_ROWS, RowEvaluator


@attrs.frozen(eq=False)
class CheckedWatts:
    """Predicted watts, and the rows in which there is a reason to doubt them."""

    watts: FloatArray
    """Predicted watts, shape (components, rows). In rows that `disagrees` marks, all watts come from the twin."""
    outside: BoolArray
    """Rows with a feature outside the range of the training data, shape (rows,). See `PowerModel.outside`."""
    disagrees: BoolArray
    """Rows in which model and twin differ by more than the limit of a component, shape (rows,)."""
    difference: FloatArray | None = None
    """Absolute difference between model and twin in watts, shape (components, rows); None if there is no twin."""


@attrs.frozen(eq=False)
class TwinnedModel:
    """A model and, if it has a twin, the twin."""

    model: PowerModel
    twin: PowerModel | None = None
    _limits: FloatArray = attrs.field(factory=lambda: np.empty((0, 1)))
    """If model and twin differ by more than this limit in watts, they disagree. Shape (components, 1)."""
    _columns: IndexArray = attrs.field(factory=lambda: np.empty(0, dtype=np.intp))
    """Index of each feature of the twin in the features of the model."""
    _components: IndexArray | None = None
    """Index of each component of the model in the rows of the twin's watts; None if model and twin have the same
    order."""
    _both: PowerModel | None = None
    """A combined model that predicts the components of the model and then those of the twin, in the model's order. None
    if the two models cannot be evaluated together."""
    _both_columns: IndexArray | None = None
    """Index of each feature of `_both` in the features of the model; None if `_both` has exactly the model's
    features."""

    @property
    def is_one_pass(self) -> bool:
        """Whether one pass evaluates the model and its twin. It takes less time than two passes."""
        return self._both is not None

    @property
    def predicts_single_rows(self) -> bool:
        """Whether single rows are predicted without most of NumPy's overhead."""
        return self._row_evaluator is not None

    def watts(self, values: Any, features: Sequence[str] | None = None) -> CheckedWatts:
        """Return the predicted watts, and the rows in which there is a reason to doubt them.

        See `PowerModel.watts` for the arguments and the errors.
        """
        if (checked := self._watts_of_single_rows(values, features)) is not None:
            return checked
        X = self.model.columns(values, features)
        outside = self.model.outside_of(X)
        if self.twin is None:
            return CheckedWatts(self.model.watts_of(X), outside, np.zeros(len(X), dtype=bool))
        watts, twins = self._watts_of_both(X, self.twin)
        difference = watts - twins
        np.abs(difference, out=difference)
        beyond = difference > self._limits
        if not any_true(beyond):
            return CheckedWatts(watts, outside, np.zeros(len(X), dtype=bool), difference)
        disagrees: BoolArray = np.logical_or.reduce(beyond, axis=0)
        return CheckedWatts(np.where(disagrees, twins, watts), outside, disagrees, difference)

    @cached_property
    def _row_evaluator(self) -> RowEvaluator | None:
        # The evaluator is made at its first use: a client that sends only requests with more rows never needs it.
        if self.twin is not None and self._both is None:
            return None
        return (self._both or self.model).row_evaluator(len(self.model.features))

    @cached_property
    def _row_columns(self) -> list[int] | None:
        return None if self._both_columns is None else self._both_columns.tolist()

    @cached_property
    def _row_limits(self) -> list[float]:
        limits: list[float] = self._limits.ravel().tolist()
        return limits

    def _watts_of_single_rows(self, values: Any, features: Sequence[str] | None) -> CheckedWatts | None:
        """Predict at most `MAX_ROWS` rows, one after the other, with the same result as `watts`.

        Return None if there are more rows, or if `RowEvaluator.watts` cannot predict a row.
        """
        if not (isinstance(values, np.ndarray) and values.dtype == np.float64 and values.ndim == 2):
            return None
        if not 0 < len(values) <= MAX_ROWS:
            return None
        names = self.model.features if features is None else tuple(features)
        if values.shape != (len(values), len(names)) or self._row_evaluator is None:
            return None
        columns = None if names == self.model.features else self.model.columns_of(names)[1]
        rows = []
        for row in values.tolist():
            own = row if columns is None else [row[column] for column in columns]
            if self._row_columns is not None:
                own = [own[column] for column in self._row_columns]
            try:
                predicted = self._row_evaluator.watts(own)
            except Exception:
                # The function for single rows may belong to a third-party regressor. `PowerModel.watts` uses the
                # regressor's function for arrays, and raises `ModelError` if this function fails, too.
                return None
            if predicted is None:
                return None
            rows.append(predicted)
        return self._checked_rows(rows)

    def _checked_rows(self, rows: Sequence[tuple[list[float], bool]]) -> CheckedWatts:
        """Compare the watts of the model and of the twin in each row. `rows` are results of `RowEvaluator.watts`."""
        outside, disagrees = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        components = len(self.model.parts)
        answers, differences = [], []
        for number, (watts, is_outside) in enumerate(rows):
            own, twins = watts[:components], watts[components:]
            difference = [abs(one - other) for one, other in zip(own, twins, strict=False)]  # no twin, no difference
            if any(map(gt, difference, self._row_limits)):
                disagrees[number] = True
                own = twins
            if is_outside:
                outside[number] = True
            answers.append(own)
            differences.append(difference)
        return CheckedWatts(
            np.array(answers).T, outside, disagrees, None if self.twin is None else np.array(differences).T
        )

    def _watts_of_both(self, X: FloatArray, twin: PowerModel) -> tuple[FloatArray, FloatArray]:
        """Return the watts of the model and of the twin, each of shape (components, rows)."""
        if self._both is not None:
            watts = self._both.watts_of(X if self._both_columns is None else X.take(self._both_columns, axis=1))
            components = len(self.model.parts)
            return watts[:components], watts[components:]
        twins = twin.watts_of(X.take(self._columns, axis=1))
        return self.model.watts_of(X), twins if self._components is None else twins.take(self._components, axis=0)


def twinned(model: PowerModel, twin: PowerModel, description: Twin) -> TwinnedModel:
    """Return the model with its twin. `description` is what the model's metadata state about the twin.

    A component without a limit is not compared. `description` must name `twin`. The twin must need no feature that the
    model does not need, and both must predict the same components. Otherwise, `ModelError` is raised.
    """
    if (twin.name, twin.metadata.get("feature_group")) != (description.model_name, description.feature_group):
        raise ModelError(f"{twin.name} is not the twin of {model.name}")
    if missing := [name for name in twin.features if name not in model.features]:
        raise ModelError(f"{model.name} does not have the feature {missing[0]}, which its twin {twin.name} needs")
    if set(twin.components) != set(model.components):
        raise ModelError(f"{model.name} and its twin {twin.name} predict different components")
    columns = [model.features.index(name) for name in twin.features]
    both, both_columns = _in_one_pass(model, twin, columns) or (None, None)
    return TwinnedModel(
        model,
        twin,
        np.array([[description.limits.get(component, np.inf)] for component in model.components]),
        np.array(columns, dtype=np.intp),
        None
        if twin.components == model.components
        else np.array([twin.components.index(name) for name in model.components], dtype=np.intp),
        both,
        both_columns,
    )


def _in_one_pass(
    model: PowerModel, twin: PowerModel, columns: Sequence[int]
) -> tuple[PowerModel, IndexArray | None] | None:
    """Return a model that predicts the components of both `model` and `twin`, and the columns of its features.

    `columns` has for each feature of the twin its column in the features of the model. If the two models divide a
    feature by different scales, the twin gets a column of its own for this feature. So the predicted watts are exactly
    those of the two models. Return None if a model has several predictors. Return None also if a component of the twin
    is proportional to a feature that the two models divide by different scales. See `TwinnedModel` for the result.
    """
    if len(model.predictors) != 1 or len(twin.predictors) != 1:
        return None
    parts = {f"{component} of the twin": twin.parts[component] for component in model.components}
    (own,), (other,) = model.predictors, twin.predictors
    features, scale, lowest = list(model.features), model.scale.tolist(), model.lowest.tolist()
    all_columns, twin_columns = list(range(len(features))), list[int]()
    for name, column, of_twin in zip(twin.features, columns, twin.scale.tolist(), strict=True):
        if of_twin == scale[column]:
            twin_columns.append(column)
            continue
        twin_columns.append(len(features))
        all_columns.append(column)
        features.append(f"{name} of the twin")
        scale.append(of_twin)
        lowest.append(lowest[column])
        if any(part.proportional_to == name for part in twin.parts.values()):
            return None
    joint = _extended(own, other, twin_columns)
    if joint is None:
        own_features = None if len(features) == len(model.features) else len(model.features)
        joint = PredictorPair(own, other, own_features, np.array(twin_columns, dtype=np.intp))
    names = (*own.components, *(f"{component} of the twin" for component in other.components))
    both = PowerModel(
        model.metadata,
        tuple(features),
        np.array(scale),
        np.array(lowest),
        {**model.parts, **parts},
        [ComponentPredictor(names, joint)],
    )
    shared = len(features) == len(model.features)
    return both, None if shared else np.array(all_columns, dtype=np.intp)


def _extended(own: ComponentPredictor, other: ComponentPredictor, columns: Sequence[int]) -> JointPredictor | None:
    """Return a predictor in which two predictors share their work; None if they cannot share it."""
    return own.predictor.extended(other.predictor, columns) if isinstance(own.predictor, ExtensiblePredictor) else None
