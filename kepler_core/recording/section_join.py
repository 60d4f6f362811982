"""Take some sections out of observations, and join the sections of several observations.

A *section* has the samples of one node in one period of `SECTION_SECONDS`, e.g. from 10:00 to 10:10. The result of a
join depends only on the samples, not on how they are divided among the observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.counts import Counts
from kepler_core.recording.observations import Observations
from kepler_core.recording.subsets import of_samples

SECTION_SECONDS = 600.0
"""Length of a section in seconds. It exceeds the length of the validation's blocks and of slow meters' windows."""

Key = TypeVar("Key", str, tuple[str, str])


def sections_of(observations: Observations) -> IntArray:
    """Return the number of each sample's section, shape (samples,); sections are numbered in the order of samples."""
    starts = _section_starts(observations.sample_stream, observations.sample_time)
    return np.asarray(np.cumsum(starts) - 1, dtype=np.int64)


def section_number(time: FloatArray) -> FloatArray:
    """Return for each time the number of the period of `SECTION_SECONDS` that contains the time."""
    return np.floor(time / SECTION_SECONDS)


def _section_starts(stream: IntArray, time: FloatArray) -> BoolArray:
    """Return whether each sample is the first of its section, shape (samples,)."""
    number = section_number(time)
    starts = np.ones(len(time), dtype=bool)
    starts[1:] = (stream[1:] != stream[:-1]) | (number[1:] != number[:-1])
    return starts


def taken(observations: Observations, kept: BoolArray) -> Observations:
    """Return some of the samples with their rows; `kept` has the shape (samples,).

    A window that begins in another section, or at a sample that is not kept, becomes unknown.
    """
    section = sections_of(observations)
    windows = {
        source: np.where(section[np.maximum(begins, 0)] == section, begins, -1)
        for source, begins in observations.windows.items()
    }
    return of_samples(attrs.evolve(observations, windows=windows), kept)


def joined(pieces: Sequence[Observations], counts: Counts, digest: str) -> Observations:
    """Join observations that have no sample in common. The result is sorted by stream, time and container.

    `counts` and `digest` are those of the result. Columns without any known value are left out.
    """
    streams = sorted({piece.streams[at] for piece in pieces for at in np.unique(piece.sample_stream).tolist()})
    stream_code = {stream: at for at, stream in enumerate(streams)}
    of_streams = [np.array([stream_code.get(s, -1) for s in piece.streams], dtype=np.int64) for piece in pieces]
    stream = _concatenated([codes[piece.sample_stream] for codes, piece in zip(of_streams, pieces, strict=True)])
    time = np.concatenate([np.empty(0), *(piece.sample_time for piece in pieces)])
    order = np.lexsort((time, stream))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    stream, time = stream[order], time[order]

    firsts = np.cumsum([0, *(len(piece.sample_time) for piece in pieces)])[:-1].tolist()
    names = _container_names(pieces)
    code = {container: at for at, container in enumerate(names)}
    of_containers = [np.array([code[word] for word in piece.containers], dtype=np.int64) for piece in pieces]
    row_sample = place[_concatenated([p.row_sample + at for p, at in zip(pieces, firsts, strict=True)])]
    row_container = _concatenated([c[p.row_container] for c, p in zip(of_containers, pieces, strict=True) if len(c)])
    row_order = np.lexsort((row_container, row_sample))

    node_features = _columns([piece.node_features for piece in pieces], [len(p.sample_time) for p in pieces], order)
    return Observations(
        streams=tuple(streams),
        sample_stream=stream,
        sample_time=time,
        containers=tuple(names),
        container_names=tuple(names.values()),
        row_sample=row_sample[row_order],
        row_container=row_container[row_order],
        container_features=_columns(
            [piece.container_features for piece in pieces], [len(p.row_sample) for p in pieces], row_order
        ),
        node_features=node_features,
        node_gauges=frozenset().union(*(piece.node_gauges for piece in pieces)) & node_features.keys(),
        power=_columns([piece.power for piece in pieces], [len(p.sample_time) for p in pieces], order),
        step=_usual_step(stream, time),
        counts=counts,
        schemas=tuple(sorted({schema for piece in pieces for schema in piece.schemas})),
        digest=digest,
        windows=_windows(pieces, firsts, order, place, _section_starts(stream, time)),
    )


def _concatenated(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])


def _container_names(pieces: Sequence[Observations]) -> dict[str, str]:
    """Return the readable name of each container, sorted by id. A container without any other name keeps its id."""
    names: dict[str, str] = {}
    for piece in pieces:
        for container, name in zip(piece.containers, piece.container_names, strict=True):
            other = names.get(container, container)
            names[container] = name if other == container else other if name == container else min(name, other)
    return dict(sorted(names.items()))


def _columns(
    pieces: Sequence[Mapping[Key, FloatArray]], lengths: Sequence[int], order: IntArray
) -> dict[Key, FloatArray]:
    """Return the joined columns, with rows in the order `order`. The values of a piece without the column are NaN."""
    columns = {}
    for key in sorted({key for piece in pieces for key in piece}):
        values = np.concatenate([piece.get(key, np.full(n, np.nan)) for piece, n in zip(pieces, lengths, strict=True)])
        if np.isfinite(values).any():
            columns[key] = values[order]
    return columns


def _usual_step(stream: IntArray, time: FloatArray) -> float:
    steps = np.diff(time)[~_section_starts(stream, time)[1:]]
    return float(np.median(steps)) if len(steps) else float("nan")


def _windows(
    pieces: Sequence[Observations], firsts: Sequence[int], order: IntArray, place: IntArray, starts: BoolArray
) -> dict[str, NDArray[np.int64]]:
    """Return the windows of slow meters in the joined samples.

    `order` has the index of each joined sample among the samples of all pieces. `place` is the inverse of `order`.
    `starts` marks the first sample of each section. An energy source is left out if all of its windows begin at the
    previous sample.
    """
    windows = {}
    previous = np.arange(-1, len(order) - 1)
    for source in sorted({source for piece in pieces for source in piece.windows}):
        begins = []
        for piece, first in zip(pieces, firsts, strict=True):
            of_piece = piece.windows.get(source, np.arange(-1, len(piece.sample_time) - 1))
            begins.append(np.where(of_piece >= 0, of_piece + first, -1))
        unsorted = _concatenated(begins)
        column = np.where(unsorted >= 0, place[np.maximum(unsorted, 0)], -1)[order]
        column[starts] = -1
        if np.any((column != previous) & ~starts):
            windows[source] = column
    return windows
