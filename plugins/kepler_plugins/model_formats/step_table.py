"""A tree ensemble over one or two features as the table that it is.

Such an ensemble is constant in every cell of the grid that its thresholds make. So the whole function
is one number per cell, exactly, and a prediction is one search per feature instead of a hundred trees.
The table is made from the ONNX graph itself, without ONNX Runtime: a process that has only such
models saves its memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Single = NDArray[np.float32]

MAX_CELLS = 1_000_000
"""Larger tables take more memory (4 bytes a cell) than they are worth."""
MAX_WORK = 500_000_000
"""Cells that may be written while the table is made."""

_TREES = b"TreeEnsembleRegressor"
# what a graph may say of itself and still be a plain sum of leaves
_PLAIN = {b"post_transform": b"NONE", b"aggregate_function": b"SUM"}


class StepTable:
    """Predicts what the tree ensemble predicts."""

    def __init__(self, edges: list[Single], cells: Single) -> None:
        """`edges` are per feature the values up to and including which a cell reaches, rising; `cells`
        has one more in each direction."""
        self.edges = edges
        self.cells = cells

    def predict(self, X: Single) -> Floats:
        at = self.edges[0].searchsorted(X[:, 0])
        if len(self.edges) > 1:
            at = at * self.cells.shape[1] + self.edges[1].searchsorted(X[:, 1])
        return self.cells.take(at).astype(np.float64)


class StepTables:
    """Several tables of the same features, with one search per feature for all of them."""

    def __init__(self, tables: Sequence[StepTable]) -> None:
        self._cells = np.concatenate([table.cells.reshape(-1) for table in tables])
        starts = np.cumsum([0, *(table.cells.size for table in tables)])[:-1]
        self._edges: list[Single] = []
        # per feature: where a cell of all edges together is in each table; the sum over the features is
        # the place in `_cells`
        self._places: list[NDArray[np.intp]] = []
        for feature in range(len(tables[0].edges)):
            edges = np.array(
                sorted({float(edge) for table in tables for edge in table.edges[feature]}), dtype=np.float32
            )
            places = np.empty((len(tables), len(edges) + 1), dtype=np.intp)
            for row, table in enumerate(tables):
                places[row, :-1] = np.searchsorted(table.edges[feature], edges)
                places[row, -1] = len(table.edges[feature])
                if feature == 0:
                    places[row] = places[row] * table.cells.shape[1] + starts[row]
            self._edges.append(edges)
            self._places.append(places)

    def predict(self, X: Single) -> Floats:
        at = self._places[0].take(self._edges[0].searchsorted(X[:, 0]), axis=1)
        if len(self._edges) > 1:
            at += self._places[1].take(self._edges[1].searchsorted(X[:, 1]), axis=1)
        return self._cells.take(at).astype(np.float64)


def step_table(graph: bytes, n_features: int) -> StepTable | None:
    """The table of an ONNX graph that is one tree ensemble; None for any other graph, and for one whose
    table would be too large."""
    if n_features not in (1, 2):
        return None
    try:
        nodes = [list(_fields(node)) for node in _find(graph, 7, 1)]
        if len(nodes) != 1 or (4, _TREES) not in nodes[0]:
            return None
        trees = _read_trees(nodes[0], n_features)
        return None if trees is None else _tabulate(trees, n_features)
    except (ValueError, LookupError, struct.error):
        return None  # something that is not known here: ONNX Runtime does


@attrs.frozen(eq=False)
class _Trees:
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


def _read_trees(node: list[tuple[int, bytes | int]], n_features: int) -> _Trees | None:
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
    return _Trees(roots, feature, edge, true, false, weights, base[0])


_NODE_KEYS = (b"nodes_treeids", b"nodes_nodeids")
_TARGET_KEYS = (b"target_treeids", b"target_nodeids")


def _tabulate(trees: _Trees, n_features: int) -> StepTable | None:
    found: list[set[float]] = [set() for _ in range(n_features)]
    for feature, edge, true in zip(trees.feature, trees.edge, trees.true, strict=True):
        if true >= 0:
            found[feature].add(edge)
    # a feature that no tree looks at has one edge, which changes nothing
    edges = [np.array(sorted(values) or [0.0], dtype=np.float32) for values in found]
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


def _floats(fields: list[tuple[int, bytes | int]]) -> Single:
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
