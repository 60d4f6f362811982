"""A data set as plain arrays: what is fitted on, and what is tested on.

AbsPower models are fitted and tested on nodes. A DynPower model is asked about containers (and
about a node as if it were one), so it is fitted on both kinds of rows; it is tested by what can be
measured: the sum of its answers for a node's containers against the node's dynamic power.
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.dataset import Dataset
from kepler_core.grouping import sum_by
from kepler_core.vocabulary import OutputType, main_feature

LEAST_TESTED = 100
"""Timestamps that DynPower models are tested on at least, however many containers there are."""


@attrs.frozen(eq=False)
class TrainingRows:
    """Arrays of one data set. An instant is a (node, timestamp)."""

    source: str
    output_type: OutputType
    feature_group: str
    features: tuple[str, ...]
    components: tuple[str, ...]
    scale: FloatArray
    """Largest absolute value of each feature over the rows to fit on; 1 where that is 0."""
    fit_X: FloatArray
    """Shape (fit rows, features), in the features' own units."""
    fit_watts: dict[str, FloatArray]
    fit_instant: IntArray
    """Instant of each row, shape (fit rows,)."""
    test_X: FloatArray
    test_instant: IntArray
    tested: BoolArray
    """Whether an instant has test rows, shape (instants,)."""
    node_watts: dict[str, FloatArray]
    """Component -> shape (instants,)."""
    node_load: dict[str, FloatArray]
    """Component -> its main feature, shape (instants,)."""
    stream: IntArray
    time: FloatArray


def training_rows(dataset: Dataset, max_rows: int, max_test_rows: int, seed: int) -> TrainingRows:
    """Choose the rows of a data set."""
    instant = dataset.sample
    n = len(dataset.first_rows)
    X, watts = dataset.X, {component: dataset.y(component) for component in dataset.components}
    if dataset.by_container:
        count = np.bincount(instant, minlength=n)
        node_X = np.column_stack([sum_by(column, instant, n) for column in X.T])
        for at, feature in enumerate(dataset.features):
            if feature in dataset.repeated:
                node_X[:, at] /= count
        node_watts = {c: sum_by(w, instant, n) for c, w in watts.items()}
    else:
        node_X, node_watts = X, watts
    fit_X, fit_watts, fit_instant = node_X, node_watts, np.arange(n)
    test_X, test_instant, tested = node_X, np.arange(n), np.ones(n, dtype=bool)
    several = dataset.by_container and len(instant) > n
    node_rows = _evenly(n, max_rows // 2 if several else max_rows)
    fit_X, fit_instant = fit_X[node_rows], fit_instant[node_rows]
    fit_watts = {c: w[node_rows] for c, w in fit_watts.items()}
    if several:
        load = X[:, dataset.features.index(main_feature(dataset.features, "package"))]
        chosen = _over_load(load, max_rows - len(node_rows), seed)
        fit_X = np.concatenate([fit_X, X[chosen]])
        fit_instant = np.concatenate([fit_instant, instant[chosen]])
        fit_watts = {c: np.concatenate([w, watts[c][chosen]]) for c, w in fit_watts.items()}
        tested = np.zeros(n, dtype=bool)
        tested[_evenly(n, max(int(n * max_test_rows / len(instant)), LEAST_TESTED))] = True
        of_tested = tested[instant]
        test_X, test_instant = X[of_tested], instant[of_tested]
    scale = np.abs(fit_X).max(axis=0, initial=0.0)
    mains = {c: dataset.features.index(main_feature(dataset.features, c)) for c in dataset.components}
    return TrainingRows(
        source=dataset.source,
        output_type=dataset.output_type,
        feature_group=dataset.feature_group,
        features=dataset.features,
        components=dataset.components,
        scale=np.where(scale > 0, scale, 1.0),
        fit_X=fit_X,
        fit_watts=fit_watts,
        fit_instant=fit_instant,
        test_X=test_X,
        test_instant=test_instant,
        tested=tested,
        node_watts=node_watts,
        node_load={component: node_X[:, column] for component, column in mains.items()},
        stream=dataset.stream[dataset.first_rows],
        time=dataset.timestamps[dataset.first_rows],
    )


def _evenly(n: int, most: int) -> IntArray:
    """At most `most` of 0 … n−1, evenly spaced."""
    if n <= most:
        return np.arange(n)
    return np.asarray(np.floor(np.arange(most) * (n / most)), dtype=np.int64)


def _over_load(load: FloatArray, most: int, seed: int) -> IntArray:
    """At most `most` rows: half of them by number, half by load, so that the many idle containers
    do not crowd out the few busy ones. Systematic sampling from a seeded start."""
    if len(load) <= most:
        return np.arange(len(load))
    total = float(load.sum())
    weight = np.full(len(load), 0.5 / len(load))
    weight += 0.5 * load / total if total > 0 else weight
    edges = np.cumsum(weight[order := np.argsort(load, kind="stable")])
    start = np.random.default_rng(seed).random()
    points = (np.arange(most) + start) / most * edges[-1]
    return np.unique(order[np.minimum(np.searchsorted(edges, points), len(load) - 1)])
