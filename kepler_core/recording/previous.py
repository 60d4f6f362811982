"""Features with the value of another feature at the previous timestamp, e.g. `cpu_cycles_previous`."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import PREVIOUS_SUFFIX

LONGEST_GAP_STEPS = 2.0
"""Longest time to the previous timestamp, in steps. After a longer gap, previous values are unknown."""


def with_previous(observations: Observations, features: Sequence[str]) -> Observations:
    """Return observations that also have the features of `features` whose names end in `PREVIOUS_SUFFIX`.

    The previous value of a node or container is NaN if it has no previous timestamp, or if this timestamp is more than
    `LONGEST_GAP_STEPS` steps earlier.
    """
    names = {name: name.removesuffix(PREVIOUS_SUFFIX) for name in features if name.endswith(PREVIOUS_SUFFIX)}
    names = {name: base for name, base in names.items() if name not in observations.node_features}
    if not names:
        return observations
    longest = LONGEST_GAP_STEPS * observations.step
    sample_time, stream = observations.sample_time, observations.sample_stream
    of_sample = _previous(stream, sample_time, longest)
    container = stream[observations.row_sample] * len(observations.containers) + observations.row_container
    of_row = _previous(container, sample_time[observations.row_sample], longest)
    node = {name: _taken(observations.node_features[base], of_sample) for name, base in names.items()}
    rows = {
        name: _taken(observations.container_features[base], of_row)
        for name, base in names.items()
        if base in observations.container_features
    }
    return attrs.evolve(
        observations,
        node_features={**observations.node_features, **node},
        container_features={**observations.container_features, **rows},
        node_gauges=observations.node_gauges | {n for n, base in names.items() if base in observations.node_gauges},
    )


def previous_features(observations: Observations) -> tuple[str, ...]:
    """Return the names of features with a previous value, e.g. `cpu_cycles_previous`: one for each known feature."""
    return tuple(name + PREVIOUS_SUFFIX for name in observations.features)


def _previous(group: IntArray, time: FloatArray, longest: float) -> IntArray:
    """Return, for each value, the index of the previous value in its group; -1 if it is missing or too early.

    `group` and `time` (in seconds) have the shape (values,). The values of a group are in ascending order of time. A
    previous value is too early if it is more than `longest` seconds before the value.
    """
    order = np.argsort(group, kind="stable")
    previous = np.full(len(group), -1)
    now, before = order[1:], order[:-1]
    is_near = (group[now] == group[before]) & (time[now] - time[before] <= longest)
    previous[now[is_near]] = before[is_near]
    return previous


def _taken(values: FloatArray, index: IntArray) -> FloatArray:
    return np.where(index >= 0, values[index], np.nan)
