"""Evaluates a tree ensemble over any number of features with bit masks of the leaves.

A feature's value alone excludes some leaves of a tree, whatever the other features are: if it is above a
node's threshold, the leaves on that node's true side cannot be reached. So for each feature, interval
between thresholds and tree there is one mask with a bit per reachable leaf. A prediction combines the
masks of all features; the first leaf that is left is the tree's result. That needs no walk from node to
node, and handles all trees at once.

The method is QuickScorer (Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive
ensembles of regression trees", SIGIR 2015), which has masks per node. Here they are tabulated per
interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_plugins.model_formats.tree_ensemble import Trees, merge_edges

Masks = NDArray[Any]

MAX_LEAVES = 64
"""Leaves of a tree: the bits of the widest mask."""
MAX_BYTES = 4_000_000
"""Larger masks are not worth their memory: ONNX Runtime, the alternative, takes 30 MB."""

_FEW_LEAVES = 8
"""Up to this number of leaves, a table has the value of each mask. Beyond it, of each leaf."""
_ROWS_PER_BATCH = 128
"""The intermediate results of a batch fit into the processor's cache."""


class LeafMasks:
    """A tree ensemble as leaf masks. Predicts exactly what the ensemble predicts."""

    def __init__(self, edges: list[SingleArray], masks: list[Masks], leaves: SingleArray, base: np.float32) -> None:
        """`edges`: per feature the thresholds, ascending. `masks`: per feature an array of shape
        (edges + 1, trees), in which bit n stands for leaf n. `leaves`: the leaves' values, shape
        (trees, maximum number of leaves)."""
        self.edges = edges
        self.masks = masks
        self.leaves = leaves
        self.base = base

    @cached_property
    def _evaluator(self) -> JointLeafMasks:
        # Made on first use: most ensembles become part of a joint predictor and are never evaluated alone.
        return JointLeafMasks([self])

    def predict(self, X: SingleArray) -> FloatArray:
        watts: FloatArray = self._evaluator.predict(X)[0]
        return watts


class JointLeafMasks:
    """Ensembles over the same features, one per component, with one search per feature for all of them."""

    def __init__(self, ensembles: Sequence[LeafMasks]) -> None:
        trees = max(len(ensemble.leaves) for ensemble in ensembles)
        few_leaves = all(ensemble.masks[0].dtype == np.uint8 for ensemble in ensembles)
        mask_type = np.uint8 if few_leaves else np.uint64
        width = 1 << _FEW_LEAVES if few_leaves else MAX_LEAVES
        # With few leaves, a tree's value is looked up by its whole mask, else by the number of the leaf.
        values = np.zeros((len(ensembles), trees, width), dtype=np.float32)
        for i, ensemble in enumerate(ensembles):
            table = _values_by_mask(ensemble.leaves) if few_leaves else ensemble.leaves
            values[i, : table.shape[0], : table.shape[1]] = table
        self._few_leaves = few_leaves
        self._values = values.reshape(-1)
        self._table_starts = (np.arange(len(ensembles) * trees) * width).reshape(len(ensembles), 1, trees)
        self._base = np.array([[ensemble.base] for ensemble in ensembles], dtype=np.float32)
        self._edges: list[SingleArray] = []
        self._masks: list[Masks] = []
        """Per feature the masks of all ensembles, one after another."""
        self._positions: list[IndexArray] = []
        """Per feature, ensemble and interval between the merged edges: the row in `_masks`."""
        for feature in range(len(ensembles[0].edges)):
            edges, positions = merge_edges([ensemble.edges[feature] for ensemble in ensembles])
            masks = np.ones((sum(len(ensemble.masks[feature]) for ensemble in ensembles), trees), dtype=mask_type)
            start = 0
            for i, ensemble in enumerate(ensembles):
                end = start + len(ensemble.masks[feature])
                masks[start:end, : len(ensemble.leaves)] = ensemble.masks[feature]
                positions[i] += start
                start = end
            self._edges.append(edges)
            self._masks.append(masks)
            self._positions.append(positions)

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (components, rows)."""
        if len(X) <= _ROWS_PER_BATCH:
            return self._predict(X)
        return np.hstack(
            [self._predict(X[start : start + _ROWS_PER_BATCH]) for start in range(0, len(X), _ROWS_PER_BATCH)]
        )

    def _predict(self, X: SingleArray) -> FloatArray:
        masks_by_feature = (
            masks.take(positions.take(edges.searchsorted(values), axis=1), axis=0)
            for values, edges, masks, positions in zip(X.T, self._edges, self._masks, self._positions, strict=True)
        )
        reachable: Masks = next(masks_by_feature)
        for masks in masks_by_feature:
            reachable &= masks
        if not self._few_leaves:
            # The number of the lowest bit is the exponent of its value as a floating-point number.
            reachable &= ~reachable + np.uint64(1)
            reachable = (reachable.astype(np.float64).view(np.int64) >> 52) - 1023
        leaves = self._values.take(self._table_starts + reachable)
        # In single precision, tree after tree and the base last: ONNX Runtime adds them in this order.
        return (leaves.cumsum(axis=2)[:, :, -1] + self._base).astype(np.float64)


def leaf_masks(trees: Trees) -> LeafMasks | None:
    """Return an ensemble as leaf masks; None if a tree has too many leaves or the masks would be too large."""
    edges = trees.thresholds()
    numbered_trees = []
    for root in trees.roots:
        if (numbered := _number_leaves(trees, root)) is None:
            return None
        numbered_trees.append(numbered)
    most_leaves = max((len(leaves) for leaves, _ in numbered_trees), default=0)
    mask_type = np.uint8 if most_leaves <= _FEW_LEAVES else np.uint64
    size = sum(len(of_feature) + 1 for of_feature in edges) * len(numbered_trees) * np.dtype(mask_type).itemsize
    if not numbered_trees or not edges or size > MAX_BYTES:
        return None
    all_leaves = np.iinfo(mask_type).max
    interval_of = [{edge: i for i, edge in enumerate(of_feature.tolist())} for of_feature in edges]
    masks = [np.full((len(of_feature) + 1, len(numbered_trees)), all_leaves, dtype=mask_type) for of_feature in edges]
    values = np.zeros((len(numbered_trees), _FEW_LEAVES if mask_type is np.uint8 else MAX_LEAVES), dtype=np.float32)
    for tree, (leaves, inner_nodes) in enumerate(numbered_trees):
        values[tree, : len(leaves)] = [trees.weight.get(leaf, np.float32(0.0)) for leaf in leaves]
        for node, first, end in inner_nodes:
            feature = trees.feature[node]
            above = interval_of[feature][trees.edge[node]] + 1
            true_side = ((1 << end) - 1) ^ ((1 << first) - 1)
            masks[feature][above, tree] &= mask_type(~true_side & all_leaves)
    for of_feature in masks:
        # What one threshold excludes stays excluded above all higher ones.
        np.bitwise_and.accumulate(of_feature, axis=0, out=of_feature)
    return LeafMasks(edges, masks, values, trees.base)


def _number_leaves(trees: Trees, root: int) -> tuple[list[int], list[tuple[int, int, int]]] | None:
    """Number a tree's leaves from its true sides to its false sides.

    Returns the leaves, and for each inner node (node, first, end): the leaves `first` to `end - 1` are on
    its true side. Returns None if the tree has too many leaves.
    """
    leaves: list[int] = []
    inner_nodes: list[tuple[int, int, int]] = []
    # A node, and for the second visit of an inner node, after its true side, the first leaf of that side.
    stack: list[tuple[int, int | None]] = [(root, None)]
    while stack:
        node, first = stack.pop()
        if first is not None:
            inner_nodes.append((node, first, len(leaves)))
            stack.append((trees.false[node], None))
        elif trees.true[node] < 0:
            leaves.append(node)
        else:
            stack += [(node, len(leaves)), (trees.true[node], None)]
        # Each node on the stack stands for at least one leaf.
        if len(leaves) + len(stack) > MAX_LEAVES + 1:
            return None
    return (leaves, inner_nodes) if len(leaves) <= MAX_LEAVES else None


def _values_by_mask(leaves: SingleArray) -> SingleArray:
    """Return the value of the lowest leaf in each mask of each tree, shape (trees, 256)."""
    lowest = [(mask & -mask).bit_length() - 1 for mask in range(1, 1 << _FEW_LEAVES)]
    return np.column_stack([np.zeros(len(leaves), dtype=np.float32), leaves[:, lowest]])
