"""Evaluation of a power model for a single row.

Kepler's requests for the power of a node have one or two rows. For so few rows, nearly all of the time is the overhead
of NumPy's calls. `RowEvaluator` does the same calculations with Python's floats, which have the same precision, in the
same order. So its watts are exactly those of `PowerModel.watts`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import attrs

from kepler_core.contracts import RowFunction

MAX_ROWS = 2
"""Maximum number of rows that are predicted one by one. For more rows, NumPy takes no longer."""


@attrs.frozen
class Proportional:
    """Components whose power is proportional to one feature. This feature has a higher limit for them."""

    components: Sequence[int]
    feature: int
    limit: float
    """Upper limit of the scaled feature for all other components."""


class RowEvaluator:
    """Predicts the watts of all components for a single row. `PowerModel.row_evaluator` makes it."""

    def __init__(
        self,
        predict: RowFunction,
        scale: Sequence[float],
        trained: Sequence[tuple[float, float]],
        limits: Sequence[tuple[float, float]],
        own_features: int,
        proportional: Proportional | None,
        ceilings: Sequence[float],
        corrections: Sequence[tuple[float, float]] | None,
    ) -> None:
        """Store the numbers of a power model that predictions need.

        `trained` has the lowest and highest value of each feature in the range of the training. `limits` has the lower
        and upper limit of each feature: a value beyond them is replaced by the limit, and then divided by its `scale`.
        `corrections` has the gain and the shift of each component.
        """
        self._predict = predict
        self._trained, self._limits, self._scale = list(trained), list(limits), list(scale)
        self._own_features, self._proportional = own_features, proportional
        self._ceilings, self._corrections = list(ceilings), corrections
        self._usual = [
            (max(lowest, least), min(highest, most), divisor)
            for (lowest, highest), (least, most), divisor in zip(trained, limits, scale, strict=True)
        ]
        """For each feature: the values that are both in the range of the training and within the limits, and the
        scale."""

    def watts(self, row: Sequence[float]) -> tuple[list[float], bool] | None:
        """Return the watts of each component, and whether the row is outside the range of the training.

        `row` has the features in their own units. Return None if a feature or a prediction is not finite. The caller
        then needs `PowerModel.watts`, which raises the error.
        """
        scaled = []
        for value, (lowest, highest, divisor) in zip(row, self._usual, strict=True):
            if not lowest <= value <= highest:
                return self._watts_of_unusual(row)
            scaled.append(value / divisor)
        watts = self._watts_of(scaled)
        return None if watts is None else (watts, False)

    def _watts_of_unusual(self, row: Sequence[float]) -> tuple[list[float], bool] | None:
        """Do the same as `watts` for a row with a feature outside the range of the training or beyond its limits."""
        scaled = self._cut(row)
        watts = None if scaled is None else self._watts_of(scaled)
        return None if watts is None else (watts, self._is_outside(row))

    def _watts_of(self, scaled: list[float]) -> list[float] | None:
        """Return the watts of each component; None if they are not finite. `scaled` has double-precision numbers."""
        single = array("f", scaled).tolist()
        watts = self._predict(single)
        if self._proportional is not None and single[self._proportional.feature] > self._proportional.limit:
            watts = self._with_proportional(self._proportional, single, watts)
        if not math.isfinite(sum(watts)):
            return None
        if self._corrections is not None:
            watts = [
                (0.0 if predicted <= 0.0 else predicted) * gain + shift
                for predicted, (gain, shift) in zip(watts, self._corrections, strict=True)
            ]
        return [
            0.0 if predicted <= 0.0 else ceiling if predicted > ceiling else predicted
            for predicted, ceiling in zip(watts, self._ceilings, strict=True)
        ]

    def _with_proportional(self, proportional: Proportional, single: list[float], watts: list[float]) -> list[float]:
        """Predict a row whose proportional feature is above the limit that it has for the other components.

        `watts` are the predictions without this limit. They remain for the proportional components.
        """
        single[proportional.feature] = proportional.limit
        limited = self._predict(single)
        for component in proportional.components:
            limited[component] = watts[component]
        return limited

    def _is_outside(self, row: Sequence[float]) -> bool:
        own = zip(row[: self._own_features], self._trained, strict=False)  # the twin has the other features
        return any(not lowest <= value <= highest for value, (lowest, highest) in own)

    def _cut(self, row: Sequence[float]) -> list[float] | None:
        """Limit the features of a row and scale them. Return None if a value is not finite."""
        if not all(map(math.isfinite, row)):
            return None
        return [
            min(max(value, least), most) / divisor
            for value, (least, most), divisor in zip(row, self._limits, self._scale, strict=True)
        ]
