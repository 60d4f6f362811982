"""Evaluation of a tree ensemble over any number of features with bit masks of the leaves.

The value of a single feature already excludes some leaves of a tree. If the value is above the threshold of a
tree node, the leaves on the true side of this node cannot be reached, whatever the other features are.
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

import attrs
import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray, IndexArray, IntArray, SingleArray
from kepler_core.contracts import JointPredictor, Predictor
from kepler_plugins.model_formats.ordered_sums import sum_in_order
from kepler_plugins.model_formats.tree_ensemble import Trees, merge_edges

Masks = NDArray[Any]

MAX_LEAVES = 64
"""Limit of the number of leaves per tree: a mask has a bit for each leaf, and at most 64 bits."""
MAX_BYTES = 4_000_000
"""Limit of the size of an ensemble's bit masks, in bytes.

An ensemble with larger masks is evaluated by ONNX Runtime instead, which takes 30 MB of a process's memory.
"""

MAX_EXTENDED_BYTES = 2_000_000
"""Limit of the size of the bit masks that `JointLeafMasks.extended` copies, in bytes."""

_FEW_LEAVES = 8
"""If no tree has more leaves than this number, each tree has a look-up table with an entry for each possible mask.

(A mask has a bit for each leaf that can still be reached.) Otherwise, the table has an entry for each leaf.
"""
_ROWS_PER_BATCH = 128
"""Number of rows that are predicted together.

The intermediate results of so few rows fit into the processor's cache.
"""


class LeafMasks:
    """Bit masks of the leaves of a tree ensemble. They give the same predictions as a walk through the trees."""

    def __init__(self, edges: list[SingleArray], masks: list[Masks], leaves: SingleArray, base: np.float32) -> None:
        """Create the leaf masks of an ensemble from its thresholds, masks and leaf values.

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
        # This object is made on first use. Most ensembles are evaluated together with the other ensembles of a model,
        # and never alone.
        return join_leaf_masks([self])

    def predict(self, X: SingleArray) -> FloatArray:
        watts: FloatArray = self._evaluator.predict(X)[0]
        return watts

    def extended(self, more: Predictor | JointPredictor, columns: Sequence[int]) -> JointLeafMasks | None:
        """Return a predictor that also predicts what `more` predicts (see `contracts.ExtensiblePredictor`)."""
        return self._evaluator.extended(more, columns)


@attrs.frozen(eq=False)
class FeatureMasks:
    """The leaf masks of one feature, for several ensembles."""

    edges: SingleArray
    """Thresholds of the feature in all ensembles, ascending. They divide the feature's values into intervals."""
    masks: Masks
    """Masks of the reachable leaves: those of the first ensemble, then of the next ensemble …, shape (masks, trees)."""
    positions: IndexArray
    """Position in `masks` of the mask for an ensemble and an interval, shape (ensembles in `users`, intervals)."""
    users: slice | None = None
    """The ensembles that use this feature; None if all ensembles use it."""


@attrs.frozen(eq=False)
class JointLeafMasks:
    """The leaf masks of several ensembles over the same features. `join_leaf_masks` makes it.

    A prediction searches the value of each feature only once for all ensembles.
    """

    features: Sequence[FeatureMasks]
    """The leaf masks of each feature. The first feature has leaf masks for every ensemble."""
    values: SingleArray
    """The look-up tables of the trees, which contain values of leaves, shape (ensembles, trees, entries).

    If the trees have few leaves, the index of an entry is the mask of the leaves that can still be reached. Otherwise,
    the index is the number of the reached leaf.
    """
    base: SingleArray
    """Number that is added to each prediction, shape (ensembles, 1)."""
    _few_leaves: bool = attrs.field(init=False)
    _flat_values: SingleArray = attrs.field(init=False)
    _table_starts: IndexArray = attrs.field(init=False)
    """Position in `_flat_values` at which each tree's table begins, shape (trees, ensembles, 1)."""

    @_few_leaves.default
    def _has_few_leaves(self) -> bool:
        return self.features[0].masks.dtype == np.uint8

    @_flat_values.default
    def _values_in_one_dimension(self) -> SingleArray:
        return self.values.reshape(-1)

    @_table_starts.default
    def _starts_of_tables(self) -> IndexArray:
        ensembles, trees, entries = self.values.shape
        starts = (np.arange(ensembles * trees) * entries).reshape(ensembles, trees, 1)
        return np.ascontiguousarray(starts.transpose(1, 0, 2))

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (ensembles, rows)."""
        if len(X) <= _ROWS_PER_BATCH:
            return self._predict(X)
        return np.hstack(
            [self._predict(X[start : start + _ROWS_PER_BATCH]) for start in range(0, len(X), _ROWS_PER_BATCH)]
        )

    def _predict(self, X: SingleArray) -> FloatArray:
        columns = iter(zip(X.T, self.features, strict=True))
        values, of_feature = next(columns)
        reachable = of_feature.masks.take(
            of_feature.positions.take(of_feature.edges.searchsorted(values), axis=1), axis=0
        )
        for values, of_feature in columns:
            masks = of_feature.masks.take(
                of_feature.positions.take(of_feature.edges.searchsorted(values), axis=1), axis=0
            )
            of_users = reachable if of_feature.users is None else reachable[of_feature.users]
            of_users &= masks
        if not self._few_leaves:
            reachable = lowest_leaves(reachable)
        leaves = self._flat_values.take(self._table_starts + reachable.transpose(2, 0, 1).copy())
        watts: FloatArray = (sum_in_order(leaves) + self.base).astype(np.float64)
        return watts

    def extended(self, more: Predictor | JointPredictor, columns: Sequence[int]) -> JointLeafMasks | None:
        """Return a predictor that also predicts what `more` predicts (see `contracts.ExtensiblePredictor`).

        Return None if such a predictor is not possible, or if its masks would be larger than `MAX_EXTENDED_BYTES`.
        """
        if isinstance(more, LeafMasks):
            more = more._evaluator
        if not isinstance(more, JointLeafMasks) or more._few_leaves != self._few_leaves:
            return None
        if self._mask_bytes + more._mask_bytes > MAX_EXTENDED_BYTES:
            return None
        return _joined([self, more], [range(len(self.features)), columns])

    @property
    def _mask_bytes(self) -> int:
        return sum(of_feature.masks.nbytes for of_feature in self.features)

    def with_trees(self, trees: int) -> JointLeafMasks:
        """Add trees to the ensembles up to the number `trees`, and return the result. Each added tree gives 0 W."""
        missing = trees - self.values.shape[1]
        if missing <= 0:
            return self
        features = [
            attrs.evolve(feature, masks=np.pad(feature.masks, ((0, 0), (0, missing)), constant_values=1))
            for feature in self.features
        ]
        return JointLeafMasks(features, np.pad(self.values, ((0, 0), (0, missing), (0, 0))), self.base)


def join_leaf_masks(ensembles: Sequence[LeafMasks]) -> JointLeafMasks:
    """Join the leaf masks of several ensembles over the same features."""
    few_leaves = all(ensemble.masks[0].dtype == np.uint8 for ensemble in ensembles)
    parts = [_alone(ensemble, few_leaves=few_leaves) for ensemble in ensembles]
    return _joined(parts, [range(len(part.features)) for part in parts])


def _alone(ensemble: LeafMasks, *, few_leaves: bool) -> JointLeafMasks:
    """Return the leaf masks of one ensemble as a `JointLeafMasks` with this single ensemble."""
    features = [
        FeatureMasks(edges, masks.astype(np.uint8 if few_leaves else np.uint64), np.arange(len(masks))[None])
        for edges, masks in zip(ensemble.edges, ensemble.masks, strict=True)
    ]
    values = _values_by_mask(ensemble.leaves) if few_leaves else ensemble.leaves
    values = np.pad(values, ((0, 0), (0, 0 if few_leaves else MAX_LEAVES - values.shape[1])))
    return JointLeafMasks(features, values[None], np.array([[ensemble.base]], dtype=np.float32))


def _joined(parts: Sequence[JointLeafMasks], columns: Sequence[Sequence[int]]) -> JointLeafMasks:
    """Join leaf masks. The masks of all `parts` must have the same number of bits.

    `columns` has for each element of `parts` the columns of X that are its features. For each column except the first,
    the elements of `parts` that use the column must follow one another.
    """
    trees = max(part.values.shape[1] for part in parts)
    parts = [part.with_trees(trees) for part in parts]
    ends = np.cumsum([0, *(len(part.base) for part in parts)]).tolist()
    features = []
    for column in range(1 + max(map(max, columns))):
        masks: list[FeatureMasks] = []
        users: list[int] = []
        for number, (part, own) in enumerate(zip(parts, columns, strict=True)):
            if column in own:
                masks.append(part.features[list(own).index(column)])
                users.append(number)
            elif column == 0:
                masks.append(_unused(part))
                users.append(number)
        joined = _merged(masks)
        if len(users) < len(parts):
            joined = attrs.evolve(joined, users=slice(ends[users[0]], ends[users[-1] + 1]))
        features.append(joined)
    return JointLeafMasks(
        features, np.concatenate([part.values for part in parts]), np.concatenate([part.base for part in parts])
    )


def _unused(part: JointLeafMasks) -> FeatureMasks:
    """Return the masks of a feature that an ensemble does not use: every leaf can be reached."""
    like = part.features[0].masks[:1]
    every_leaf = np.full_like(like, np.iinfo(like.dtype).max)
    return FeatureMasks(np.empty(0, dtype=np.float32), every_leaf, np.zeros((len(part.base), 1), dtype=np.intp))


def _merged(parts: Sequence[FeatureMasks]) -> FeatureMasks:
    """Merge the masks that several ensembles have for the same feature."""
    edges, intervals = merge_edges([part.edges for part in parts])
    starts = np.cumsum([0, *(len(part.masks) for part in parts)])
    positions = [
        part.positions.take(of_part, axis=1) + start
        for part, of_part, start in zip(parts, intervals, starts[:-1], strict=True)
    ]
    return FeatureMasks(edges, np.concatenate([part.masks for part in parts]), np.concatenate(positions))


def lowest_leaves(reachable: Masks) -> IntArray:
    """Return the number of the lowest leaf in each mask of 64 bits."""
    # Keep only the lowest bit of each mask, and convert the mask to float64. The exponent of this power of two is the
    # number of the leaf.
    reachable = reachable & (~reachable + np.uint64(1))
    leaves: IntArray = (reachable.astype(np.float64).view(np.int64) >> 52) - 1023
    return leaves


def leaf_masks(trees: Trees) -> LeafMasks | None:
    """Return the leaf masks of an ensemble; None if a tree has too many leaves, or if the masks would be too large."""
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

    Returns the leaves in the order of their numbers, and a triple (node, first, end) for each inner node. The leaves
    with the numbers `first` to `end - 1` are on the true side of this node. Returns None if the tree has too
    many leaves.
    """
    leaves: list[int] = []
    inner_nodes: list[tuple[int, int, int]] = []
    # Tree nodes to visit. An inner node is visited twice: before and after its child on the true side. The entry for
    # the first visit is (node, None), and the entry for the second visit is (node, number of the child's first leaf).
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
        # Each entry of the stack leads to at least one more leaf. So the loop stops early if there are too many leaves.
        if len(leaves) + len(stack) > MAX_LEAVES + 1:
            return None
    return (leaves, inner_nodes) if len(leaves) <= MAX_LEAVES else None


def _values_by_mask(leaves: SingleArray) -> SingleArray:
    """Return the value of the lowest leaf in each possible mask of 8 leaves, shape (trees, 256)."""
    lowest = [(mask & -mask).bit_length() - 1 for mask in range(1, 1 << _FEW_LEAVES)]
    return np.column_stack([np.zeros(len(leaves), dtype=np.float32), leaves[:, lowest]])
