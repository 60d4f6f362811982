"""Twins: models with fewer features that check the predictions of other models.

The metadata of a model may name a twin (`kepler_core.honesty.document.Twin`). In validation, the predictions of the
model and of the twin differed by at most the twin's limits, except in 1 % of the samples. If they differ by more than
a limit in a row, the row is unlike the data of the training. Then the twin is more likely to be right, because it has
fewer features that may leave the range of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.errors import ModelError
from kepler_core.honesty.document import Twin
from kepler_core.models.power_model import PowerModel, any_true


@attrs.frozen(eq=False)
class CheckedWatts:
    """Predicted watts, and the rows in which they are doubtful."""

    watts: FloatArray
    """Predicted watts, shape (components, rows). In rows that `disagrees` marks, all watts come from the twin."""
    outside: BoolArray
    """Rows with a feature outside the range of the training, shape (rows,). See `PowerModel.outside`."""
    disagrees: BoolArray
    """Rows in which model and twin differ by more than the limit of a component, shape (rows,)."""
    difference: FloatArray | None = None
    """Absolute difference between model and twin in watts, shape (components, rows); None without a twin."""


@attrs.frozen(eq=False)
class TwinnedModel:
    """A model and, if it has one, its twin."""

    model: PowerModel
    twin: PowerModel | None = None
    _limits: FloatArray | None = None
    """Largest difference between both predictions that is not a disagreement, shape (components, 1)."""
    _columns: IndexArray = attrs.field(factory=lambda: np.empty(0, dtype=np.intp))
    """Columns of the model's features that are the twin's features, in the twin's order."""
    _components: IndexArray | None = None
    """For each component of the model, its row in the twin's watts; None if both models have the same order of rows."""

    def watts(self, values: Any, features: Sequence[str] | None = None) -> CheckedWatts:
        """Return the predicted watts, and the rows in which they are doubtful.

        See `PowerModel.watts` for the arguments and the errors.
        """
        X = self.model.columns(values, features)
        watts = self.model.watts_of(X)
        outside = self.model.outside_of(X)
        if self.twin is None:
            return CheckedWatts(watts, outside, np.zeros(len(X), dtype=bool))
        twins = self.twin.watts_of(X.take(self._columns, axis=1))
        if self._components is not None:
            twins = twins.take(self._components, axis=0)
        difference = np.abs(watts - twins)
        beyond = difference > self._limits
        disagrees: BoolArray = (
            np.logical_or.reduce(beyond, axis=0) if any_true(beyond) else np.zeros(len(X), dtype=bool)
        )
        if any_true(disagrees):
            watts = np.where(disagrees, twins, watts)
        return CheckedWatts(watts, outside, disagrees, difference)


def twinned(model: PowerModel, twin: PowerModel, description: Twin) -> TwinnedModel:
    """Return the model with its twin. `description` is what the model's metadata state about the twin.

    A component without a limit is not compared. Raises `ModelError` if `twin` is not the model that `description`
    names, if it needs a feature that `model` does not need, or if both predict different components.
    """
    if (twin.name, twin.metadata.get("feature_group")) != (description.model_name, description.feature_group):
        raise ModelError(f"{twin.name} is not the twin of {model.name}")
    if missing := [name for name in twin.features if name not in model.features]:
        raise ModelError(f"{model.name} does not have the feature {missing[0]}, which its twin {twin.name} needs")
    if set(twin.components) != set(model.components):
        raise ModelError(f"{model.name} and its twin {twin.name} predict different components")
    return TwinnedModel(
        model,
        twin,
        np.array([[description.limits.get(component, np.inf)] for component in model.components]),
        np.array([model.features.index(name) for name in twin.features], dtype=np.intp),
        None
        if twin.components == model.components
        else np.array([twin.components.index(name) for name in model.components], dtype=np.intp),
    )
