"""The features and the power of a recording, and methods to leave out readings that cannot be true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray, IntArray
from kepler_core.recording.counts import Counts
from kepler_core.recording.node_rows import NodeRows, node_rows
from kepler_core.recording.times import utc


@attrs.define(eq=False)
class LaidOut:
    """Features and power of a recording by sample and row, before they become `Observations`.

    A stream is a node in the recording, a sample a node at a timestamp, and a row a container in a sample.
    """

    nodes: tuple[str, ...]
    """Node label of each stream."""
    sample_stream: IntArray
    """Index of each sample's stream, shape (samples,), ascending."""
    sample_time: FloatArray
    """Unix seconds, shape (samples,)."""
    row_sample: IntArray
    """Index of each row's sample, shape (rows,), ascending."""
    container_features: dict[str, FloatArray]
    node_features: dict[str, FloatArray]
    power: dict[tuple[str, str], FloatArray]
    gauges: frozenset[str]
    """Names of the node features that are gauges."""
    counts: Counts

    def streams(self, chosen: BoolArray | None = None) -> Iterator[slice]:
        """Yield the indices of each stream's samples.

        `chosen` is a mask of streams, shape (streams,); None chooses all streams.
        """
        number = np.arange(len(self.nodes)) if chosen is None else np.flatnonzero(chosen)
        starts = np.searchsorted(self.sample_stream, number).tolist()
        ends = np.searchsorted(self.sample_stream, number, side="right").tolist()
        for start, end in zip(starts, ends, strict=True):
            yield slice(start, end)

    def number_in_stream(self, samples: BoolArray) -> IntArray:
        """Return how many of the samples in a mask each stream has, shape (streams,)."""
        return np.bincount(self.sample_stream[samples], minlength=len(self.nodes))

    def any_in_stream(self, samples: BoolArray) -> BoolArray:
        """Return whether each stream has any of the samples in a mask, shape (streams,)."""
        has_any: BoolArray = self.number_in_stream(samples) > 0
        return has_any

    def rows(self, chosen: BoolArray, fewest: int) -> Iterator[NodeRows]:
        """Yield matrices with a row for each stream that has chosen samples (see `node_rows.node_rows`)."""
        return node_rows(chosen, self.sample_stream, len(self.nodes), fewest)

    def place(self, sample: int) -> str:
        """Return the node and time of a sample, for messages."""
        return f"{self.nodes[self.sample_stream[sample]]} at {utc(float(self.sample_time[sample]))}"

    def drop_power(self, kind: str, key: tuple[str, str], samples: IndexArray) -> None:
        """Set the power of a component to NaN at some samples, and count these samples."""
        if len(samples):
            watts = self.power[key]
            example = f"{watts[samples[0]]:.6g} W on {self.place(samples[0])}"
            self.power[key] = _without(watts, samples)
            self.counts.count(kind, " ".join(key), len(samples), example)

    def drop_feature(self, kind: str, name: str, samples: IndexArray) -> None:
        """Set a feature of the node and of its containers to NaN at some samples; count the node's known values."""
        values = self.node_features[name]
        known = samples[np.isfinite(values[samples])]
        if len(known):
            example = f"{values[known[0]]:.6g} per s on {self.place(known[0])}"
            self.node_features[name] = _without(values, samples)
            if name in self.container_features:
                rows = np.isin(self.row_sample, samples)
                self.container_features[name] = np.where(rows, np.nan, self.container_features[name])
            self.counts.count(kind, name, len(known), example)


def _without(values: FloatArray, samples: IndexArray) -> FloatArray:
    kept: Any = values.copy()
    kept[samples] = np.nan
    return kept  # type: ignore[no-any-return]
