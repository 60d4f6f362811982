"""Reads the tree ensemble of an ONNX graph without ONNX Runtime.

`step_table` and `leaf_masks` make faster predictors of it. A process with such models only never loads
ONNX Runtime, which saves its memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import IndexArray, SingleArray
from kepler_plugins.model_formats.protobuf_fields import Field, fields, submessages, unpack_integers

_TREES = b"TreeEnsembleRegressor"
_PLAIN_ATTRIBUTES = {b"post_transform": b"NONE", b"aggregate_function": b"SUM"}
"""The only supported values of these attributes: the prediction is the plain sum of the leaves."""
_NODE_KEYS = (b"nodes_treeids", b"nodes_nodeids")
_TARGET_KEYS = (b"target_treeids", b"target_nodeids")

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_VALUE_NAME = 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_STRING, _ATTRIBUTE_FLOATS, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 1, 4, 7, 8, 9


@attrs.frozen(eq=False)
class Trees:
    """A tree ensemble. A prediction is the sum, in single precision, of each tree's leaf and of the base."""

    n_features: int
    roots: list[int]
    """Index of each tree's first node, in the order of the trees."""
    feature: list[int]
    edge: list[float]
    """Highest value that goes to the true side."""
    true: list[int]
    """Index of the node on the true side; -1 at leaves."""
    false: list[int]
    """Index of the node on the false side; -1 at leaves."""
    weight: Mapping[int, np.float32]
    """Values of the leaves, by node."""
    base: np.float32

    def thresholds(self) -> list[SingleArray]:
        """Return the distinct edges of each feature, ascending; empty for a feature that no tree uses."""
        edges: list[set[float]] = [set() for _ in range(self.n_features)]
        for feature, edge, true in zip(self.feature, self.edge, self.true, strict=True):
            if true >= 0:
                edges[feature].add(edge)
        return [np.array(sorted(of_feature), dtype=np.float32) for of_feature in edges]


def merge_edges(edges: Sequence[SingleArray]) -> tuple[SingleArray, IndexArray]:
    """Merge the edges that several ensembles have for a feature.

    Returns the merged edges, ascending, and for each ensemble and interval between merged edges the
    interval of the ensemble that contains it, shape (ensembles, merged edges + 1).
    """
    # Not np.unique: it imports numpy.ma, which takes longer than all the rest.
    merged = np.array(sorted({edge for of_ensemble in edges for edge in of_ensemble.tolist()}), dtype=np.float32)
    positions = np.empty((len(edges), len(merged) + 1), dtype=np.intp)
    for i, of_ensemble in enumerate(edges):
        positions[i, :-1] = of_ensemble.searchsorted(merged)
        positions[i, -1] = len(of_ensemble)
    return merged, positions


def read_trees(model: bytes, n_features: int) -> Trees | None:
    """Return the trees of an ONNX model that is a single tree ensemble; None for any other model."""
    try:
        first, *others = (list(fields(node)) for node in submessages(model, _MODEL_GRAPH, _GRAPH_NODE))
        if (_NODE_OP_TYPE, _TREES) not in first:
            return None
        result = _strings(first, _NODE_OUTPUT)
        for node in others:  # some converters append nodes that change nothing
            if (_NODE_OP_TYPE, b"Identity") not in node or _strings(node, _NODE_INPUT) != result:
                return None
            result = _strings(node, _NODE_OUTPUT)
        graph_outputs = submessages(model, _MODEL_GRAPH, _GRAPH_OUTPUT)
        outputs = [name for output in graph_outputs for name in _strings(list(fields(output)), _VALUE_NAME)]
        return _trees_of_node(first, n_features) if outputs == result else None
    except (ValueError, LookupError, struct.error):
        return None  # malformed or unusual: ONNX Runtime decides


def _trees_of_node(node: list[Field], n_features: int) -> Trees | None:
    """Return the trees of a `TreeEnsembleRegressor` node; None if it uses more than plain sums of leaves."""
    attributes = {}
    for number, value in node:
        if number == _NODE_ATTRIBUTE and isinstance(value, bytes):
            attribute = list(fields(value))
            attributes[next(name for number, name in attribute if number == _ATTRIBUTE_NAME)] = attribute
    for name, plain in _PLAIN_ATTRIBUTES.items():
        if any(number == _ATTRIBUTE_STRING and value != plain for number, value in attributes.get(name, ())):
            return None
    modes = [mode for number, mode in attributes[b"nodes_modes"] if number == _ATTRIBUTE_STRINGS]
    feature = _integers(attributes[b"nodes_featureids"])
    values = _floats(attributes[b"nodes_values"])
    node_keys = list(zip(*(_integers(attributes[name]) for name in _NODE_KEYS), strict=True))
    index = {key: i for i, key in enumerate(node_keys)}
    tree_of = [tree for tree, _ in index]
    true, false = (
        [index.get((tree, child), -1) for tree, child in zip(tree_of, _integers(attributes[name]), strict=True)]
        for name in (b"nodes_truenodeids", b"nodes_falsenodeids")
    )
    edge = []
    for i, (mode, value) in enumerate(zip(modes, values, strict=True)):
        if mode == b"LEAF":
            true[i] = false[i] = -1
        elif mode not in (b"BRANCH_LEQ", b"BRANCH_LT") or not 0 <= feature[i] < n_features:
            return None
        elif true[i] <= i or false[i] <= i:
            return None  # a child before its parent could make a walk endless
        # "Less than a value" is "at most the next smaller number".
        edge.append(float(value if mode == b"BRANCH_LEQ" else np.nextafter(value, np.float32(-np.inf))))
    if any(_integers(attributes[b"target_ids"])) or not np.isfinite(values).all():
        return None
    leaves = [index[key] for key in zip(*(_integers(attributes[name]) for name in _TARGET_KEYS), strict=True)]
    weights = dict(zip(leaves, _floats(attributes[b"target_weights"]), strict=True))
    if len(weights) != len(leaves):
        return None  # several weights at one leaf
    base = _floats(attributes[b"base_values"]) if b"base_values" in attributes else np.zeros(1, dtype=np.float32)
    if len(base) != 1 or len({len(modes), len(feature), len(index)}) != 1:
        return None
    roots = [i for i, tree in enumerate(tree_of) if i == 0 or tree != tree_of[i - 1]]
    return Trees(n_features, roots, feature, edge, true, false, weights, base[0])


def _strings(message: list[Field], field: int) -> list[bytes]:
    return [value for number, value in message if number == field and isinstance(value, bytes)]


def _floats(attribute: list[Field]) -> SingleArray:
    packed = [value for number, value in attribute if number == _ATTRIBUTE_FLOATS and isinstance(value, bytes)]
    return np.frombuffer(b"".join(packed), dtype="<f4")


def _integers(attribute: list[Field]) -> list[int]:
    integers: list[int] = []
    for number, value in attribute:
        if number == _ATTRIBUTE_INTS:
            integers += unpack_integers(value) if isinstance(value, bytes) else [value]
    return integers
