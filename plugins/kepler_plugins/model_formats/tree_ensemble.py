"""The tree ensemble of an ONNX graph, read without ONNX Runtime.

A process that has only such models saves its memory: tables made from it predict the same, see
`step_table` and `leaf_masks`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import IndexArray, SingleArray

_TREES = b"TreeEnsembleRegressor"
# what a graph may say of itself and still be a plain sum of leaves
_PLAIN = {b"post_transform": b"NONE", b"aggregate_function": b"SUM"}


@attrs.frozen(eq=False)
class Trees:
    """A prediction is the sum, in single precision, of the leaf that each tree comes to and of the base."""

    n_features: int
    roots: list[int]
    """Index of each tree's first node, in order."""
    feature: list[int]
    edge: list[float]
    """A value up to and including this goes to the true side."""
    true: list[int]
    false: list[int]
    """Indices of nodes; -1 at leaves."""
    weight: Mapping[int, np.float32]
    """Of leaves, by node."""
    base: np.float32

    def thresholds(self) -> list[SingleArray]:
        """Per feature the edges, rising, each once; empty where no tree looks at the feature."""
        found: list[set[float]] = [set() for _ in range(self.n_features)]
        for feature, edge, true in zip(self.feature, self.edge, self.true, strict=True):
            if true >= 0:
                found[feature].add(edge)
        return [np.array(sorted(values), dtype=np.float32) for values in found]


def merged(edges: Sequence[SingleArray]) -> tuple[SingleArray, IndexArray]:
    """All edges of several ensembles for a feature, rising, and in which interval of each ensemble the
    intervals between all of them lie. Shape (ensembles, edges + 1)."""
    # not np.unique: it imports numpy.ma, which takes longer than all the rest
    together = np.array(sorted({edge for own in edges for edge in own.tolist()}), dtype=np.float32)
    places = np.empty((len(edges), len(together) + 1), dtype=np.intp)
    for row, own in enumerate(edges):
        places[row, :-1] = own.searchsorted(together)
        places[row, -1] = len(own)
    return together, places


def read_trees(graph: bytes, n_features: int) -> Trees | None:
    """The trees of an ONNX graph that is one tree ensemble; None for any other graph."""
    try:
        first, *others = (list(_fields(node)) for node in _find(graph, 7, 1))
        if (4, _TREES) not in first:
            return None
        result = _names(first, 2)
        for node in others:  # some converters end with nodes that change nothing
            if (4, b"Identity") not in node or _names(node, 1) != result:
                return None
            result = _names(node, 2)
        outputs = [name for output in _find(graph, 7, 12) for name in _names(list(_fields(output)), 1)]
        return _of_node(first, n_features) if outputs == result else None
    except (ValueError, LookupError, struct.error):
        return None  # something that is not known here: ONNX Runtime does


def _names(message: list[tuple[int, bytes | int]], field: int) -> list[bytes]:
    return [value for number, value in message if number == field and isinstance(value, bytes)]


def _of_node(node: list[tuple[int, bytes | int]], n_features: int) -> Trees | None:
    attributes = {}
    for number, value in node:
        if number == 5 and isinstance(value, bytes):
            fields = list(_fields(value))
            attributes[next(v for n, v in fields if n == 1)] = fields
    for name, plain in _PLAIN.items():
        if any(number == 4 and value != plain for number, value in attributes.get(name, ())):
            return None
    modes = [v for n, v in attributes[b"nodes_modes"] if n == 9]
    feature = _integers(attributes[b"nodes_featureids"])
    values = _floats(attributes[b"nodes_values"])
    at = {key: i for i, key in enumerate(zip(*(_integers(attributes[n]) for n in _NODE_KEYS), strict=True))}
    tree_of = [tree for tree, _ in at]
    true = [at.get((t, n), -1) for t, n in zip(tree_of, _integers(attributes[b"nodes_truenodeids"]), strict=True)]
    false = [at.get((t, n), -1) for t, n in zip(tree_of, _integers(attributes[b"nodes_falsenodeids"]), strict=True)]
    edge = []
    for i, (mode, value) in enumerate(zip(modes, values, strict=True)):
        if mode == b"LEAF":
            true[i] = false[i] = -1
        elif mode not in (b"BRANCH_LEQ", b"BRANCH_LT") or not 0 <= feature[i] < n_features:
            return None
        elif true[i] <= i or false[i] <= i:
            return None  # children come after their parents, so that every walk ends
        # below a value is at most the number before it
        edge.append(float(value if mode == b"BRANCH_LEQ" else np.nextafter(value, np.float32(-np.inf))))
    if any(_integers(attributes[b"target_ids"])) or not np.isfinite(values).all():
        return None
    leaves = [at[key] for key in zip(*(_integers(attributes[n]) for n in _TARGET_KEYS), strict=True)]
    weights = dict(zip(leaves, _floats(attributes[b"target_weights"]), strict=True))
    if len(weights) != len(leaves):
        return None  # several weights at one leaf
    base = _floats(attributes[b"base_values"]) if b"base_values" in attributes else np.zeros(1, dtype=np.float32)
    if len(base) != 1 or len({len(modes), len(feature), len(at)}) != 1:
        return None
    roots = [i for i, tree in enumerate(tree_of) if i == 0 or tree != tree_of[i - 1]]
    return Trees(n_features, roots, feature, edge, true, false, weights, base[0])


_NODE_KEYS = (b"nodes_treeids", b"nodes_nodeids")
_TARGET_KEYS = (b"target_treeids", b"target_nodeids")


def _floats(fields: list[tuple[int, bytes | int]]) -> SingleArray:
    packed = [v for n, v in fields if n == 7 and isinstance(v, bytes)]
    return np.frombuffer(b"".join(packed), dtype="<f4")


def _integers(fields: list[tuple[int, bytes | int]]) -> list[int]:
    found: list[int] = []
    for number, value in fields:
        if number == 8:
            found += _unpacked(value) if isinstance(value, bytes) else [value]
    return found


# --- just enough of the protobuf wire format ------------------------------------------------------


def _find(message: bytes, *path: int) -> Iterator[bytes]:
    for number, value in _fields(message):
        if number == path[0] and isinstance(value, bytes):
            if len(path) == 1:
                yield value
            else:
                yield from _find(value, *path[1:])


_INTEGER_OF_AN_ATTRIBUTE = re.compile(rb"@([\x80-\xff]{0,9}[\x00-\x7f])")
_INTEGERS_OF_AN_ATTRIBUTE = re.compile(rb"(?:@[\x80-\xff]{0,9}[\x00-\x7f])+")
"""Of field 8, each with its key."""


def _unpacked(varints: bytes) -> list[int]:
    found = np.frombuffer(varints, dtype=np.uint8)
    ends = np.flatnonzero(found < 0x80)
    if not found.size:
        return []
    if not ends.size or ends[-1] != found.size - 1:
        raise ValueError("truncated")
    starts = np.concatenate([[0], ends[:-1] + 1])
    longest = int((ends - starts).max()) + 1
    if longest > 10:
        raise ValueError("a number of more than ten bytes")
    numbers = np.zeros(len(ends), dtype=np.int64)
    for byte in range(longest):
        here = np.flatnonzero(starts + byte <= ends)
        numbers[here] |= (found[starts[here] + byte] & 0x7F).astype(np.int64) << (7 * byte)
    listed: list[int] = numbers.tolist()
    return listed


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field; a value is the bytes of a string, message or fixed number, or a
    whole number."""
    at = 0
    while at < len(message):
        if run := _INTEGERS_OF_AN_ATTRIBUTE.match(message, at):
            # by far most of what there is; as if they were packed
            yield 8, b"".join(_INTEGER_OF_AN_ATTRIBUTE.findall(run[0]))
            at = run.end()
            continue
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("truncated")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
