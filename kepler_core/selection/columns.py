"""The properties of a catalogue's models as NumPy columns, with one row per model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import BoolArray, IndexArray
from kepler_core.selection.scores import score_table
from kepler_core.selection.similarity import Spec
from kepler_core.store.models import StoredModel

CRITERIA = ("output_type", "source", "pipeline", "feature_group", "trainer")
"""Attributes of `StoredModel` that have a column in `ModelColumns.criteria`."""


class CategoryColumn:
    """A column with few distinct values. The distinct values are numbered with codes 0, 1, …

    The methods look codes up in small tables. NumPy's set functions, e.g. `np.isin`, would work too, but
    importing them takes a tenth of a second.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        codes: dict[Any, int] = {}
        self.codes = np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.intp)
        """Code of each row's value: the position of the value in `values`."""
        self.values = list(codes)
        """The distinct values. A value's position in the list is its code."""
        self.distinct = codes.keys()

    def equal(self, value: Any) -> BoolArray:
        """Return which rows have the value `value`, as a mask of shape (rows,)."""
        return self.within((value,))

    def within(self, values: Collection[Any]) -> BoolArray:
        """Return which rows have a value that is in `values`, as a mask of shape (rows,)."""
        return self.with_codes([code for code, value in enumerate(self.values) if value in values])

    def with_codes(self, codes: Sequence[int] | IndexArray, rows: IndexArray | None = None) -> BoolArray:
        """Return which of `rows` (by default all rows) have a value whose code is in `codes`, as a mask."""
        table = np.zeros(len(self.values), dtype=bool)
        table[np.asarray(codes, dtype=np.intp)] = True
        return table[self.codes if rows is None else self.codes[rows]]

    def codes_of(self, rows: IndexArray) -> IndexArray:
        """Return the codes of the values in `rows`: each code once, in ascending order."""
        return np.flatnonzero(np.bincount(self.codes[rows], minlength=len(self.values)))


class ModelColumns:
    """The properties by which models are selected, as columns with one row per model."""

    def __init__(self, models: Sequence[StoredModel]) -> None:
        self.models = tuple(models)
        self.criteria = {name: CategoryColumn(getattr(model, name) for model in self.models) for name in CRITERIA}
        self.feature_sets = CategoryColumn(frozenset(model.features) for model in self.models)
        self.linear = np.array([m.weights is not None and m.weights.linear for m in self.models], dtype=bool)
        self.loadable = np.array([m.loadable for m in self.models], dtype=bool)
        self.portable = np.array([m.portable for m in self.models], dtype=bool)
        self.pickled = np.array([m.pickled for m in self.models], dtype=bool)
        self.node_types = CategoryColumn((model.pipeline, model.node_type) for model in self.models)
        self.node_type_numbers = np.array([number for _, number in self.node_types.values], dtype=np.int64)
        """The number of each node type. The index into the array is the node type's code in `node_types`."""
        self.machine_specs: list[Spec] = [{}] * len(self.node_types.values)
        """Attributes of the machine of each node type. The index is the node type's code in `node_types`."""
        for model, code in zip(self.models, self.node_types.codes, strict=True):
            self.machine_specs[code] = model.machine_spec
        self.scores = score_table(self.models)
