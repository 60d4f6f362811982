"""Observations of some of the streams."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.recording.observations import Observations


def of_streams(observations: Observations, chosen: BoolArray) -> Observations:
    """Return the observations of the chosen streams only.

    `chosen` tells which streams are chosen, shape (streams,). The counts of irregularities and the digest stay those of
    the whole recordings.
    """
    sample = chosen[observations.sample_stream]
    row = sample[observations.row_sample]
    new_sample = _new_numbers(sample)
    used = np.zeros(len(observations.containers), dtype=bool)
    used[observations.row_container[row]] = True
    containers = np.flatnonzero(used).tolist()
    return attrs.evolve(
        observations,
        streams=tuple(stream for stream, kept in zip(observations.streams, chosen, strict=True) if kept),
        sample_stream=_new_numbers(chosen)[observations.sample_stream[sample]],
        sample_time=observations.sample_time[sample],
        containers=tuple(observations.containers[at] for at in containers),
        container_names=tuple(observations.container_names[at] for at in containers),
        row_sample=new_sample[observations.row_sample[row]],
        row_container=_new_numbers(used)[observations.row_container[row]],
        container_features={name: values[row] for name, values in observations.container_features.items()},
        node_features={name: values[sample] for name, values in observations.node_features.items()},
        power={key: watts[sample] for key, watts in observations.power.items()},
        windows={
            source: np.where(begins[sample] < 0, -1, new_sample[begins[sample]])
            for source, begins in observations.windows.items()
        },
    )


def _new_numbers(kept: BoolArray) -> IntArray:
    """Return the number of each element if only the kept elements are numbered."""
    return np.cumsum(kept, dtype=np.int64) - 1
