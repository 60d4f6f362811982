"""Gains of the nodes of a training: the factors by which the power of machines of one type differs at the same work.

An AbsPower model estimates the power of the mean machine. But nodes also differ in their work. So a regressor that is
fitted to the power of several nodes can recognise each node by its work. Then it learns the gain of the node as if the
gain belonged to the work. Such a model is wrong for the same work on another machine. So the power of each node is
divided by the gain of the node before the fit, as in a model with mixed effects: power = gain of the node · f(work). f
is the same function for all nodes (compare Hajjem, Bellavance and Larocque, "Mixed-effects random forest for clustered
data", Journal of Statistical Computation and Simulation 84, 2014).
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.honesty.interval import MACHINE_PRIOR_IDLE, NORMAL_QUANTILE
from kepler_core.pipeline.validation import MAPE_FLOOR_FRACTION, MIN_MAPE_WATTS

MIN_NODES = 3
"""Minimum number of nodes to measure how machines differ."""
PRIOR_DEVIATION = MACHINE_PRIOR_IDLE / NORMAL_QUANTILE
"""Prior of the standard deviation of the gains. If the work of a node has nothing in common with the work of the other
nodes, the data cannot tell the gain from the effect of the work. Then the prior keeps the gain near 1."""
ALIKE_ROWS = 10
"""Number of neighbouring rows that count as one measurement, because rows next to each other in time are alike."""
MIN_VARIANCE = 1e-8
"""Minimum variance of the relative errors of the fit. Without it, the gain of a node without usable rows would be 0 ÷
0."""
MAX_ITERATIONS = 30
"""Maximum number of iterations. Each iteration fits the function f (see `node_gains`), and then the gains."""
LOWEST_POWER = 0.5
"""Readings below this fraction of the 5 % quantile of a node's power are faults of the meter: the idle power of a
machine hardly changes."""
FAR_MEDIANS = 7.0
"""A row with the measured power P and the fitted power F has the error |ln(P / F)|. Rows whose error exceeds this
multiple of the median error are far from the fit. For normally distributed errors, this is 4.7 standard deviations."""
FAR_LEAST = 0.05
"""Rows whose error |ln(P / F)| is at most this number are never far from the fit."""
ROUNDS = 3
"""Number of fits. Rows that are far from one fit are left out of the next fit."""
PRECISION = 1e-4
"""The iterations end when no gain changes by more than this number."""


def node_gains(X: FloatArray, watts: FloatArray, node: IntArray) -> FloatArray:
    """Return the gain of each row's node, shape (rows,). The mean of the nodes' gains is 1.

    Each row is a node at a timestamp. `X` are the features, shape (rows, features). `watts` is the measured power and
    `node` the number of the node, both of shape (rows,). With fewer than `MIN_NODES` nodes, all gains are 1.

    The power is modelled as gain · f(features). f is a linear model of each feature, its root and its square, with
    weights ≥ 0. The fit minimises squared relative errors, so rows with low and with high power count alike. Two
    steps alternate: f is fitted to power ÷ gain, and then the gain of each node is fitted to power ÷ f.
    """
    nodes, number = np.unique(node, return_inverse=True)
    number = number.reshape(len(node))
    gains = np.ones(len(nodes))
    # Rows with hardly any power are left out, and faulty readings too: their large relative errors mean nothing, but
    # would decide the result.
    usable = watts > max(MAPE_FLOOR_FRACTION * float(watts.max(initial=0.0)), MIN_MAPE_WATTS)
    if len(nodes) >= MIN_NODES:
        usable &= watts > LOWEST_POWER * _low_power(watts, number)[number]
    if len(nodes) < MIN_NODES or not usable.any():
        return gains[number]
    terms = _terms(X)[usable] / watts[usable, None]
    of_node = number[usable]
    rows = np.bincount(of_node, minlength=len(nodes))
    for _ in range(MAX_ITERATIONS):
        before = gains
        relative = np.asarray(terms @ _weights(terms, gains[of_node]))
        squares = np.bincount(of_node, relative**2, minlength=len(nodes))
        products = np.bincount(of_node, relative, minlength=len(nodes))
        variance = max(float(np.mean((1 - gains[of_node] * relative) ** 2)), MIN_VARIANCE)
        penalty = ALIKE_ROWS * variance / PRIOR_DEVIATION**2
        gains = (products + penalty) / (squares + penalty)
        gains /= gains[rows > 0].mean()
        if np.abs(gains - before).max() < PRECISION:
            break
    return gains[number]


def with_own_gains(predicted: FloatArray, measured: FloatArray, node: IntArray) -> FloatArray:
    """Multiply predicted watts by the gain of their node, and return the products, shape (rows,).

    The gain of a node is the factor that fits the predictions to the node's measured power (least squares). If there
    are fewer than `MIN_NODES` nodes, the predictions stay the same, because so few nodes do not show how machines
    differ. All arrays have the shape (rows,).
    """
    nodes = np.unique(node)
    if len(nodes) < MIN_NODES:
        return predicted
    result = predicted.copy()
    for number in nodes:
        rows = node == number
        own = predicted[rows]
        square = float(own @ own)
        if square > 0:
            result[rows] = own * (float(own @ measured[rows]) / square)
    return result


def fitted_ratios(
    X: FloatArray, watts: FloatArray, node: IntArray, test_X: FloatArray, test_watts: FloatArray
) -> FloatArray:
    """Return the measured power ÷ f(features) for each test row, shape (test rows,).

    The function f gives the power without the gains of the nodes (see `node_gains`). It is fitted to the rows `X`,
    `watts` and `node`. All rows have power above 0, the test rows, too. Faulty readings are left out of the fit: rows
    with much less power than the node has at its lowest load, and then rows far from the fit.
    """
    highest = np.abs(X).max(axis=0)
    terms = _terms(X, highest)
    kept = watts > LOWEST_POWER * _low_power(watts, node)[node]
    weights = np.zeros(terms.shape[1])
    for _ in range(ROUNDS):
        own = node_gains(X[kept], watts[kept], node[kept])
        weights = _weights(terms[kept] / watts[kept, None], own)
        gains = np.ones(int(node.max()) + 1)
        gains[node[kept]] = own
        expected = gains[node] * np.maximum(terms @ weights, MIN_MAPE_WATTS)
        difference = np.log(watts / expected)
        usual = float(np.median(np.abs(difference[kept])))
        kept = np.abs(difference) <= max(FAR_MEDIANS * usual, FAR_LEAST)
    # f is 0 only for work that no row of the fit has. The ratio then means nothing, but it must be finite.
    return test_watts / np.maximum(_terms(test_X, highest) @ weights, MIN_MAPE_WATTS)


def _low_power(watts: FloatArray, node: IntArray) -> FloatArray:
    """Return the 5 % quantile of each node's power, shape (highest number of a node + 1,)."""
    order = np.lexsort((watts, node))
    count = np.bincount(node)
    first = np.minimum(np.cumsum(count) - count, len(node) - 1)
    return np.asarray(watts[order][first + count // 20])


def _terms(X: FloatArray, highest: FloatArray | None = None) -> FloatArray:
    """Return the terms of the function f, shape (rows, 3 · features + 1). f is their weighted sum.

    The terms are a constant, and each feature, its root and its square. Features are divided by `highest`, shape
    (features,); default: their highest values.
    """
    highest = np.abs(X).max(axis=0) if highest is None else highest
    x = np.abs(X) / np.where(highest > 0, highest, 1.0)
    return np.hstack([np.ones((len(X), 1)), x, np.sqrt(x), x**2])


def _weights(terms: FloatArray, gains: FloatArray) -> FloatArray:
    """Return the weights of the terms of f with which gain · f fits the measured power best.

    `terms` is the result of `_terms`, divided by the measured power, shape (rows, terms).
    """
    from scipy.optimize import nnls

    # Use the triangular factor of the QR decomposition: it has few rows, and the same solution as all rows.
    r: FloatArray = np.linalg.qr(np.column_stack([terms * gains[:, None], np.ones(len(terms))]), mode="r")  # type: ignore[assignment]
    return np.asarray(nnls(r[:, :-1], r[:, -1], maxiter=100 * terms.shape[1])[0])
