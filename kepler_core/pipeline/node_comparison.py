"""Compare the nodes of a node type: the gain of each node, and a test for outliers.

The gain of a node is its power, divided by the power of the median node of its type at the same work. It is measured on
held-out data: each node's samples are divided into contiguous blocks of time. A function of the features is fitted to
every second block (`node_gains`). It gives the power that the median node would have in the other blocks. The gain is
the median over the samples of a block and the mean over the blocks. So the standard error also contains changes from
block to block.

The gains of machines of one type differ. So a node is not an outlier just because its gain differs significantly from
the median. Each node is compared with the spread between the nodes, which is estimated from the median absolute
deviation (MAD): outliers hardly change it. The p-values are adjusted for the number of nodes (Benjamini and Hochberg,
"Controlling the False Discovery Rate", Journal of the Royal Statistical Society B 57, 1995).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.frames import node_dataset
from kepler_core.grouping import median_by
from kepler_core.pipeline.node_gains import fitted_ratios
from kepler_core.pipeline.node_tables import NodeGain, NodeTable
from kepler_core.pipeline.rows import evenly
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import load_feature

BLOCKS = 8
"""Number of blocks of time into which the samples of each node are divided."""
MIN_SAMPLES = 3 * BLOCKS
"""Minimum number of samples of a node. With fewer samples, the median of a block is too uncertain."""
MIN_NODES = 5
"""Minimum number of nodes of a type to test for outliers. The spread of fewer nodes is hardly known."""
FALSE_ALARMS = 0.05
"""Expected share of false alarms among the outliers. If no node is really an outlier, it is the probability of any
false alarm."""
LEAST_DIFFERENCE = 0.05
"""Default of `least`. A node is an outlier only if its power differs from the power of the median node by at least this
fraction. Operators can do little about a smaller difference, and meters of one type differ by several percent."""
DEGREES_PER_NODE = 0.45
"""Degrees of freedom of the t distribution that the outlier test uses, divided by the number of nodes − 1. The spread
of the nodes is estimated from the median absolute deviation (MAD). For normally distributed values, the MAD has 37 % of
the efficiency of the standard deviation (Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", Journal
of the American Statistical Association 88, 1993). This number is from a simulation: with it, the probability of any
false alarm is at most 5 % for 5 to 400 nodes whose gains are normally distributed."""
MAX_ROWS = 400_000
"""Maximum number of samples of all nodes that are compared. Each node keeps evenly spaced samples."""
_MAD_OF_NORMAL = 1.4826
"""Standard deviation of a normal distribution ÷ its median absolute deviation (MAD)."""
_EFFICIENCY = 0.37
_WORK = ("bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions", "cache_miss")
"""Features that describe the work of a node. With more features, the fitted function could take differences between
nodes for differences of their work."""


def compare_nodes(
    observations: Observations,
    node_type: int = 0,
    *,
    least: float = LEAST_DIFFERENCE,
    sources: Collection[str] | None = None,
) -> list[NodeTable]:
    """Return a table for each energy source, with the gains of all nodes that have power of this source.

    All nodes of the observations count as machines of one type. An outlier differs from the median node by at least the
    fraction `least` of the power. If `sources` is not None, only these energy sources get a table.
    """
    tables = []
    for source, components in observations.sources.items():
        if sources is not None and source not in sources:
            continue
        component = next((name for name in ("platform", "package") if name in components), components[0])
        if features := _features(observations, source, component):
            tables.append(_table(observations, node_type, source, component, features, least))
    return tables


def _features(observations: Observations, source: str, component: str) -> tuple[str, ...]:
    """Return the features that describe the work, and that are known for all nodes with known power.

    A feature that only some nodes have would exclude the other nodes.
    """
    powered = np.isfinite(observations.power[source, component])
    streams = np.unique(observations.sample_stream[powered])
    common = [
        name
        for name in observations.features
        if np.isin(streams, observations.sample_stream[powered & np.isfinite(observations.node_features[name])]).all()
        and name not in observations.node_gauges
    ]
    names = common or [name for name in observations.features if name not in observations.node_gauges]
    work = tuple(name for name in _WORK if name in names)
    return work or ((load_feature(names),) if names else ())


def _table(
    observations: Observations, node_type: int, source: str, component: str, features: tuple[str, ...], least: float
) -> NodeTable:
    power = {component: observations.power[source, component]}
    dataset = node_dataset(observations, observations.node_features, power, features, source)
    names = dataset.index.levels[1]
    node = np.asarray(dataset.index.codes[1], dtype=np.int64)
    order = np.lexsort((dataset.timestamps, node))
    X, watts, node = dataset.X[order], dataset.y(component)[order], node[order]
    counts = np.bincount(node, minlength=len(names))
    gains, errors = gains_of(X, watts, node, len(names))
    spread, spread_error, q = outlier_test(gains, errors)
    rows = []
    all_names = {stream.node for stream in observations.streams}
    for at, name in enumerate(map(str, names)):
        all_names.discard(name)
        row = NodeGain(name, int(counts[at]))
        if np.isfinite(gains[at]):
            row.gain, row.standard_error = float(np.exp(gains[at])), float(np.exp(gains[at]) * errors[at])
            row.q = float(q[at]) if np.isfinite(q[at]) else None
            row.outlier = bool(q[at] <= FALSE_ALARMS and abs(np.expm1(gains[at])) >= least)
            if row.q is None:
                row.reason = f"{_count(int(np.isfinite(gains).sum()))}; a test needs at least {MIN_NODES}"
        else:
            row.reason = f"{row.samples} usable samples; a gain needs at least {MIN_SAMPLES}"
        rows.append(row)
    rows += [
        NodeGain(name, 0, reason="no timestamp at which all features and the power are known") for name in all_names
    ]
    rows.sort(key=lambda row: (not row.outlier, row.gain is None, -abs((row.gain or 1.0) - 1.0), row.node))
    return NodeTable(node_type, source, component, list(features), least, spread, spread_error, rows)


def _count(nodes: int) -> str:
    return f"only {nodes} node{'s' if nodes != 1 else ''} of this type with a gain"


def gains_of(X: FloatArray, watts: FloatArray, node: IntArray, nodes: int) -> tuple[FloatArray, FloatArray]:
    """Return the logarithm of each node's gain and its standard error, both of shape (nodes,).

    `X` are features, shape (rows, features), `watts` the measured power and `node` the number of the node (0 …
    `nodes` − 1), both of shape (rows,). Rows are sorted by node, and by time within a node. The median gain is 1. A
    node with fewer than `MIN_SAMPLES` rows has the gain NaN.
    """
    node, kept = _thinned(node, nodes)
    usable = kept[watts[kept] > 0]
    node = node[watts[kept] > 0]
    counts = np.bincount(node, minlength=nodes)
    enough = counts[node] >= MIN_SAMPLES
    node, usable = node[enough], usable[enough]
    if not len(node):
        return np.full(nodes, np.nan), np.full(nodes, np.nan)
    X, watts = X[usable], watts[usable]
    starts = np.cumsum(counts * (counts >= MIN_SAMPLES)) - counts * (counts >= MIN_SAMPLES)
    block = (np.arange(len(node)) - starts[node]) * BLOCKS // counts[node]
    ratio = np.empty(len(node))
    for parity in (0, 1):
        tested = block % 2 == parity
        ratio[tested] = fitted_ratios(X[~tested], watts[~tested], node[~tested], X[tested], watts[tested])
    medians = median_by(np.log(ratio), node * BLOCKS + block, nodes * BLOCKS).reshape(nodes, BLOCKS)
    gains = medians.mean(axis=1)  # a node that was left out has only NaN medians, and so its gain is NaN
    return gains - np.nanmedian(gains), medians.std(axis=1, ddof=1) / np.sqrt(BLOCKS)


def _thinned(node: IntArray, nodes: int) -> tuple[IntArray, IntArray]:
    """Return the node and the index of each row to use: at most `MAX_ROWS` rows, evenly spaced for each node."""
    if len(node) <= MAX_ROWS:
        return node, np.arange(len(node))
    most = max(MAX_ROWS // nodes, MIN_SAMPLES)
    counts = np.bincount(node, minlength=nodes)
    starts = np.cumsum(counts) - counts
    kept = np.concatenate([start + evenly(count, most) for start, count in zip(starts, counts.tolist(), strict=True)])
    return node[kept], kept


def outlier_test(gains: FloatArray, errors: FloatArray) -> tuple[float | None, float | None, FloatArray]:
    """Return the standard deviation between nodes, its standard error, and the adjusted p-value of each node.

    `gains` are logarithms of gains, `errors` their standard errors, both of shape (nodes,), NaN for nodes without a
    gain. With fewer than `MIN_NODES` gains, the two numbers are None and all p-values are NaN.
    """
    q = np.full(len(gains), np.nan)
    known = np.isfinite(gains)
    n = int(known.sum())
    if n < MIN_NODES:
        return None, None, q
    from scipy.stats import t

    difference = gains[known] - np.median(gains[known])
    usual = float(np.median(errors[known] ** 2))
    # The last factor corrects the bias of the MAD (median absolute deviation) for few values.
    total = (_MAD_OF_NORMAL * float(np.median(np.abs(difference))) * n / (n - 0.8)) ** 2
    spread = float(np.sqrt(max(total - usual, 0.0)))
    # A standard error from few blocks may be too small by chance. So the median replaces smaller standard errors.
    variance = max(total - usual, 0.0) + np.maximum(errors[known] ** 2, usual)
    z = np.abs(difference) / np.sqrt(np.maximum(variance, 1e-12))
    q[known] = _adjusted(2 * t.sf(z, max(DEGREES_PER_NODE * (n - 1), 1.0)))
    return spread, spread / float(np.sqrt(2 * _EFFICIENCY * (n - 1))), q


def _adjusted(p: FloatArray) -> FloatArray:
    """Return the p-values of several tests, adjusted by the procedure of Benjamini and Hochberg."""
    order = np.argsort(-p)
    n = len(p)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(p[order] * n / np.arange(n, 0, -1))
    return np.minimum(adjusted, 1.0)
