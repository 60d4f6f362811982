"""Observations, smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.contracts import Extractor
from kepler_core.dataset import Dataset
from kepler_core.frames import container_dataset, node_dataset
from kepler_core.recording.observations import Observations


def rolling_mean(values: FloatArray, group: IntArray, window: int) -> FloatArray:
    """Mean of the known ones among the last `window` values of the same group, the own one included.

    `values` and `group` have shape (n,); values of a group follow each other in time. Where the own
    value is NaN the mean is NaN too: a row that was never seen is not made up.
    """
    n = len(values)
    if n == 0:
        return values
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(n)
    starts = np.maximum.accumulate(np.where(np.concatenate([[True], group[1:] != group[:-1]]), at, 0))
    first = np.maximum(starts, at - window + 1)
    means = (total[at + 1] - total[first]) / np.maximum(count[at + 1] - count[first], 1)
    return np.where(known, means, np.nan)


class SmoothExtractor(Extractor):
    """A rolling mean over the last `window` timestamps of each node or container."""

    def __init__(self, window: int = 5) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        self.window = window
        self.memory = window

    def extract(
        self,
        observations: Observations,
        features: Sequence[str],
        source: str,
        components: Sequence[str],
        *,
        by_container: bool,
    ) -> Dataset:
        stream = observations.sample_stream

        def by_node(values: FloatArray) -> FloatArray:
            return rolling_mean(values, stream, self.window)

        node_features = {name: by_node(observations.node_features[name]) for name in features}
        power = {component: by_node(observations.power[source, component]) for component in components}
        if not by_container:
            return node_dataset(observations, node_features, power, features, source)
        group = stream[observations.row_sample] * len(observations.containers) + observations.row_container
        order = np.argsort(group, kind="stable")
        container_features = {}
        for name in features:
            if name in observations.container_features:
                smoothed = np.empty(len(order))
                smoothed[order] = rolling_mean(observations.container_features[name][order], group[order], self.window)
                container_features[name] = smoothed
        return container_dataset(observations, container_features, node_features, power, features, source)
