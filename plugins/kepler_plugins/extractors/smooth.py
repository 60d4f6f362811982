"""The extractor `SmoothExtractor`, which smooths observations with a rolling mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.contracts import Extractor
from kepler_core.dataset import Dataset
from kepler_core.frames import container_dataset, node_dataset
from kepler_core.recording.observations import Observations
from kepler_plugins.bounds import check_at_least


def rolling_mean(values: FloatArray, group: IntArray, window: int) -> FloatArray:
    """Return a rolling mean: for each value, the mean of the last `window` values of its group, ignoring NaN.

    `group` has for each value the number of its group, and has the same length as `values`. The values of a group are
    contiguous and in order of time. Where a value is NaN, the result is also NaN, so that smoothing fills no gaps.
    """
    n = len(values)
    if n == 0:
        return values
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    position = np.arange(n)
    starts_group = np.concatenate([[True], group[1:] != group[:-1]])
    group_start = np.maximum.accumulate(np.where(starts_group, position, 0))
    first = np.maximum(group_start, position - window + 1)
    means = (total[position + 1] - total[first]) / np.maximum(count[position + 1] - count[first], 1)
    return np.where(known, means, np.nan)


class SmoothExtractor(Extractor):
    """Smooths features and power with a rolling mean over the last `window` timestamps of each node or container."""

    def __init__(self, window: int = 5) -> None:
        check_at_least("window", window, 1)
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
