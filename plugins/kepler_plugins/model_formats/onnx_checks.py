"""Checks of an ONNX graph before ONNX Runtime loads it.

A graph is a program: it could read files, loop for ever, or fill the memory. This module accepts only graphs
whose work is bounded by their size and by the number of rows. An accepted graph uses only the operators in
`OPERATORS`. Subgraphs, functions and data in other files are not possible, because `onnx_reading` rejects
them. Broadcasting can still need much memory and time; `OnnxPredictor` limits both.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import IndexArray
from kepler_core.errors import ModelError
from kepler_core.messages import quoted
from kepler_plugins.model_formats.onnx_reading import Graph, Node

MAX_NODES = 10_000
"""Limit of the number of nodes in a graph.

The graph of an AdaBoost regressor with a hundred trees has about a thousand nodes.
"""

_ELEMENTWISE = (
    "Abs Add And Cast Ceil Clip Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Log Max "
    "Mean Min Mod Mul Neg Not Or Pow Reciprocal Relu Round Sigmoid Sign Softplus Sqrt Sub Sum Tanh Where Xor"
)
_REDUCTIONS = (
    "ArgMax ArgMin CumSum LogSoftmax ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare Softmax TopK"
)
_LAYOUT = (
    "Concat ConstantOfShape Flatten Gather GatherElements Identity Reshape Shape Slice Squeeze Transpose Unsqueeze"
)
_PRODUCTS = "Gemm MatMul"
_MACHINE_LEARNING = (
    "ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LinearRegressor Normalizer SVMRegressor Scaler "
    "TreeEnsembleRegressor"
)

OPERATORS = {
    "": frozenset(f"{_ELEMENTWISE} {_REDUCTIONS} {_LAYOUT} {_PRODUCTS}".split()),
    "ai.onnx.ml": frozenset(_MACHINE_LEARNING.split()),
    "com.microsoft": frozenset({"CDist"}),
}
"""The operators that a graph may use, by their domain.

skl2onnx 1.20 and onnxmltools 1.14 write these operators for regressors and preprocessing of scikit-learn,
XGBoost and LightGBM. None of these operators runs a subgraph, reads a file or draws random numbers.
"""

_MODES = frozenset({b"LEAF", b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT", b"BRANCH_EQ", b"BRANCH_NEQ"})
_MAX_ID = 2**31
_NODE_IDS = (b"nodes_treeids", b"nodes_nodeids")


def check_graph(graph: Graph) -> None:
    """Raise `ModelError` unless a graph only calculates with its input and its constants."""
    if len(graph.nodes) > MAX_NODES:
        raise ModelError(f"an ONNX graph of {len(graph.nodes)} nodes; at most {MAX_NODES} are supported")
    for domain in graph.domains:
        if domain not in OPERATORS and domain != "ai.onnx":
            raise ModelError(f"ONNX operators of the domain {quoted(domain)} are not supported")
    for node in graph.nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if node.operator not in OPERATORS.get(domain, ()):
            name = f"{domain}.{node.operator}" if domain else node.operator
            raise ModelError(f"the ONNX operator {quoted(name)} is not supported")
        try:
            if node.operator == "TreeEnsembleRegressor":
                _check_trees(node)
            elif node.operator == "SVMRegressor":
                _check_support_vectors(node)
        except (LookupError, ValueError) as error:
            raise ModelError(f"damaged {node.operator}: {error}") from None


def _check_trees(node: Node) -> None:
    """Raise `ValueError` or `LookupError` unless each tree node is reached by exactly one path from its tree's root.

    ONNX Runtime 1.20 does not check the paths. If a tree node is its own ancestor, a prediction never ends. If tree
    nodes have two parents, the number of paths from the root to the leaves can grow exponentially. The function
    `step_table` follows every path, so its time would grow exponentially too.
    """
    trees, ids = (_ids(node, name) for name in _NODE_IDS)
    modes = node.attributes[b"nodes_modes"].strings
    if not _MODES.issuperset(modes):
        raise ValueError("a tree node with an unknown kind of split")
    if not len(trees) == len(ids) == len(modes) > 0:
        raise ValueError("attributes with lists of different lengths")
    if any(node.attributes[b"target_ids"].integers) or (node.attributes[b"n_targets"].integers or [1]) != [1]:
        raise ValueError("trees with more than one target")
    if (_ids(node, b"nodes_featureids") < 0).any():
        raise ValueError("a negative feature index")
    keys = trees * _MAX_ID + ids
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError("two nodes with the same number in a tree")
    inner = np.flatnonzero([mode != b"LEAF" for mode in modes])
    n_parents = np.zeros(len(keys), dtype=np.intp)
    children = np.full((2, len(keys)), -1, dtype=np.intp)
    for side, name in enumerate((b"nodes_truenodeids", b"nodes_falsenodeids")):
        wanted = trees[inner] * _MAX_ID + _ids(node, name)[inner]
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        if (ordered[at] != wanted).any():
            raise ValueError("a child node is missing")
        children[side, inner] = order[at]
        np.add.at(n_parents, order[at], 1)
    _check_walk(trees, n_parents, children)


def _check_walk(trees: IndexArray, n_parents: IndexArray, children: IndexArray) -> None:
    """Raise `ValueError` unless a walk from the roots of the trees reaches each tree node exactly once."""
    if (n_parents > 1).any():
        raise ValueError("a node with two parents")
    level = np.flatnonzero(n_parents == 0)
    if len(level) != len(set(trees.tolist())):
        raise ValueError("a tree that does not have exactly one root")
    n_reached = 0
    while len(level):
        n_reached += len(level)
        level = children[:, level].ravel()
        level = level[level >= 0]
    if n_reached != len(trees):
        raise ValueError("tree nodes that no root reaches")


def _check_support_vectors(node: Node) -> None:
    """Raise `ValueError` unless a support vector machine has one coefficient for each support vector."""
    counts = node.attributes[b"n_supports"].integers if b"n_supports" in node.attributes else [0]
    if not 0 <= counts[0] < _MAX_ID or len(counts) != 1:
        raise ValueError("the number of support vectors is missing or invalid")
    if counts[0] and len(node.attributes[b"coefficients"].floats) != counts[0]:
        raise ValueError("the numbers of coefficients and of support vectors differ")


def _ids(node: Node, name: bytes) -> IndexArray:
    values = np.array(node.attributes[name].integers, dtype=np.int64)
    if ((values < 0) | (values >= _MAX_ID)).any():
        raise ValueError(f"{name.decode()} outside of 0 to 2^31 - 1")
    return values
