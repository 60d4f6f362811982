"""Arrange the values of many nodes in matrices with a row for each node, to calculate for all nodes at once.

NumPy needs some microseconds for each call. A recording of a fleet has thousands of nodes with a hundred samples each.
So calls for each node would take far longer than the calculation itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray

MAX_CELLS = 2**16
"""Maximum number of cells of a matrix with several rows, so that the matrices of a calculation fit in the CPU's cache.

A single row may be longer."""


@attrs.frozen(eq=False, slots=False)
class NodeRows:
    """Chosen samples of several streams, with a row for each stream. Shorter rows have unused cells at the end."""

    lengths: IntArray
    """Number of chosen samples of each stream, shape (rows,)."""
    samples: IntArray
    """Index of each chosen sample, shape (rows, columns), ascending in each row.

    Unused cells at the end of a shorter row have the index of the row's first chosen sample."""
    streams: IntArray
    """Index of each row's stream, shape (rows,)."""

    @cached_property
    def is_filler(self) -> BoolArray:
        """Whether a cell is one of the unused cells at the end of a shorter row, shape (rows, columns)."""
        mask: BoolArray = np.arange(self.samples.shape[1]) >= self.lengths[:, None]
        return mask

    def of(self, values: FloatArray, filler: float) -> FloatArray:
        """Return the values of the chosen samples, shape (rows, columns). `values` has the shape (samples,)."""
        cells: FloatArray = values[self.samples]
        cells[self.is_filler] = filler
        return cells


def node_rows(chosen: BoolArray, stream: IntArray, n_streams: int, fewest: int) -> Iterator[NodeRows]:
    """Yield matrices of the chosen samples of all streams that have at least `fewest` such samples.

    `chosen` and `stream` (the index of each sample's stream, ascending) have the shape (samples,). The streams of one
    matrix have nearly the same number of samples, so that few cells are unused.
    """
    at = np.flatnonzero(chosen)
    lengths = np.bincount(stream[at], minlength=n_streams)
    starts = np.cumsum(lengths) - lengths
    by_length = np.argsort(lengths, kind="stable")
    by_length = by_length[lengths[by_length] >= max(fewest, 1)]
    first = 0
    while first < len(by_length):
        shortest = int(lengths[by_length[first]])
        most = max(MAX_CELLS // shortest, 1)
        streams = by_length[first : first + most]
        streams = streams[lengths[streams] <= 1.25 * shortest]
        first += len(streams)
        of_row = lengths[streams]
        column = np.arange(int(of_row.max()))
        cells = starts[streams][:, None] + column
        samples = at[np.where(column < of_row[:, None], cells, starts[streams][:, None])]
        yield NodeRows(of_row, samples, streams)


def row_medians(ascending: FloatArray, lengths: IntArray) -> FloatArray:
    """Return the median of each row, shape (rows,).

    The rows of `ascending` are sorted. `lengths` has the number of values in each row.
    """
    row = np.arange(len(lengths))
    medians: FloatArray = (ascending[row, (lengths - 1) // 2] + ascending[row, lengths // 2]) / 2
    return medians


def row_quantiles(ascending: FloatArray, lengths: IntArray, quantile: float) -> FloatArray:
    """Return a quantile (0 to 1) of each row, shape (rows,), as `numpy.quantile` interpolates it.

    The rows of `ascending` are sorted. `lengths` has the number of values in each row.
    """
    row = np.arange(len(lengths))
    position = (lengths - 1) * quantile
    below = np.floor(position).astype(np.int64)
    weight = position - below
    low, high = ascending[row, below], ascending[row, np.minimum(below + 1, lengths - 1)]
    quantiles: FloatArray = np.where(weight >= 0.5, high - (high - low) * (1 - weight), low + (high - low) * weight)
    return quantiles
