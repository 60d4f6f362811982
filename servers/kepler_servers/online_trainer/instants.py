"""Observations as an Arrow table, one row per instant, and back.

node, node_type, time                     which node, and when (Unix seconds)
complete                                  how many values of the instant are known
schema                                    the metric schema that gave the metrics their meaning
node.<feature>                            per second, or a gauge's value; null: not known
power.<source>.<component>                watts
containers                                ids of the containers there were
container.<feature>                       one value per container; NaN: not known
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.recording.counts import Counts
from kepler_core.recording.observations import Observations, Stream

RECORDING = "memory"
"""Observations out of the memory are of one recording of this name."""
_NODE, _POWER, _CONTAINER, _GAUGE = "node.", "power.", "container.", "gauge."


def completeness(observations: Observations) -> IntArray:
    """How many values of each instant are known; 0 where it cannot be used: it needs the power of one
    component and one feature at least. Shape (instants,)."""
    n = len(observations.sample_time)
    features, power = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for values in observations.node_features.values():
        features += np.isfinite(values)
    for values in observations.power.values():
        power += np.isfinite(values)
    cells = np.zeros(n, dtype=np.int64)
    for values in observations.container_features.values():
        known = np.isfinite(values)
        cells += np.bincount(observations.row_sample[known], minlength=n)
    return np.where((features > 0) & (power > 0), features + power + cells, 0)


def to_table(observations: Observations, chosen: IntArray, complete: IntArray, node_type: int) -> pa.Table:
    """Some instants (their numbers, ascending) as a table."""
    stream = observations.sample_stream[chosen]
    nodes = [found.node for found in observations.streams]
    # rows are sorted by instant: those of the chosen ones
    position = np.full(len(observations.sample_time), -1, dtype=np.int64)
    position[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(position[observations.row_sample] >= 0)
    lengths = np.bincount(position[observations.row_sample[rows]], minlength=len(chosen))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    of_row = pa.array(observations.row_container[rows].astype(np.int32))

    def texts(words: Sequence[str]) -> pa.Array:
        column = pa.DictionaryArray.from_arrays(of_row, pa.array(words, pa.string())).cast(pa.string())
        return pa.ListArray.from_arrays(offsets, column)

    columns: dict[str, pa.Array] = {
        "node": pa.array([nodes[code] for code in stream], pa.string()),
        "node_type": pa.array(np.full(len(chosen), node_type, dtype=np.int32)),
        "time": pa.array(observations.sample_time[chosen]),
        "complete": pa.array(complete[chosen].astype(np.int32)),
        "schema": pa.array([",".join(observations.schemas)] * len(chosen), pa.string()),
        "containers": texts(observations.containers),
        "container_names": texts(observations.container_names),
    }
    for name, values in sorted(observations.node_features.items()):
        prefix = _GAUGE if name in observations.node_gauges else _NODE
        columns[prefix + name] = _nullable(values[chosen])
    for (source, component), values in sorted(observations.power.items()):
        columns[f"{_POWER}{source}.{component}"] = _nullable(values[chosen])
    for name, values in sorted(observations.container_features.items()):
        columns[_CONTAINER + name] = pa.ListArray.from_arrays(offsets, pa.array(values[rows]))
    return pa.table(columns)


def _nullable(values: FloatArray) -> pa.Array:
    return pa.array(values, mask=~np.isfinite(values))


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one after the other, sorted by node and time; of an instant that is there several times
    the last one stays."""
    table = pa.concat_tables(tables, promote_options="default")
    if not table.num_rows:
        return table
    code, time = codes(table.column("node"))[0], floats(table, "time")
    order = np.lexsort((np.arange(len(time)), time, code))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (code[order[1:]] != code[order[:-1]]) | (time[order[1:]] != time[order[:-1]])
    return table.take(pa.array(order[last]))


def codes(column: pa.ChunkedArray) -> tuple[IntArray, list[str]]:
    """Texts as numbers in the order of the sorted texts, and these."""
    words, numbers = np.unique(np.array(column.to_pylist(), dtype=object), return_inverse=True)
    return numbers.astype(np.int64).reshape(-1), [str(word) for word in words]


def floats(table: pa.Table, name: str) -> FloatArray:
    """A column of numbers; NaN where it is null."""
    column = table.column(name).combine_chunks()
    found: FloatArray = np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    return found


def node_features(table: pa.Table) -> dict[str, FloatArray]:
    """Feature -> its value for the node, shape (instants,)."""
    return {
        name.partition(".")[2]: floats(table, name) for name in table.column_names if name.startswith((_NODE, _GAUGE))
    }


def power(table: pa.Table) -> dict[tuple[str, str], FloatArray]:
    """(energy source, component) -> watts, shape (instants,)."""
    found = {}
    for name in table.column_names:
        if name.startswith(_POWER):
            source, _, component = name.removeprefix(_POWER).rpartition(".")
            found[source, component] = floats(table, name)
    return found


def to_observations(table: pa.Table, step: float) -> Observations:
    """A table that is sorted by node and time, as observations to train on. `step`: seconds between a
    node's samples; the table does not tell it where instants were thinned out."""
    node, nodes = codes(table.column("node"))
    lists = table.column("containers").combine_chunks()
    lengths = np.array(pc.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)
    words = lists.flatten()
    row_container, containers = codes(pa.chunked_array([words], pa.string()))
    called = np.array(containers, dtype=object)
    called[row_container] = table.column("container_names").combine_chunks().flatten().to_pylist()
    container_features = {}
    for name in table.column_names:
        if name.startswith(_CONTAINER):
            column = table.column(name).combine_chunks()
            # an instant of a time when this feature was not there has no list at all
            there = np.repeat(np.array(pc.is_valid(column).to_numpy(zero_copy_only=False)), lengths)
            values = np.full(int(lengths.sum()), np.nan)
            values[there] = np.array(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
            container_features[name.removeprefix(_CONTAINER)] = values
    time = floats(table, "time")
    return Observations(
        streams=tuple(Stream(RECORDING, name) for name in nodes),
        sample_stream=node,
        sample_time=time,
        containers=tuple(containers),
        container_names=tuple(map(str, called)),
        row_sample=np.repeat(np.arange(len(time)), lengths),
        row_container=row_container,
        container_features=container_features,
        node_features=node_features(table),
        node_gauges=frozenset(name.removeprefix(_GAUGE) for name in table.column_names if name.startswith(_GAUGE)),
        power=power(table),
        step=step,
        counts=Counts(),
        schemas=tuple(
            sorted({word for words in pc.unique(table.column("schema")).to_pylist() for word in words.split(",")})
        ),
        digest=digest(table),
    )


def digest(table: pa.Table) -> str:
    """SHA-256 over all that the table holds."""
    found = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table.column(name).combine_chunks()
        found.update(name.encode())
        if pa.types.is_list(column.type):
            found.update(np.array(pc.list_value_length(column).fill_null(-1)).tobytes())
            column = column.flatten()
        if pa.types.is_string(column.type):
            found.update("\0".join(map(str, column.to_pylist())).encode())
        else:
            found.update(np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64).tobytes())
    return found.hexdigest()
