"""The contents of recordings in Kepler Core's vocabulary: rates of containers and nodes, watts of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.recording.array_memo import ArrayMemo
from kepler_core.recording.counts import Counts
from kepler_core.vocabulary import in_component_order


@attrs.frozen(order=True)
class Stream:
    """One node in one recording."""

    recording: str
    """Name of the recording."""
    node: str
    """Value of the node label, usually `instance`."""


@attrs.frozen(eq=False)
class Observations:
    """Features and power of one or several recordings, as arrays.

    A *sample* is a node at a timestamp: a pair of stream and time. A *row* is a container in a sample.
    Samples are sorted by stream and time, rows by sample and container. NaN stands for "not known".
    Extractors read these arrays and must not change them.
    """

    streams: tuple[Stream, ...]
    """The nodes of all recordings."""
    sample_stream: IntArray
    """Index of each sample's stream in `streams`, shape (samples,), ascending."""
    sample_time: FloatArray
    """Unix seconds of each sample, shape (samples,), ascending within a stream."""
    containers: tuple[str, ...]
    """Container ids, or whatever else the metric schema uses to tell containers apart."""
    container_names: tuple[str, ...]
    """Readable names in the order of `containers`: namespace/pod/container; the id where there is no name."""
    row_sample: IntArray
    """Index of each row's sample, shape (rows,), ascending."""
    row_container: IntArray
    """Index of each row's container in `containers`, shape (rows,)."""
    container_features: Mapping[str, FloatArray]
    """Feature -> its rate per second for each row, shape (rows,)."""
    node_features: Mapping[str, FloatArray]
    """Feature -> its value for each sample, shape (samples,): the sum over the containers in units per
    second, or the node's own rate or gauge."""
    node_gauges: frozenset[str]
    """Names of the node features that are gauges: they hold for every container and do not add up."""
    power: Mapping[tuple[str, str], FloatArray]
    """(energy source, component) -> watts of the node for each sample, shape (samples,)."""
    step: float
    """Usual interval between two samples of a node, in seconds; NaN if there is none."""
    counts: Counts
    """Irregularities of the recordings."""
    schemas: tuple[str, ...]
    """Names of the metric schemas that the recordings follow, sorted."""
    digest: str
    """Identifies the data: the digests of the recordings, joined by "+"."""
    memos: dict[str, ArrayMemo[Any]] = attrs.field(factory=dict[str, Any], init=False, repr=False)
    """Intermediate results that the data sets of these observations share (`kepler_core.frames`)."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Energy source -> the components with known power, in the order of `vocabulary.COMPONENTS`."""
        components: dict[str, list[str]] = {}
        for (source, component), watts in self.power.items():
            if np.isfinite(watts).any():
                components.setdefault(source, []).append(component)
        return {source: in_component_order(components[source]) for source in sorted(components)}

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are known in at least one sample, sorted."""
        return tuple(sorted(name for name, values in self.node_features.items() if np.isfinite(values).any()))
