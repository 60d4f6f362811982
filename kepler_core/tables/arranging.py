"""Sort the rows of several tables by stream and time, and number the samples.

A stream is one node in one recording. A sample is a stream at one time. A table has one row for each sample, or one
row for each container in a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import TableError
from kepler_core.messages import QUOTED_CHARACTERS, quoted
from kepler_core.recording.counts import Counts
from kepler_core.recording.observations import Stream
from kepler_core.recording.times import utc
from kepler_core.tables.table import Table


@attrs.frozen(eq=False)
class Arranged:
    """The rows of all tables of one level (nodes, or containers), sorted by stream and time.

    Rows with equal stream and time stay in the order in which the tables have them.
    """

    stream: IntArray
    """Index of each row's stream in `Numbering.streams`, shape (rows,)."""
    time: FloatArray
    """Unix seconds of each row, shape (rows,). Without timestamps, it is the position of the row in its stream."""
    container: IntArray
    """Index of each row's container in `Numbering.containers`, shape (rows,); 0 if the rows stand for nodes."""
    features: Mapping[str, FloatArray]
    power: Mapping[str, FloatArray]
    """Watts by component, shape (rows,)."""


class Numbering:
    """The streams and containers of all tables, numbered in the order in which they first occur."""

    def __init__(self) -> None:
        self.streams: dict[Stream, int] = {}
        self.containers: dict[str, int] = {}
        self.container_names: dict[str, str] = {}

    def streams_of(self, table: Table) -> IntArray:
        """Return the index of each row's stream in `streams`, shape (rows,)."""
        codes: dict[tuple[str, str], int] = {}
        numbers = np.empty(table.rows, dtype=np.int64)
        for row, key in enumerate(zip(table.recording, table.node, strict=True)):
            code = codes.get(key)
            if code is None:
                code = codes[key] = self.streams.setdefault(Stream(*key), len(self.streams))
            numbers[row] = code
        return numbers

    def containers_of(self, table: Table) -> IntArray:
        """Return the index of each row's container in `containers`, shape (rows,); 0 if the rows stand for nodes."""
        numbers = np.zeros(table.rows, dtype=np.int64)
        if table.container is not None and table.container_name is not None:
            for row, (container, name) in enumerate(zip(table.container, table.container_name, strict=True)):
                numbers[row] = self.containers.setdefault(container, len(self.containers))
                self.container_names.setdefault(container, name)
        return numbers


def arrange(tables: Sequence[Table], numbering: Numbering, counts: Counts) -> Arranged:
    """Sort the rows of all tables of nodes, or of all tables of containers.

    Cells that are not finite numbers are counted in `counts`. Raises `TableError` if two rows have the same stream,
    time and container.
    """
    stream = _concatenated([numbering.streams_of(table) for table in tables])
    container = _concatenated([numbering.containers_of(table) for table in tables])
    if any(table.time is None for table in tables):
        time = _row_in_stream(stream)
    else:
        time = _joined([table.time for table in tables], [table.rows for table in tables])
    _refuse_repeated(tables, stream, time, container)
    order = np.lexsort((time, stream))
    for table in tables:
        for name, values in (*table.features.items(), *table.power.items()):
            counts.not_finite[name] += int(np.count_nonzero(~np.isfinite(values)))
    lengths = [table.rows for table in tables]
    features = list(dict.fromkeys(name for table in tables for name in table.features))
    components = list(dict.fromkeys(name for table in tables for name in table.power))
    return Arranged(
        stream[order],
        time[order],
        container[order],
        {name: _finite(_joined([t.features.get(name) for t in tables], lengths)[order]) for name in features},
        {name: _finite(_joined([t.power.get(name) for t in tables], lengths)[order]) for name in components},
    )


def number_samples(levels: Sequence[Arranged]) -> tuple[IntArray, FloatArray, list[IntArray]]:
    """Number the samples of all tables together. `levels` has the tables of nodes and the tables of containers.

    Return the stream and the time of each sample, shape (samples,), sorted by stream and time. Return also, for
    each element of `levels`, the number of each row's sample, shape (rows,).
    """
    stream = np.concatenate([level.stream for level in levels])
    time = np.concatenate([level.time for level in levels])
    order = np.lexsort((time, stream))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (np.diff(stream[order]) != 0) | (np.diff(time[order]) != 0)
    sample = np.empty(len(order), dtype=np.int64)
    sample[order] = np.cumsum(is_new) - 1
    ends = np.cumsum([len(level.stream) for level in levels])[:-1]
    first = order[is_new]
    return stream[first], time[first], np.split(sample, ends)


def _row_in_stream(stream: IntArray) -> FloatArray:
    """Return the position of each row within its stream, counted from 0, shape (rows,)."""
    order = np.argsort(stream, kind="stable")
    ordered = stream[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    number = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    numbers = np.empty(len(order))
    numbers[order] = number
    return numbers


def _refuse_repeated(tables: Sequence[Table], stream: IntArray, time: FloatArray, container: IntArray) -> None:
    """Raise `TableError` if two rows have the same stream, time and container."""
    order = np.lexsort((container, time, stream))
    same = (np.diff(stream[order]) == 0) & (np.diff(time[order]) == 0) & (np.diff(container[order]) == 0)
    if not same.any():
        return
    at = int(np.flatnonzero(same)[0])
    first, second = (_located(tables, int(row)) for row in order[at : at + 2])
    (table, row), (other, other_row) = first, second
    what = f"node {quoted(table.node[row], QUOTED_CHARACTERS)}"
    if table.container is not None:
        what = f"container {quoted(table.container[row], QUOTED_CHARACTERS)} of {what}"
    where = table.place(row) if other is table else f"{table.place(row)} of {table.name}"
    when = utc(float(time[order[at]]))
    raise TableError(
        f"{other.place(other_row)} and {where} both have {what} at {when}; if they are two nodes or containers, "
        "give the column that tells them apart (--column node=…, --column container=…)",
        document=other.name,
    )


def _located(tables: Sequence[Table], row: int) -> tuple[Table, int]:
    """Return the table that holds row `row` of the concatenated tables, and the number of the row in this table."""
    for table in tables:
        if row < table.rows:
            return table, row
        row -= table.rows
    raise IndexError(row)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _concatenated(parts: Sequence[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _joined(parts: Sequence[FloatArray | None], lengths: Sequence[int]) -> FloatArray:
    """Concatenate the parts of a column. A part i that is None is replaced by `lengths[i]` values of NaN."""
    filled = [np.full(n, np.nan) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    return np.concatenate(filled) if filled else np.empty(0)
