"""The scores of all models of a catalogue, as columns."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.honesty.document import SPLIT_NAMES
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import COMPONENTS

ALWAYS_KNOWN = frozenset(
    {
        *("mae", "mape", "r2", "abs_max_corr"),
        *(f"{split}_{score}" for split in SPLIT_NAMES for score in ("mae", "worst")),
        *(f"{component}_{score}" for component in COMPONENTS for score in ("mae", "mape", "r2")),
    }
)
"""Scores that a filter may name even if no model of the catalogue has them."""


@attrs.frozen(eq=False)
class ScoreTable:
    """The scores of models, one row per model; NaN where a model does not have a score."""

    columns: dict[str, FloatArray]
    measured_on: IndexArray
    """A number for each model. Models with the same number were measured on the same data."""
    relative_mae: FloatArray
    """Each model's mae divided by the mae of always predicting the median of the training data; NaN if unknown."""
    has_twin: BoolArray
    """Whether each model has a twin: another model that checks it (`kepler_core.honesty.document.Twin`)."""

    @property
    def known_names(self) -> frozenset[str]:
        """Names of the scores that a filter may use."""
        return ALWAYS_KNOWN | self.columns.keys()

    def column(self, name: str) -> FloatArray:
        """Return one score of all models, shape (models,)."""
        values = self.columns.get(name)
        return np.full(len(self.measured_on), np.nan) if values is None else values


def score_table(models: Sequence[StoredModel]) -> ScoreTable:
    """Return the scores of models as a table, in the order of `models`."""
    rows_of: dict[tuple[str, ...], list[int]] = {}
    numbers: dict[tuple[object, ...], int] = {}
    measured_on = np.empty(len(models), dtype=np.intp)
    for row, model in enumerate(models):
        rows_of.setdefault(model.scores.names, []).append(row)
        measured_on[row] = numbers.setdefault(model.scores.measured_on, len(numbers))
    columns: dict[str, FloatArray] = {}
    for names, rows in rows_of.items():
        values = np.array([models[row].scores.values for row in rows], dtype=np.float64).reshape(len(rows), len(names))
        for position, name in enumerate(names):
            columns.setdefault(name, np.full(len(models), np.nan))[rows] = values[:, position]
    relative_mae = np.array([model.scores.relative_mae for model in models], dtype=np.float64)
    has_twin = np.array([model.scores.has_twin for model in models], dtype=bool)
    return ScoreTable(columns, measured_on, relative_mae, has_twin)
