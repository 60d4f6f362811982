"""Reduce observations to some of their samples, or to some of their streams."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.recording.observations import Observations


def of_samples(observations: Observations, kept: BoolArray) -> Observations:
    """Return some of the samples with their rows; `kept` has the shape (samples,).

    A window that begins at a sample that is not kept becomes unknown. The streams, the counts of irregularities and the
    digest do not change.
    """
    number = _new_numbers(kept)
    rows = kept[observations.row_sample]
    used = np.zeros(len(observations.containers), dtype=bool)
    used[observations.row_container[rows]] = True
    containers = np.flatnonzero(used).tolist()
    windows = {}
    for source, begins in observations.windows.items():
        at = np.maximum(begins, 0)
        windows[source] = np.where((begins >= 0) & kept[at], number[at], -1)[kept]
    return attrs.evolve(
        observations,
        sample_stream=observations.sample_stream[kept],
        sample_time=observations.sample_time[kept],
        containers=tuple(observations.containers[at] for at in containers),
        container_names=tuple(observations.container_names[at] for at in containers),
        row_sample=number[observations.row_sample[rows]],
        row_container=_new_numbers(used)[observations.row_container[rows]],
        container_features={name: values[rows] for name, values in observations.container_features.items()},
        node_features={name: values[kept] for name, values in observations.node_features.items()},
        power={key: watts[kept] for key, watts in observations.power.items()},
        windows=windows,
    )


def of_streams(observations: Observations, chosen: BoolArray) -> Observations:
    """Return the observations of the chosen streams only.

    `chosen` tells which streams are chosen, shape (streams,). The counts of irregularities and the digest stay those of
    the whole recordings.
    """
    part = of_samples(observations, chosen[observations.sample_stream])
    return attrs.evolve(
        part,
        streams=tuple(stream for stream, kept in zip(observations.streams, chosen, strict=True) if kept),
        sample_stream=_new_numbers(chosen)[part.sample_stream],
    )


def _new_numbers(kept: BoolArray) -> IntArray:
    """Return for each kept element its index among the kept elements."""
    return np.cumsum(kept, dtype=np.int64) - 1
