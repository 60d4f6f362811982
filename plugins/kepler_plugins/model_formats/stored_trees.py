"""Tree ensembles as two arrays, as the model format `blend` stores them.

The nodes of a tree are stored in preorder: an inner node, then the nodes of its true side, then the nodes of its
false side. So the arrays need no indices of children, and a walk through a tree always ends, whatever the arrays
contain. The first array has for an inner node the number of the feature that the node compares, and for a leaf the
number `LEAF`. The second array has the thresholds and the values of the leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray, SingleArray
from kepler_core.errors import ModelError
from kepler_plugins.model_formats.tree_ensemble import Trees

LEAF = -1
MAX_COLUMNS = 127
"""Limit of the number of columns that trees can compare: a column's number is stored in 8 bits with a sign."""
MAX_NODES = 100_000
"""Limit of the number of tree nodes in one ensemble."""
MAX_VALUE = 1e9
"""Limit of the absolute value of a leaf, in watts. Sums of leaves stay finite in single precision."""

_FEATURE_TYPE = np.dtype("<i1")
_NUMBER_TYPE = np.dtype("<f4")


@attrs.frozen(eq=False)
class FittedTree:
    """A decision tree in the form of scikit-learn. Each array has one element per node, and node 0 is the root."""

    left: IntArray
    """Index of the child for values up to the threshold."""
    right: IntArray
    is_leaf: IntArray
    feature: IntArray
    threshold: SingleArray
    """The left child is chosen if the feature is at most this value, in single precision."""
    value: FloatArray
    """Value of each leaf in watts."""


def encode(trees: Sequence[FittedTree]) -> tuple[bytes, bytes]:
    """Return trees as two arrays in preorder: feature numbers (8 bits), and thresholds or leaf values (32 bits)."""
    features, numbers = [], []
    for tree in trees:
        order, stack = [], [0]
        while stack:
            node = stack.pop()
            order.append(node)
            if not tree.is_leaf[node]:
                stack += [int(tree.right[node]), int(tree.left[node])]
        is_leaf = tree.is_leaf[order].astype(bool)
        features.append(np.where(is_leaf, LEAF, tree.feature[order]))
        numbers.append(np.where(is_leaf, tree.value[order].astype(_NUMBER_TYPE), tree.threshold[order]))
    return (
        np.concatenate(features).astype(_FEATURE_TYPE).tobytes(),
        np.concatenate(numbers).astype(_NUMBER_TYPE).tobytes(),
    )


def decode(features: bytes, numbers: bytes, n_columns: int, base: float, group_size: int) -> Iterator[Trees]:
    """Yield the trees of one ensemble in groups of at most `group_size` trees. Only the first group adds `base`.

    Raises `ModelError` if the arrays are damaged or exceed a limit.
    """
    if len(numbers) != len(features) * _NUMBER_TYPE.itemsize or not 0 < len(features) <= MAX_NODES:
        raise ModelError(f"an ensemble has no nodes, more than {MAX_NODES} nodes, or arrays of different lengths")
    feature = np.frombuffer(features, dtype=_FEATURE_TYPE).astype(np.int64)
    number = np.frombuffer(numbers, dtype=_NUMBER_TYPE).astype(np.float32)
    if (feature < LEAF).any() or (feature >= n_columns).any():
        raise ModelError(f"a tree node compares a column that is none of the {n_columns} columns")
    if not np.isfinite(number).all() or (np.abs(number[feature == LEAF]) > MAX_VALUE).any():
        raise ModelError("a threshold is not finite, or a leaf is too large")
    starts = _starts(feature)
    for first in range(0, len(starts) - 1, group_size):
        bounds = starts[first : first + group_size + 1]
        nodes = slice(bounds[0], bounds[-1])
        roots = [bound - bounds[0] for bound in bounds[:-1]]
        yield _group(feature[nodes], number[nodes], roots, n_columns, np.float32(base if first == 0 else 0.0))


def _starts(feature: IntArray) -> list[int]:
    """Return the index of each tree's first node, followed by the total number of nodes.

    In preorder, a tree is complete as soon as it has one leaf more than inner nodes.
    """
    balance = np.cumsum(np.where(feature == LEAF, 1, -1))
    # `balance` is the number of leaves minus the number of inner nodes. It has a new maximum where a tree is complete.
    ends = np.flatnonzero(np.diff(np.maximum.accumulate(np.concatenate([[0], balance])))) + 1
    if len(ends) == 0 or ends[-1] != len(feature):
        raise ModelError("the last tree of an ensemble is not complete")
    return [0, *ends.tolist()]


def _group(feature: IntArray, number: SingleArray, roots: list[int], n_columns: int, base: np.float32) -> Trees:
    n = len(feature)
    true, false = [-1] * n, [-1] * n
    waiting: list[int] = []  # inner nodes whose children on the false side come later
    for node, of_feature in enumerate(feature.tolist()):
        if of_feature != LEAF:
            true[node] = node + 1
            waiting.append(node)
        elif waiting:
            false[waiting.pop()] = node + 1
    leaves = np.flatnonzero(feature == LEAF).tolist()
    weight = dict(zip(leaves, number[leaves], strict=True))
    return Trees(n_columns, roots, feature.tolist(), number.tolist(), true, false, weight, base)
