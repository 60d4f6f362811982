"""A tree ensemble over any number of features as masks of the leaves that a value leaves possible.

A feature's value rules leaves out, whatever the other features are: where it is above a node's
threshold, those on that node's true side. So per feature and interval between thresholds there is one
mask per tree, a bit per leaf. The masks of all features are combined, and the first leaf left is the one
that the tree comes to: no walk from node to node, and all trees at once.
(Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression
trees", SIGIR 2015; there per node, here tabulated per interval.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_plugins.model_formats.tree_ensemble import Trees, merged

Masks = NDArray[Any]

MAX_LEAVES = 64
"""Of a tree: bits of the widest mask."""
MAX_BYTES = 4_000_000
"""Larger masks take more memory than they are worth: beyond is ONNX Runtime, of 30 MB."""

_FEW = 8
"""Up to so many leaves there is a value for every mask, instead of for every leaf."""
_ROWS = 128
"""At a time: what lies between then fits into the cache."""


class LeafMasks:
    """Predicts what the tree ensemble predicts."""

    def __init__(self, edges: list[SingleArray], masks: list[Masks], leaves: SingleArray, base: np.float32) -> None:
        """`edges` are per feature the thresholds, rising; `masks` per feature of shape (edges + 1, trees),
        bit n of one is leaf n; `leaves` the values, shape (trees, most leaves of a tree)."""
        self.edges = edges
        self.masks = masks
        self.leaves = leaves
        self.base = base

    @cached_property
    def _alone(self) -> SeveralLeafMasks:
        return SeveralLeafMasks([self])  # not before it is asked for: mostly this is one of several

    def predict(self, X: SingleArray) -> FloatArray:
        found: FloatArray = self._alone.predict(X)[0]
        return found


class SeveralLeafMasks:
    """Ensembles of the same features, one per component, with one search per feature for all of them."""

    def __init__(self, ensembles: Sequence[LeafMasks]) -> None:
        trees = max(len(one.leaves) for one in ensembles)
        few = all(one.masks[0].dtype == np.uint8 for one in ensembles)
        kind = np.uint8 if few else np.uint64
        width = 1 << _FEW if few else MAX_LEAVES
        # what a tree comes to by its whole mask where leaves are few, else by the number of the leaf
        values = np.zeros((len(ensembles), trees, width), dtype=np.float32)
        for row, one in enumerate(ensembles):
            own = _by_mask(one.leaves) if few else one.leaves
            values[row, : own.shape[0], : own.shape[1]] = own
        self._few = few
        self._values = values.reshape(-1)
        self._first = (np.arange(len(ensembles) * trees) * width).reshape(len(ensembles), 1, trees)
        self._base = np.array([[one.base] for one in ensembles], dtype=np.float32)
        self._edges: list[SingleArray] = []
        # per feature the masks of all ensembles, and where an interval of all edges together is in them
        self._masks: list[Masks] = []
        self._places: list[IndexArray] = []
        for feature in range(len(ensembles[0].edges)):
            edges, places = merged([one.edges[feature] for one in ensembles])
            masks = np.ones((sum(len(one.masks[feature]) for one in ensembles), trees), dtype=kind)
            start = 0
            for row, one in enumerate(ensembles):
                end = start + len(one.masks[feature])
                masks[start:end, : len(one.leaves)] = one.masks[feature]
                places[row] += start
                start = end
            self._edges.append(edges)
            self._masks.append(masks)
            self._places.append(places)

    def predict(self, X: SingleArray) -> FloatArray:
        """Shape (components, rows)."""
        if len(X) <= _ROWS:
            return self._predict(X)
        return np.hstack([self._predict(X[start : start + _ROWS]) for start in range(0, len(X), _ROWS)])

    def _predict(self, X: SingleArray) -> FloatArray:
        found = (
            masks.take(places.take(edges.searchsorted(values), axis=1), axis=0)
            for values, edges, masks, places in zip(X.T, self._edges, self._masks, self._places, strict=True)
        )
        possible: Masks = next(found)
        for of_feature in found:
            possible &= of_feature
        if not self._few:
            # the lowest bit by its exponent as a number
            possible &= ~possible + np.uint64(1)
            possible = (possible.astype(np.float64).view(np.int64) >> 52) - 1023
        leaves = self._values.take(self._first + possible)
        # single precision, tree after tree, the base last: as ONNX Runtime adds them up
        return (leaves.cumsum(axis=2)[:, :, -1] + self._base).astype(np.float64)


def leaf_masks(trees: Trees) -> LeafMasks | None:
    """The masks of an ensemble; None if a tree has too many leaves, and if they would be too large."""
    edges = trees.thresholds()
    numbered = []
    for root in trees.roots:
        if (of_tree := _number_leaves(trees, root)) is None:
            return None
        numbered.append(of_tree)
    most = max((len(leaves) for leaves, _ in numbered), default=0)
    kind = np.uint8 if most <= _FEW else np.uint64
    size = sum(len(values) + 1 for values in edges) * len(numbered) * np.dtype(kind).itemsize
    if not numbered or not edges or size > MAX_BYTES:
        return None
    index = [{value: at for at, value in enumerate(values.tolist())} for values in edges]
    masks = [np.empty((len(values) + 1, len(numbered)), dtype=kind) for values in edges]
    values = np.zeros((len(numbered), _FEW if kind is np.uint8 else MAX_LEAVES), dtype=np.float32)
    for of_feature in masks:
        of_feature[:] = np.iinfo(kind).max
    for tree, (leaves, inner) in enumerate(numbered):
        values[tree, : len(leaves)] = [trees.weight.get(leaf, np.float32(0.0)) for leaf in leaves]
        for node, first, end in inner:
            feature = trees.feature[node]
            above = index[feature][trees.edge[node]] + 1
            masks[feature][above, tree] &= kind(~(((1 << end) - 1) ^ ((1 << first) - 1)) & np.iinfo(kind).max)
    for of_feature in masks:
        np.bitwise_and.accumulate(of_feature, axis=0, out=of_feature)
    return LeafMasks(edges, masks, values, trees.base)


def _number_leaves(trees: Trees, root: int) -> tuple[list[int], list[tuple[int, int, int]]] | None:
    """A tree's leaves, those of a true side first; and per inner node which of them are on its true
    side, from and up to. None if there are too many."""
    leaves: list[int] = []
    inner: list[tuple[int, int, int]] = []
    todo: list[tuple[int, int | None]] = [(root, None)]
    while todo:
        node, first = todo.pop()
        if first is not None:
            inner.append((node, first, len(leaves)))
            todo.append((trees.false[node], None))
        elif trees.true[node] < 0:
            leaves.append(node)
        else:
            todo += [(node, len(leaves)), (trees.true[node], None)]
        # each that waits has one leaf at least
        if len(leaves) + len(todo) > MAX_LEAVES + 1:
            return None
    return (leaves, inner) if len(leaves) <= MAX_LEAVES else None


def _by_mask(leaves: SingleArray) -> SingleArray:
    """Per tree and mask the value of the lowest leaf in it. Shape (trees, 256)."""
    lowest = [(mask & -mask).bit_length() - 1 for mask in range(1, 1 << _FEW)]
    return np.column_stack([np.zeros(len(leaves), dtype=np.float32), leaves[:, lowest]])
