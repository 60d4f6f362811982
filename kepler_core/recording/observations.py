"""The contents of recordings in Kepler Core's vocabulary: rates of containers and nodes, and watts of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.counts import Counts
from kepler_core.vocabulary import in_component_order


@attrs.frozen(order=True)
class Stream:
    """Identifies a stream: the samples of one node in one recording."""

    recording: str
    """Name of the recording."""
    node: str
    """Value of the node label, usually `instance`."""


@attrs.frozen(eq=False)
class Observations:
    """Features and power from one or several recordings, as arrays.

    A *stream* is a node in one recording. A *sample* is a stream at a timestamp. A *row* is a container in a sample.
    Samples are sorted by stream and time, rows by sample and container. NaN stands for an unknown value.
    Extractors read these arrays and must not change them.
    """

    streams: tuple[Stream, ...]
    """All streams; a node that occurs in two recordings has two streams."""
    sample_stream: IntArray
    """Index of each sample's stream in `streams`, shape (samples,), ascending."""
    sample_time: FloatArray
    """Unix seconds of each sample, shape (samples,), ascending within a stream."""
    containers: tuple[str, ...]
    """Ids of all containers: the values of the label by which the metric schema distinguishes containers."""
    container_names: tuple[str, ...]
    """Readable name of each container in `containers`: "namespace/pod/container", or its id if it has no name."""
    row_sample: IntArray
    """Index of each row's sample, shape (rows,), ascending."""
    row_container: IntArray
    """Index of each row's container in `containers`, shape (rows,)."""
    container_features: Mapping[str, FloatArray]
    """Rates per second in each row, by feature; each array has the shape (rows,)."""
    node_features: Mapping[str, FloatArray]
    """Values in each sample, by feature; each array has the shape (samples,).

    The value of a container feature is the sum over the rates per second of the node's containers. A feature that is
    measured per node is a rate per second or the value of a gauge.
    """
    node_gauges: frozenset[str]
    """Names of the node features that are gauges. A gauge's value holds for the node and for each of its containers."""
    power: Mapping[tuple[str, str], FloatArray]
    """Watts of the node in each sample, by (energy source, component); each array has the shape (samples,)."""
    step: float
    """Usual seconds between two samples of a node; NaN if no node has two samples."""
    counts: Counts
    """How often each kind of irregularity occurs in the recordings."""
    schemas: tuple[str, ...]
    """Names of the metric schemas that the recordings follow, sorted."""
    digest: str
    """Identifier of the data: the digests of all recordings, joined by "+"."""
    windows: Mapping[str, IntArray] = attrs.field(factory=dict[str, IntArray])
    """Windows of the energy sources whose meters seldom have a new reading, by energy source.

    A sample's power is the mean over its window, which ends at this sample. Each array has the shape (samples,). It
    contains the index of the sample at which the window begins, or -1 if the window is not known. For all other
    energy sources, the window begins at the previous sample.
    """
    memos: dict[str, ArrayMemo[Any]] = attrs.field(factory=dict[str, Any], init=False, repr=False)
    """Caches of intermediate results that all data sets from these observations share (see `kepler_core.frames`)."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Components whose power is known in any sample, by energy source, in the order of `vocabulary.COMPONENTS`."""
        components: dict[str, list[str]] = {}
        for (source, component), watts in self.power.items():
            if np.isfinite(watts).any():
                components.setdefault(source, []).append(component)
        return {source: in_component_order(components[source]) for source in sorted(components)}

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are known in at least one sample, sorted."""
        return tuple(sorted(name for name, values in self.node_features.items() if np.isfinite(values).any()))


def has_short_window(observations: Observations, source: str) -> BoolArray:
    """Return whether the window of each sample's power begins at the previous sample, shape (samples,).

    `source` is the energy source of the power. See `Observations.windows`.
    """
    n = len(observations.sample_time)
    begins = observations.windows.get(source)
    return np.ones(n, dtype=bool) if begins is None else np.arange(n) - begins == 1
