"""Evaluation of a tree ensemble over one or two features with a table.

The thresholds of the ensemble form a grid over the features. The ensemble is constant in each cell of this
grid, so a table with one number per cell is exactly the same function. A prediction is one search per feature
instead of a walk through a hundred trees.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_core.contracts import RowFunction
from kepler_plugins.model_formats.tree_ensemble import Trees, merge_edges

MAX_CELLS = 1_000_000
"""Limit of the number of cells of a table. Larger tables are not worth their memory (4 bytes per cell)."""
MAX_CELL_WRITES = 500_000_000
"""Maximum number of cells, multiplied by the number of trees. It limits the time that it takes to build a table."""


class StepTable:
    """The table of a tree ensemble. It gives exactly the same predictions as a walk through the trees."""

    def __init__(self, edges: list[SingleArray], cells: SingleArray) -> None:
        """Create a table from its thresholds and its cells.

        `edges` has the thresholds of each feature, ascending. A cell includes the threshold at its end. `cells`
        has one dimension per feature. A feature with n thresholds has n + 1 cells, because the last cell has no end.
        """
        self.edges = edges
        self.cells = cells

    def predict(self, X: SingleArray) -> FloatArray:
        position = self.edges[0].searchsorted(X[:, 0])
        if len(self.edges) > 1:
            position = position * self.cells.shape[1] + self.edges[1].searchsorted(X[:, 1])
        return self.cells.take(position).astype(np.float64)

    def row_function(self) -> RowFunction:
        """Return a function that predicts a single row."""
        return JointStepTables([self]).row_function()


class JointStepTables:
    """Step tables (look-up tables of tree ensembles) over the same features: one table per component.

    A prediction searches the value of each feature only once for all tables.
    """

    def __init__(self, tables: Sequence[StepTable]) -> None:
        self._cells = np.concatenate([table.cells.reshape(-1) for table in tables])
        starts = np.cumsum([0, *(table.cells.size for table in tables)])[:-1]
        self._edges: list[SingleArray] = []
        self._positions: list[IndexArray] = []
        """For each feature, an array of offsets, shape (tables, intervals).

        The merged thresholds of all tables divide the feature's values into these intervals. The sum of the offsets
        of all features is a position in `_cells`.
        """
        for feature in range(len(tables[0].edges)):
            edges, positions = merge_edges([table.edges[feature] for table in tables])
            if feature == 0:
                positions = positions * [[table.cells.shape[1]] for table in tables] + starts[:, None]
            self._edges.append(edges)
            self._positions.append(positions)

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (components, rows)."""
        position = self._positions[0].take(self._edges[0].searchsorted(X[:, 0]), axis=1)
        if len(self._edges) > 1:
            position += self._positions[1].take(self._edges[1].searchsorted(X[:, 1]), axis=1)
        return self._cells.take(position).astype(np.float64)

    def row_function(self) -> RowFunction:
        """Return a function that predicts a single row with Python's floats."""
        first, *others = [
            (edges.tolist(), positions.T.tolist())
            for edges, positions in zip(self._edges, self._positions, strict=True)
        ]
        cell = self._cells.item

        def predict_row(row: list[float]) -> list[float]:
            edges, positions = first
            cells = positions[bisect_left(edges, row[0])]
            for edges, positions in others:
                more = positions[bisect_left(edges, row[1])]
                cells = [one + other for one, other in zip(cells, more, strict=True)]
            return [cell(position) for position in cells]

        return predict_row


def step_table(trees: Trees) -> StepTable | None:
    """Return the look-up table of an ensemble; None if it would have more than two features or too many cells."""
    n_features = trees.n_features
    if n_features not in (1, 2):
        return None
    edges = trees.thresholds()
    shape = (len(edges[0]) + 1, len(edges[1]) + 1 if n_features > 1 else 1)
    if shape[0] * shape[1] > MAX_CELLS or shape[0] * shape[1] * len(trees.roots) > MAX_CELL_WRITES:
        return None
    interval_of = [{edge: i for i, edge in enumerate(of_feature.tolist())} for of_feature in edges]
    # Add one tree after another, then `base`, all in single precision: ONNX Runtime adds in this order.
    cells = np.zeros(shape, dtype=np.float32)
    for root in trees.roots:
        stack = [(root, 0, shape[0], 0, shape[1])]  # an entry has a tree node, and the cells that reach the node
        while stack:
            node, top, bottom, left, right = stack.pop()
            if top >= bottom or left >= right:
                continue
            if trees.true[node] < 0:
                cells[top:bottom, left:right] += trees.weight.get(node, np.float32(0.0))
                continue
            feature = trees.feature[node]
            cut = interval_of[feature][trees.edge[node]] + 1
            if feature == 0:
                stack.append((trees.true[node], top, min(bottom, cut), left, right))
                stack.append((trees.false[node], max(top, cut), bottom, left, right))
            else:
                stack.append((trees.true[node], top, bottom, left, min(right, cut)))
                stack.append((trees.false[node], top, bottom, max(left, cut), right))
    cells += trees.base
    return StepTable(edges, cells)
