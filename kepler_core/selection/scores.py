"""The figures of all models of a catalogue, as columns."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IndexArray
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import COMPONENTS

ALWAYS_KNOWN = frozenset(
    {"mae", "mape", "r2", "abs_max_corr", *(f"{c}_{figure}" for c in COMPONENTS for figure in ("mae", "mape", "r2"))}
)
"""Figures that may be asked for although no model there has them."""


@attrs.frozen(eq=False)
class FigureTable:
    """Figures of models in the order of a catalogue; NaN where a model does not have one."""

    columns: dict[str, FloatArray]
    data: IndexArray
    """Models with the same number were measured on the same data."""
    relative: FloatArray
    """The mae divided by that of always answering the mean of the training data."""

    @property
    def known(self) -> frozenset[str]:
        return ALWAYS_KNOWN | self.columns.keys()

    def column(self, key: str) -> FloatArray:
        """A figure of all models, shape (models,)."""
        found = self.columns.get(key)
        return np.full(len(self.data), np.nan) if found is None else found


def figure_table(models: Sequence[StoredModel]) -> FigureTable:
    """The figures of models as columns."""
    rows_of: dict[tuple[str, ...], list[int]] = {}
    data: dict[tuple[object, ...], int] = {}
    numbers = np.empty(len(models), dtype=np.intp)
    for row, model in enumerate(models):
        rows_of.setdefault(model.figures.keys, []).append(row)
        numbers[row] = data.setdefault(model.figures.data, len(data))
    columns: dict[str, FloatArray] = {}
    for keys, rows in rows_of.items():
        values = np.array([models[row].figures.values for row in rows], dtype=np.float64).reshape(len(rows), len(keys))
        for position, key in enumerate(keys):
            columns.setdefault(key, np.full(len(models), np.nan))[rows] = values[:, position]
    return FigureTable(columns, numbers, np.array([model.figures.relative for model in models], dtype=np.float64))
