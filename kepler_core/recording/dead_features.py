"""Leave out features that measure nothing although the CPUs run, e.g. eBPF features on a real-time kernel.

A model of such a feature would estimate the power of an idle machine at any load.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import WORKLOAD_FEATURES, dead_features


def without_dead_features(observations: Observations) -> Observations:
    """Return the observations with NaN for the dead features of each stream, and count these values.

    `kepler_core.vocabulary.dead_features` defines which features are dead. Values of containers are left out, too.
    """
    known = [feature for feature in WORKLOAD_FEATURES if feature in observations.node_features]
    node_columns: dict[str, FloatArray] = {}
    container_columns: dict[str, FloatArray] = {}
    limits = np.searchsorted(observations.sample_stream, np.arange(len(observations.streams) + 1))
    row_limits = np.searchsorted(observations.row_sample, limits)
    for code, stream in enumerate(observations.streams):
        samples, rows = slice(*limits[code : code + 2]), slice(*row_limits[code : code + 2])
        values = {feature: observations.node_features[feature][samples] for feature in known}
        moves = {feature: bool((column > 0).any()) for feature, column in values.items() if np.isfinite(column).any()}
        for feature in dead_features(moves):
            number = int(np.isfinite(values[feature]).sum())
            observations.counts.count("dead_features", feature, number, f"node {stream.node!r} of {stream.recording}")
            _forget(node_columns, observations.node_features, feature, samples)
            _forget(container_columns, observations.container_features, feature, rows)
    if not node_columns:
        return observations
    return attrs.evolve(
        observations,
        node_features=_with_columns(observations.node_features, node_columns),
        container_features=_with_columns(observations.container_features, container_columns),
    )


def _forget(copies: dict[str, FloatArray], columns: Mapping[str, FloatArray], name: str, part: slice) -> None:
    """Set a part of a column to NaN. The column is copied to `copies` before its first change."""
    if name in columns:
        if name not in copies:
            copies[name] = columns[name].copy()
        copies[name][part] = np.nan


def _with_columns(columns: Mapping[str, FloatArray], changed: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return all columns in their order, with the changed ones replaced, and without columns that are NaN only."""
    result = {name: changed.get(name, column) for name, column in columns.items()}
    return {name: column for name, column in result.items() if name not in changed or np.isfinite(column).any()}
