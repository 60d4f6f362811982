"""Fuzz tables of features and power: each table becomes training data, or is rejected with a one-line error."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz, mostly
from support.server_process import check_one_line
from support.tables import HEADER, rows

from kepler_core.errors import KeplerError
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.tables import table_training
from kepler_core.tables.table import read_table

THIRD_PARTY = "load.1"
NAMES = (
    *HEADER, "node", "recording", "container", "container_name", "platform_power", "dram_power", "cpu_cycles",
    "package_dynamic_power", "package_background_power", "node_info", "", "b", " ",
)  # fmt: skip
WORDS = ("a", "", "NaN", "1e400", "-1", "1_0", "٣", "1,5", "\0", "x" * 5000, "2026-03-01T12:00:00Z", "9999-12-31", "é")

numbers = st.integers(0, 1000) | st.floats() | st.sampled_from([2.0**64, 1e308, -1.0, 5e-324, 65535.0])
times = st.integers(0, 30).map(lambda step: 1_700_000_000 + 3 * step)
cells = st.one_of(numbers.map(str), times.map(str), st.sampled_from(WORDS))
headers = st.lists(mostly(st.sampled_from(NAMES), st.text(max_size=4)), max_size=6).map(
    lambda names: [THIRD_PARTY, *names]
)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@st.composite
def csv_tables(draw: st.DrawFn) -> bytes:
    """Generate a CSV table. It is a good table with some random cells, or a table of random columns."""
    if draw(st.booleans()):
        table = [[*HEADER, THIRD_PARTY], *([*row, 1.0] for row in rows(draw(st.integers(1, 12))))]
        for _ in range(draw(st.integers(0, 3))):
            table[draw(st.integers(0, len(table) - 1))][draw(st.integers(0, len(HEADER)))] = draw(cells)
    else:
        names = draw(headers)
        width = st.lists(cells, min_size=len(names), max_size=len(names))
        table = [names, *draw(st.lists(width, max_size=8))]
    separator = draw(mostly(st.just(","), st.sampled_from([";", "\t"])))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(separator.join(quoted(str(cell)) for cell in row) for row in table).encode("utf-8", "surrogatepass")


ARROW_TYPES = (
    pa.float64(), pa.float32(), pa.float16(), pa.int64(), pa.uint64(), pa.int8(), pa.bool_(), pa.string(),
    pa.large_string(), pa.timestamp("ns", "UTC"), pa.timestamp("s"), pa.timestamp("us", "Mars/Olympus"), pa.date32(),
    pa.time64("us"), pa.decimal128(20, 3), pa.decimal256(60, 10), pa.list_(pa.float64()), pa.null(), pa.binary(),
    pa.struct([("a", pa.float64())]), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.float64()),
    pa.duration("s"), pa.map_(pa.string(), pa.int64()),
)  # fmt: skip
PLAIN = (pa.float64(), pa.int64(), pa.string())


def cells_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Return a Hypothesis strategy for the values of a column of an Arrow type: integers, floats or texts."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return st.sampled_from(WORDS)
    return st.integers(0, 100) | times if pa.types.is_integer(kind) else numbers.map(float)


@st.composite
def parquet_tables(draw: st.DrawFn) -> bytes:
    """Generate a random Parquet table whose columns have any type."""
    names, n = draw(headers), draw(st.integers(0, 6))
    columns = []
    for _ in names:
        kind = draw(mostly(st.sampled_from(PLAIN), st.sampled_from(ARROW_TYPES)))
        start = kind if kind in PLAIN else pa.int64()
        values = draw(st.lists(st.none() | cells_of(start), min_size=n, max_size=n))
        column: pa.Array = pa.array([None] * n, kind)
        # If pyarrow cannot convert the values to the type, the column contains only nulls.
        with contextlib.suppress(pa.ArrowException):
            column = pa.array(values, start).cast(kind, safe=False)
        columns.append(column)
    sink = io.BytesIO()
    table = pa.Table.from_arrays(columns, names=names)
    pq.write_table(table, sink, compression=draw(st.sampled_from(["none", "snappy", "zstd"])), row_group_size=3)
    return sink.getvalue()


@st.composite
def damaged_parquet_tables(draw: st.DrawFn) -> bytes:
    """Generate a Parquet table in which up to four bytes are random, often in the metadata at its end."""
    content = bytearray(draw(parquet_tables()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1) | st.integers(max(0, len(content) - 600), len(content) - 1))
        content[at] = draw(st.integers(0, 255))
    return bytes(content)


def check_table(path: Path, content: bytes) -> None:
    """Check that a table becomes training data without infinite values, or is rejected with a one-line error."""
    path.write_bytes(content)
    spec = load_pipeline("default", settings=(f"third_party={json.dumps([THIRD_PARTY])}",))
    try:
        training = table_training(spec, [read_table(str(path), {}, spec.third_party)])
        data = training.rows.data
        offers = training.offers
    except KeplerError as error:
        check_one_line(error, longest=6000)
        return
    assert set(offers) == {"AbsPower", "DynPower"}
    for values in (data.node_features, data.node_power, data.row_features, data.row_power):
        for column in values.values():
            assert not np.isinf(column).any()
    for watts in (*data.node_power.values(), *data.row_power.values()):
        assert not (watts < 0).any()
    assert (np.diff(data.observations.row_sample) >= 0).all()


def test_csv_tables(tmp_path: Path) -> None:
    tables = csv_tables()
    fuzz(tables | damaged(tables) | st.binary(max_size=100), lambda table: check_table(tmp_path / "t.csv", table))


def test_parquet_tables(tmp_path: Path) -> None:
    tables = parquet_tables() | damaged_parquet_tables() | damaged(parquet_tables())
    fuzz(tables, lambda table: check_table(tmp_path / "t.parquet", table))
