"""The rows of a data set on which models are trained and tested, as plain arrays.

AbsPower models are fitted and tested on rows of nodes. DynPower models estimate the power of containers, and of
a whole node as if it were one container. Therefore they are fitted on rows of containers and on rows of nodes.
The power of a single container cannot be measured. DynPower models are therefore tested on the dynamic power of
nodes: the sum of the estimates for a node's containers is compared with the node's dynamic power.
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.dataset import Dataset
from kepler_core.grouping import sum_by
from kepler_core.vocabulary import OutputType, load_feature, main_feature

MIN_TESTED_SAMPLES = 100
"""DynPower models are tested on at least this number of samples, even if the samples then have more than
`max_test_rows` rows."""


@attrs.frozen(eq=False)
class TrainingRows:
    """Arrays of one data set: training rows, test rows, and values of each sample.

    A sample is a node at a timestamp. A row holds the features of a whole sample or, for DynPower, of one container
    in a sample.
    """

    source: str
    output_type: OutputType
    feature_group: str
    features: tuple[str, ...]
    components: tuple[str, ...]
    scale: FloatArray
    """Largest absolute value of each feature in the training rows; 1 for a feature that is always 0."""
    fit_X: FloatArray
    """Unscaled features of the training rows, shape (training rows, features)."""
    fit_watts: dict[str, FloatArray]
    """Watts of the training rows, by component; each array has the shape (training rows,)."""
    fit_sample: IntArray
    """For each training row, the index of its sample, shape (training rows,)."""
    test_X: FloatArray
    """Unscaled features of the test rows, shape (test rows, features)."""
    test_sample: IntArray
    """For each test row, the index of its sample, shape (test rows,)."""
    tested: BoolArray
    """Whether each sample has test rows, shape (samples,)."""
    node_watts: dict[str, FloatArray]
    """The node's watts in each sample, by component (dynamic power for DynPower); each of shape (samples,)."""
    node_load: dict[str, FloatArray]
    """The node's value of the main feature (`vocabulary.main_feature`), by component; each of shape (samples,)."""
    load: FloatArray
    """Value of the load feature (`vocabulary.load_feature`) for the whole node in each sample, shape (samples,)."""
    node_X: FloatArray
    """Unscaled features of the whole node in each sample, shape (samples, features)."""
    stream: IntArray
    """Index of the stream (a node in a recording) that each sample belongs to, shape (samples,)."""
    recording: IntArray
    """Number of the recording that each sample belongs to, shape (samples,)."""
    node: IntArray
    """Number of the node that each sample belongs to, shape (samples,)."""
    time: FloatArray
    """Timestamp of each sample in Unix seconds, shape (samples,)."""


def training_rows(dataset: Dataset, max_rows: int, max_test_rows: int, seed: int) -> TrainingRows:
    """Choose the training rows (at most `max_rows`) and, for DynPower, the test rows (about `max_test_rows`)."""
    sample = dataset.sample
    n = len(dataset.first_rows)
    X, watts = dataset.X, {component: dataset.y(component) for component in dataset.components}
    if dataset.by_container:
        count = np.bincount(sample, minlength=n)
        node_X = np.column_stack([sum_by(column, sample, n) for column in X.T])
        for at, feature in enumerate(dataset.features):
            if feature in dataset.repeated:
                node_X[:, at] /= count
        node_watts = {c: sum_by(w, sample, n) for c, w in watts.items()}
    else:
        node_X, node_watts = X, watts
    fit_X, fit_watts, fit_sample = node_X, node_watts, np.arange(n)
    test_X, test_sample, tested = node_X, np.arange(n), np.ones(n, dtype=bool)
    several = dataset.by_container and len(sample) > n
    node_rows = evenly(n, max_rows // 2 if several else max_rows)
    fit_X, fit_sample = fit_X[node_rows], fit_sample[node_rows]
    fit_watts = {c: w[node_rows] for c, w in fit_watts.items()}
    if several:
        load = X[:, dataset.features.index(main_feature(dataset.features, "package"))]
        chosen = _over_load(load, max_rows - len(node_rows), seed)
        fit_X = np.concatenate([fit_X, X[chosen]])
        fit_sample = np.concatenate([fit_sample, sample[chosen]])
        fit_watts = {c: np.concatenate([w, watts[c][chosen]]) for c, w in fit_watts.items()}
        tested = np.zeros(n, dtype=bool)
        tested[evenly(n, max(int(n * max_test_rows / len(sample)), MIN_TESTED_SAMPLES))] = True
        test_rows = tested[sample]
        test_X, test_sample = X[test_rows], sample[test_rows]
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
        fit_sample=fit_sample,
        test_X=test_X,
        test_sample=test_sample,
        tested=tested,
        node_watts=node_watts,
        node_load={component: node_X[:, column] for component, column in mains.items()},
        load=node_X[:, dataset.features.index(load_feature(dataset.features))],
        node_X=node_X,
        stream=dataset.stream[dataset.first_rows],
        recording=np.asarray(dataset.index.codes[0], dtype=np.int64)[dataset.first_rows],
        node=np.asarray(dataset.index.codes[1], dtype=np.int64)[dataset.first_rows],
        time=dataset.timestamps[dataset.first_rows],
    )


def evenly(n: int, most: int) -> IntArray:
    """Return at most `most` evenly spaced integers from 0 to n − 1."""
    if n <= most:
        return np.arange(n)
    return np.asarray(np.floor(np.arange(most) * (n / most)), dtype=np.int64)


def _over_load(load: FloatArray, most: int, seed: int) -> IntArray:
    """Return the indices of at most `most` rows, chosen by weighted systematic sampling with a random start.

    A row's weight has two parts: one is equal for all rows, the other is proportional to the row's load. With
    equal weights alone, most of the chosen rows would be of idle containers.
    """
    if len(load) <= most:
        return np.arange(len(load))
    total = float(load.sum())
    weight = np.full(len(load), 0.5 / len(load))
    weight += 0.5 * load / total if total > 0 else weight
    edges = np.cumsum(weight[order := np.argsort(load, kind="stable")])
    start = np.random.default_rng(seed).random()
    points = (np.arange(most) + start) / most * edges[-1]
    return np.unique(order[np.minimum(np.searchsorted(edges, points), len(load) - 1)])
