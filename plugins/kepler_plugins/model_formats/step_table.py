"""A tree ensemble over one or two features as the table that it is.

Such an ensemble is constant in every cell of the grid that its thresholds make. So the whole function
is one number per cell, exactly, and a prediction is one search per feature instead of a hundred trees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_plugins.model_formats.tree_ensemble import Trees, merged

MAX_CELLS = 1_000_000
"""Larger tables take more memory (4 bytes a cell) than they are worth."""
MAX_WORK = 500_000_000
"""Cells that may be written while the table is made."""


class StepTable:
    """Predicts what the tree ensemble predicts."""

    def __init__(self, edges: list[SingleArray], cells: SingleArray) -> None:
        """`edges` are per feature the values up to and including which a cell reaches, rising; `cells`
        has one more in each direction."""
        self.edges = edges
        self.cells = cells

    def predict(self, X: SingleArray) -> FloatArray:
        at = self.edges[0].searchsorted(X[:, 0])
        if len(self.edges) > 1:
            at = at * self.cells.shape[1] + self.edges[1].searchsorted(X[:, 1])
        return self.cells.take(at).astype(np.float64)


class StepTables:
    """Several tables of the same features, with one search per feature for all of them."""

    def __init__(self, tables: Sequence[StepTable]) -> None:
        self._cells = np.concatenate([table.cells.reshape(-1) for table in tables])
        starts = np.cumsum([0, *(table.cells.size for table in tables)])[:-1]
        self._edges: list[SingleArray] = []
        # per feature: where a cell of all edges together is in each table; the sum over the features is
        # the place in `_cells`
        self._places: list[IndexArray] = []
        for feature in range(len(tables[0].edges)):
            edges, places = merged([table.edges[feature] for table in tables])
            if feature == 0:
                places = places * [[table.cells.shape[1]] for table in tables] + starts[:, None]
            self._edges.append(edges)
            self._places.append(places)

    def predict(self, X: SingleArray) -> FloatArray:
        at = self._places[0].take(self._edges[0].searchsorted(X[:, 0]), axis=1)
        if len(self._edges) > 1:
            at += self._places[1].take(self._edges[1].searchsorted(X[:, 1]), axis=1)
        return self._cells.take(at).astype(np.float64)


def step_table(trees: Trees) -> StepTable | None:
    """The table of an ensemble over one or two features; None for more, and if it would be too large."""
    n_features = trees.n_features
    if n_features not in (1, 2):
        return None
    edges = trees.thresholds()
    shape = (len(edges[0]) + 1, len(edges[1]) + 1 if n_features > 1 else 1)
    if shape[0] * shape[1] > MAX_CELLS or shape[0] * shape[1] * len(trees.roots) > MAX_WORK:
        return None
    index = [{value: i for i, value in enumerate(values.tolist())} for values in edges]
    # single precision, tree after tree, the base last: as ONNX Runtime adds them up
    cells = np.zeros(shape, dtype=np.float32)
    for root in trees.roots:
        todo = [(root, 0, shape[0], 0, shape[1])]
        while todo:
            node, top, bottom, left, right = todo.pop()
            if top >= bottom or left >= right:
                continue
            if trees.true[node] < 0:
                cells[top:bottom, left:right] += trees.weight.get(node, np.float32(0.0))
                continue
            feature = trees.feature[node]
            cut = index[feature][trees.edge[node]] + 1
            if feature == 0:
                todo.append((trees.true[node], top, min(bottom, cut), left, right))
                todo.append((trees.false[node], max(top, cut), bottom, left, right))
            else:
                todo.append((trees.true[node], top, bottom, left, min(right, cut)))
                todo.append((trees.false[node], top, bottom, max(left, cut), right))
    cells += trees.base
    return StepTable(edges, cells)
