"""Evaluation of a tree ensemble over any number of features with bit masks of the leaves.

The value of a single feature already excludes some leaves of a tree: if the value is above the threshold of a
tree node, then the leaves on the true side of this node cannot be reached, whatever the other features are.
The thresholds of a feature divide its values into intervals. For each feature, interval and tree there is one
mask, which has a bit for each leaf that can still be reached. A prediction combines the masks of all features
with a bitwise AND. The lowest bit that is left stands for the leaf that the tree reaches. So a prediction
needs no walk from tree node to tree node, and handles all trees at once.

The method is QuickScorer (Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive
ensembles of regression trees", SIGIR 2015). QuickScorer has a mask per tree node. This module combines the
masks of the tree nodes beforehand, so that there is one mask per interval.
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
"""Limit of the number of leaves per tree: a mask has a bit for each leaf, and at most 64 bits."""
MAX_BYTES = 4_000_000
"""Limit of the size of an ensemble's masks.

An ensemble with larger masks is evaluated by ONNX Runtime instead, which takes 30 MB of a process's memory.
"""

_FEW_LEAVES = 8
"""If no tree has more than this number of leaves, the look-up table of a tree has an entry for each possible mask.

Otherwise, the table has an entry for each leaf.
"""
_ROWS_PER_BATCH = 128
"""Number of rows that are predicted together.

The intermediate results of so few rows fit into the processor's cache.
"""


class LeafMasks:
    """The leaf masks of a tree ensemble. They give exactly the same predictions as a walk through the trees."""

    def __init__(self, edges: list[SingleArray], masks: list[Masks], leaves: SingleArray, base: np.float32) -> None:
        """Take the thresholds, masks and leaf values of an ensemble.

        `edges` has the thresholds of each feature, ascending. `masks` has for each feature an array of shape
        (thresholds + 1, trees), in which bit n of a mask stands for leaf n. `leaves` has the values of the
        leaves, shape (trees, maximum number of leaves). `base` is added to every prediction.
        """
        self.edges = edges
        self.masks = masks
        self.leaves = leaves
        self.base = base

    @cached_property
    def _evaluator(self) -> JointLeafMasks:
        # Made on first use: most ensembles become part of the `JointLeafMasks` of a whole model, and are never
        # evaluated alone.
        return JointLeafMasks([self])

    def predict(self, X: SingleArray) -> FloatArray:
        watts: FloatArray = self._evaluator.predict(X)[0]
        return watts


class JointLeafMasks:
    """The leaf masks of several ensembles over the same features, one ensemble per component.

    A prediction searches the value of each feature only once for all ensembles.
    """

    def __init__(self, ensembles: Sequence[LeafMasks]) -> None:
        trees = max(len(ensemble.leaves) for ensemble in ensembles)
        few_leaves = all(ensemble.masks[0].dtype == np.uint8 for ensemble in ensembles)
        mask_type = np.uint8 if few_leaves else np.uint64
        width = 1 << _FEW_LEAVES if few_leaves else MAX_LEAVES
        # With few leaves, the whole mask is the index of a tree's value in this table. Otherwise, the number of the
        # reached leaf is the index.
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
        """For each feature, the masks of all ensembles, one ensemble after another."""
        self._positions: list[IndexArray] = []
        """For each feature, the numbers of the rows of `_masks` to use, shape (ensembles, intervals).

        The merged thresholds of all ensembles divide the feature's values into these intervals.
        """
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
        """Return the predicted watts, shape (components, rows)."""
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
            # Keep only the lowest bit of each mask, and convert the mask to float64: the exponent is then the number of
            # the leaf.
            reachable &= ~reachable + np.uint64(1)
            reachable = (reachable.astype(np.float64).view(np.int64) >> 52) - 1023
        leaves = self._values.take(self._table_starts + reachable)
        # Add in single precision, tree after tree and the base last, because ONNX Runtime adds in this order.
        return (leaves.cumsum(axis=2)[:, :, -1] + self._base).astype(np.float64)


def leaf_masks(trees: Trees) -> LeafMasks | None:
    """Return the leaf masks of an ensemble; None if a tree has too many leaves or the masks would be too large."""
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
        # A value above a threshold is also above all lower thresholds. So each mask also excludes the leaves that the
        # masks of all lower intervals exclude.
        np.bitwise_and.accumulate(of_feature, axis=0, out=of_feature)
    return LeafMasks(edges, masks, values, trees.base)


def _number_leaves(trees: Trees, root: int) -> tuple[list[int], list[tuple[int, int, int]]] | None:
    """Number the leaves of a tree. At each inner node, the leaves on its true side get the lower numbers.

    The true side is the child for which the node's condition is true.

    Returns the leaves in the order of their numbers, and (node, first, end) for each inner node: the leaves
    with the numbers `first` to `end - 1` are on the true side of the node. Returns None if the tree has too
    many leaves.
    """
    leaves: list[int] = []
    inner_nodes: list[tuple[int, int, int]] = []
    # Tree nodes to visit. An inner node is visited twice. The entry (node, None) stands for the visit before the child
    # for which the node's condition is true; the entry (node, number of this child's first leaf) for the visit after
    # it.
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
        # Each pair on the stack leads to at least one more leaf, so too many leaves are noticed early.
        if len(leaves) + len(stack) > MAX_LEAVES + 1:
            return None
    return (leaves, inner_nodes) if len(leaves) <= MAX_LEAVES else None


def _values_by_mask(leaves: SingleArray) -> SingleArray:
    """Return the value of the leaf that the lowest bit of each possible mask stands for, shape (trees, 256)."""
    lowest = [(mask & -mask).bit_length() - 1 for mask in range(1, 1 << _FEW_LEAVES)]
    return np.column_stack([np.zeros(len(leaves), dtype=np.float32), leaves[:, lowest]])
