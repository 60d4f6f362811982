"""Reads the tree ensemble in an ONNX graph without ONNX Runtime.

`step_table` and `leaf_masks` make fast predictors of the tree ensemble. A process whose models are all such
ensembles never loads ONNX Runtime, which saves memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_plugins.model_formats.onnx_reading import Attribute, Graph

_PLAIN_ATTRIBUTES = {b"post_transform": b"NONE", b"aggregate_function": b"SUM"}
"""The only supported values of some attributes. With them, a prediction is the plain sum of the leaves' values."""
_NODE_KEYS = (b"nodes_treeids", b"nodes_nodeids")
_TARGET_KEYS = (b"target_treeids", b"target_nodeids")


@attrs.frozen(eq=False)
class Trees:
    """A tree ensemble. A prediction is the sum of one leaf's value per tree, plus `base`.

    The sum is calculated in single precision. `feature`, `edge`, `true` and `false` have one element per tree
    node.
    """

    n_features: int
    roots: list[int]
    """Index of each tree's root node, in the order of the trees."""
    feature: list[int]
    edge: list[float]
    """Threshold of each tree node: the highest value of the node's feature that goes to the node's true side."""
    true: list[int]
    """Index of each tree node's child on the true side; -1 for leaves."""
    false: list[int]
    """Index of each tree node's child on the false side; -1 for leaves."""
    weight: Mapping[int, np.float32]
    """Value of each leaf, by the index of the leaf."""
    base: np.float32
    """Number that is added to every prediction."""

    def thresholds(self) -> list[SingleArray]:
        """Return the distinct thresholds of each feature, ascending.

        The array of a feature that no tree uses is empty.
        """
        edges: list[set[float]] = [set() for _ in range(self.n_features)]
        for feature, edge, true in zip(self.feature, self.edge, self.true, strict=True):
            if true >= 0:
                edges[feature].add(edge)
        return [np.array(sorted(of_feature), dtype=np.float32) for of_feature in edges]


def merge_edges(edges: Sequence[SingleArray]) -> tuple[SingleArray, IndexArray]:
    """Merge the thresholds that several ensembles have for the same feature.

    Returns the merged thresholds, ascending, and an array of shape (ensembles, merged thresholds + 1). The
    merged thresholds divide the feature's values into small intervals. Each small interval is inside an interval
    between two of an ensemble's own thresholds. The array has the index of this larger interval.
    """
    # np.unique is not used, because it imports numpy.ma, which takes longer than the rest of this function.
    merged = np.array(sorted({edge for of_ensemble in edges for edge in of_ensemble.tolist()}), dtype=np.float32)
    positions = np.empty((len(edges), len(merged) + 1), dtype=np.intp)
    for i, of_ensemble in enumerate(edges):
        positions[i, :-1] = of_ensemble.searchsorted(merged)
        positions[i, -1] = len(of_ensemble)
    return merged, positions


def rounded_down(values: Sequence[float] | FloatArray) -> SingleArray:
    """Round thresholds down to single precision.

    The trees compare in double precision, and a stored model compares in single precision. For a value x in single
    precision, x ≤ threshold holds exactly if x ≤ the threshold rounded down. A threshold that is rounded up
    could become equal to a value x that is above the exact threshold. The stored model would then take the true side
    for x instead of the false side.
    """
    exact = np.asarray(values, dtype=np.float64)
    nearest = exact.astype(np.float32)
    next_lower: SingleArray = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > exact, next_lower, nearest)


def read_trees(graph: Graph, n_features: int) -> Trees | None:
    """Return the trees of a graph that is a single tree ensemble; None for any other graph.

    The caller has checked the graph with `check_graph`, so no tree node has two parents.
    """
    try:
        first, *others = graph.nodes
        if first.operator != "TreeEnsembleRegressor":
            return None
        result = first.outputs
        for node in others:  # some converters append Identity nodes
            if node.operator != "Identity" or node.inputs != result:
                return None
            result = node.outputs
        return _trees_of_node(first.attributes, n_features) if graph.outputs == result else None
    except (ValueError, LookupError, struct.error):
        return None  # ONNX Runtime evaluates graphs of any other form


def _trees_of_node(attributes: Mapping[bytes, Attribute], n_features: int) -> Trees | None:
    """Return the trees of a `TreeEnsembleRegressor` node; None if predictions are not plain sums of leaf values."""
    for name, plain in _PLAIN_ATTRIBUTES.items():
        if name in attributes and attributes[name].strings != [plain]:
            return None
    modes = attributes[b"nodes_modes"].strings
    feature = attributes[b"nodes_featureids"].integers
    values = attributes[b"nodes_values"].floats
    node_keys = list(zip(*(attributes[name].integers for name in _NODE_KEYS), strict=True))
    index = {key: i for i, key in enumerate(node_keys)}
    tree_of = [tree for tree, _ in index]
    true, false = (
        [index.get((tree, child), -1) for tree, child in zip(tree_of, attributes[name].integers, strict=True)]
        for name in (b"nodes_truenodeids", b"nodes_falsenodeids")
    )
    edge = []
    for i, (mode, value) in enumerate(zip(modes, values, strict=True)):
        if mode == b"LEAF":
            true[i] = false[i] = -1
        elif mode not in (b"BRANCH_LEQ", b"BRANCH_LT") or not 0 <= feature[i] < n_features:
            return None
        elif true[i] <= i or false[i] <= i:
            return None  # a child does not come after its parent, so a walk through the tree could be endless
        # "Less than a value" is the same as "at most the next smaller number in single precision".
        edge.append(float(value if mode == b"BRANCH_LEQ" else np.nextafter(value, np.float32(-np.inf))))
    if any(attributes[b"target_ids"].integers) or not np.isfinite(values).all():
        return None
    leaves = [index[key] for key in zip(*(attributes[name].integers for name in _TARGET_KEYS), strict=True)]
    weights = dict(zip(leaves, attributes[b"target_weights"].floats, strict=True))
    if len(weights) != len(leaves):
        return None  # a leaf has several weights
    base = attributes[b"base_values"].floats if b"base_values" in attributes else np.zeros(1, dtype=np.float32)
    if len(base) != 1 or len({len(modes), len(feature), len(index)}) != 1:
        return None
    roots = [i for i, tree in enumerate(tree_of) if i == 0 or tree != tree_of[i - 1]]
    return Trees(n_features, roots, feature, edge, true, false, weights, base[0])
