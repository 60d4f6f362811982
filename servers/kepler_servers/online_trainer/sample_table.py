"""Convert observations to an Arrow table with one row per sample, and back.

A sample is one node at one timestamp. The table has these columns:

node, node_type, time                     node label, number of the node's type, Unix seconds
complete                                  number of values of the sample that are present
schema                                    the metric schema that mapped the metrics to features and power
node.<feature>                            the node's rate per second; null if missing
gauge.<feature>                           the node's value of a gauge; null if missing
power.<source>.<component>                watts; null if missing
containers, container_names               lists of ids and names of the containers that ran
container.<feature>                       a list with one value per container; NaN if missing

`kepler-model samples export` writes the same columns.
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
"""Name of the recording in observations that are read from a table.

The name must not change, because the metadata of published models contain it.
"""
_NODE, _POWER, _CONTAINER, _GAUGE = "node.", "power.", "container.", "gauge."


def completeness(observations: Observations) -> IntArray:
    """Return the number of values that each sample has, shape (samples,).

    The number is 0 if the sample is unusable, because it has no features or no power.
    """
    n = len(observations.sample_time)
    features, power = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for values in observations.node_features.values():
        features += np.isfinite(values)
    for values in observations.power.values():
        power += np.isfinite(values)
    container_values = np.zeros(n, dtype=np.int64)
    for values in observations.container_features.values():
        present = np.isfinite(values)
        container_values += np.bincount(observations.row_sample[present], minlength=n)
    return np.where((features > 0) & (power > 0), features + power + container_values, 0)


def to_table(observations: Observations, chosen: IntArray, complete: IntArray) -> pa.Table:
    """Return the chosen samples as a table.

    `chosen` has the indices of the chosen samples in the observations, in ascending order. `complete` is the result of
    `completeness` for the observations.
    """
    stream = observations.sample_stream[chosen]
    nodes = [stream.node for stream in observations.streams]
    # find the rows of the chosen samples; the observations have one row per sample and container, sorted by sample
    position = np.full(len(observations.sample_time), -1, dtype=np.int64)
    position[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(position[observations.row_sample] >= 0)
    lengths = np.bincount(position[observations.row_sample[rows]], minlength=len(chosen))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    container_of_row = pa.array(observations.row_container[rows].astype(np.int32))

    def text_lists(words: Sequence[str]) -> pa.Array:
        column = pa.DictionaryArray.from_arrays(container_of_row, pa.array(words, pa.string())).cast(pa.string())
        return pa.ListArray.from_arrays(offsets, column)

    columns: dict[str, pa.Array] = {
        "node": pa.array([nodes[code] for code in stream], pa.string()),
        "node_type": pa.array(np.zeros(len(chosen), dtype=np.int32)),
        "time": pa.array(observations.sample_time[chosen]),
        "complete": pa.array(complete[chosen].astype(np.int32)),
        "schema": pa.array([",".join(observations.schemas)] * len(chosen), pa.string()),
        "containers": text_lists(observations.containers),
        "container_names": text_lists(observations.container_names),
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


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables and sort the rows by node and time.

    If several rows have the same node and time, only the row from the last table stays.
    """
    table = pa.concat_tables(tables, promote_options="default")
    if not table.num_rows:
        return table
    code, time = encode_texts(table.column("node"))[0], float_column(table, "time")
    order = np.lexsort((np.arange(len(time)), time, code))
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (code[order[1:]] != code[order[:-1]]) | (time[order[1:]] != time[order[:-1]])
    return table.take(pa.array(order[is_last]))


def encode_texts(column: pa.ChunkedArray) -> tuple[IntArray, list[str]]:
    """Encode a column of texts. Return the index of each row's text in the sorted distinct texts, and these texts."""
    texts, codes = np.unique(np.array(column.to_pylist(), dtype=object), return_inverse=True)
    return codes.astype(np.int64).reshape(-1), [str(text) for text in texts]


def float_column(table: pa.Table, name: str) -> FloatArray:
    """Return a column of numbers as an array, with NaN in place of null."""
    column = table.column(name).combine_chunks()
    values: FloatArray = np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    return values


def node_features(table: pa.Table) -> dict[str, FloatArray]:
    """Return the values of each feature that is measured per node, shape (samples,)."""
    return {
        name.partition(".")[2]: float_column(table, name)
        for name in table.column_names
        if name.startswith((_NODE, _GAUGE))
    }


def power(table: pa.Table) -> dict[tuple[str, str], FloatArray]:
    """Return the watts of each sample, shape (samples,). A key is a pair of energy source and component."""
    columns = {}
    for name in table.column_names:
        if name.startswith(_POWER):
            source, _, component = name.removeprefix(_POWER).rpartition(".")
            columns[source, component] = float_column(table, name)
    return columns


def to_observations(table: pa.Table, step: float) -> Observations:
    """Convert a table, sorted by node and time, to observations for a training.

    `step` is the number of seconds between a node's samples when they were fetched. It cannot be calculated
    from the table, because samples may have been thinned out.
    """
    node, nodes = encode_texts(table.column("node"))
    lists = table.column("containers").combine_chunks()
    lengths = np.array(pc.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)
    row_container, containers = encode_texts(pa.chunked_array([lists.flatten()], pa.string()))
    container_names = np.array(containers, dtype=object)
    container_names[row_container] = table.column("container_names").combine_chunks().flatten().to_pylist()
    time = float_column(table, "time")
    schemas = {word for words in pc.unique(table.column("schema")).to_pylist() for word in words.split(",")}
    return Observations(
        streams=tuple(Stream(RECORDING, name) for name in nodes),
        sample_stream=node,
        sample_time=time,
        containers=tuple(containers),
        container_names=tuple(map(str, container_names)),
        row_sample=np.repeat(np.arange(len(time)), lengths),
        row_container=row_container,
        container_features=_container_features(table, lengths),
        node_features=node_features(table),
        node_gauges=frozenset(name.removeprefix(_GAUGE) for name in table.column_names if name.startswith(_GAUGE)),
        power=power(table),
        step=step,
        counts=Counts(),
        schemas=tuple(sorted(schemas)),
        digest=digest(table),
    )


def _container_features(table: pa.Table, lengths: IntArray) -> dict[str, FloatArray]:
    """Return the values of each feature that is measured per container, shape (rows,).

    There is one row per sample and container. `lengths` has the number of containers of each sample.
    """
    features = {}
    for name in table.column_names:
        if name.startswith(_CONTAINER):
            column = table.column(name).combine_chunks()
            # a sample that was stored before this feature was recorded has null instead of a list
            present = np.repeat(np.array(pc.is_valid(column).to_numpy(zero_copy_only=False)), lengths)
            values = np.full(int(lengths.sum()), np.nan)
            values[present] = np.array(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
            features[name.removeprefix(_CONTAINER)] = values
    return features


def digest(table: pa.Table) -> str:
    """Return the SHA-256 of the table's content as hexadecimal text."""
    sha = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table.column(name).combine_chunks()
        sha.update(name.encode())
        if pa.types.is_list(column.type):
            sha.update(np.array(pc.list_value_length(column).fill_null(-1)).tobytes())
            column = column.flatten()
        if pa.types.is_string(column.type):
            sha.update("\0".join(map(str, column.to_pylist())).encode())
        else:
            sha.update(np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64).tobytes())
    return sha.hexdigest()
