"""The models of a catalogue as columns, one row per model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import BoolArray, IndexArray
from kepler_core.selection.scores import score_table
from kepler_core.selection.similarity import Spec
from kepler_core.store.models import StoredModel

CRITERIA = ("output_type", "source", "pipeline", "feature_group", "trainer")
"""Attributes of `StoredModel` that have a column of their own."""


class CategoryColumn:
    """A column of values with few distinct ones, which are numbered with codes 0, 1, …

    Methods index tables by code. NumPy's set functions would do the same for any numbers, but their
    import takes a tenth of a second.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        codes: dict[Any, int] = {}
        self.codes = np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.intp)
        """The code of each row's value."""
        self.values = list(codes)
        """The distinct values, by code."""
        self.distinct = codes.keys()

    def equal(self, value: Any) -> BoolArray:
        """Return which rows have this value, shape (rows,)."""
        return self.within((value,))

    def within(self, values: Collection[Any]) -> BoolArray:
        """Return which rows have one of these values, shape (rows,)."""
        return self.with_codes([code for code, value in enumerate(self.values) if value in values])

    def with_codes(self, codes: Sequence[int] | IndexArray, rows: IndexArray | None = None) -> BoolArray:
        """Return which of `rows` (by default all) have one of these codes."""
        table = np.zeros(len(self.values), dtype=bool)
        table[np.asarray(codes, dtype=np.intp)] = True
        return table[self.codes if rows is None else self.codes[rows]]

    def codes_of(self, rows: IndexArray) -> IndexArray:
        """Return the distinct codes of these rows, ascending."""
        return np.flatnonzero(np.bincount(self.codes[rows], minlength=len(self.values)))


class ModelColumns:
    """The properties of models that selection compares, as columns."""

    def __init__(self, models: Sequence[StoredModel]) -> None:
        self.models = tuple(models)
        self.criteria = {name: CategoryColumn(getattr(model, name) for model in self.models) for name in CRITERIA}
        self.feature_sets = CategoryColumn(frozenset(model.features) for model in self.models)
        self.linear = np.array([m.weights is not None and m.weights.linear for m in self.models], dtype=bool)
        self.portable = np.array([m.portable for m in self.models], dtype=bool)
        self.node_types = CategoryColumn((model.pipeline, model.node_type) for model in self.models)
        self.node_type_numbers = np.array([number for _, number in self.node_types.values], dtype=np.int64)
        """The number of each node type, by its code in `node_types`."""
        self.machine_specs: list[Spec] = [{}] * len(self.node_types.values)
        """The machine of each node type, by its code in `node_types`."""
        for model, code in zip(self.models, self.node_types.codes, strict=True):
            self.machine_specs[code] = model.machine_spec
        self.scores = score_table(self.models)
