"""Tests of reading tables from other programs. Errors must name the file, the row and the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tables import HEADER, rows, with_cell, write

from kepler_core.errors import RecordingError, TableError, UsageError
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.tables import TableTraining, table_training
from kepler_core.tables.columns import parse_columns
from kepler_core.tables.raw import MAX_COLUMNS, MAX_ROW_CHARACTERS, MAX_ROWS
from kepler_core.tables.table import read_table

SPEC = load_pipeline("quickstart")


def training(*paths: Path, energy_source: str | None = None) -> TableTraining:
    return table_training(SPEC, [read_table(str(path), {}, ()) for path in paths], None, energy_source)


def test_columns_are_read_by_name_and_rows_are_sorted_by_time(tmp_path: Path) -> None:
    """The order of rows does not matter, times may be in ISO 8601 format, and unknown values become NaN."""
    table = rows(30)
    expected = training(write(tmp_path / "a.csv", table)).rows.data
    iso = with_cell(table, 0, {0: "2023-11-14T22:13:20Z", 1: ""})[::-1]
    data = training(write(tmp_path / "b.csv", iso)).rows.data
    assert data.observations.sample_time.tolist() == expected.observations.sample_time.tolist()
    assert np.isnan(data.node_features["bpf_cpu_time_ms"][0])
    assert data.node_features["bpf_cpu_time_ms"][1:].tolist() == expected.node_features["bpf_cpu_time_ms"][1:].tolist()
    assert data.observations.counts.as_dict() == {"not_finite": {"bpf_cpu_time_ms": 1}}
    assert list(data.node_power) == [("rapl-sysfs", "package")]


def test_a_parquet_file_is_read_like_a_csv_file(tmp_path: Path) -> None:
    """A Parquet table gives the same data as a CSV table, even with timestamps and dictionary-encoded node names."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = rows(30)
    columns = {name: list(values) for name, values in zip(HEADER, zip(*table, strict=True), strict=True)}
    expected = training(write(tmp_path / "a.csv", table)).rows.data
    columns["timestamp"] = pa.array([round(t * 1e6) for t in columns["timestamp"]], pa.timestamp("us", "UTC"))
    columns["node"] = pa.array(["n"] * 30).dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    data = training(tmp_path / "a.parquet").rows.data
    assert [stream.node for stream in data.observations.streams] == ["n"]
    assert data.observations.sample_time.tolist() == expected.observations.sample_time.tolist()
    assert data.node_power["rapl-sysfs", "package"].tolist() == expected.node_power["rapl-sysfs", "package"].tolist()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("timestamp,package_power\n", "the table has no rows"),
        ("a;b\n1;2\n", "the cells are separated by a semicolon; a comma is expected"),
        ("timestamp,package_power\n1,2,3\n", "row 1 (line 2) has 3 cells, but there are 2 columns"),
        ("timestamp,package_power\n1,2\n\n3,x\n", "row 2 (line 4), column package_power: 'x' is no number"),
        ('timestamp,package_power\n1,"2,5"\n', "'2,5' is no number (write numbers with a decimal point)"),
        ("timestamp,package_power\n1,1_0\n", "'1_0' is no number"),
        ("timestamp,package_power\nx,1\n", "row 1 (line 2), column timestamp: 'x' is no time (Unix seconds"),
        (",package_power\n1,1\n", "column 1 has no name"),
        ("timestamp,package_power\n,1\n", "is no time"),
        ("timestamp,package_power\n1e12,1\n", "1e+12 is not in Unix seconds (is it in milliseconds?)"),
        ("package_power,package_power\n1,1\n", "two columns have the name 'package_power'"),
        ("timestamp,cpu_cycles,watt\n1,1,1\n", "no column of power, e.g. package_power (watts)"),
        ("container,package_power\na,1\n", "rows of containers need a column timestamp"),
        ("timestamp,package_dynamic_power\n1,1\n", "there is no column container"),
        (
            "timestamp,container,core_power,package_dynamic_power\n1,a,1,1\n",
            "has both measured and dynamic power (core_power, package_dynamic_power)",
        ),
        ('timestamp,package_power\n1,"2\n', "is not CSV"),
        (",".join(f"c{n}" for n in range(MAX_COLUMNS + 1)) + "\n", f"at most {MAX_COLUMNS} are read"),
        ("package_power\n" + "," * MAX_ROW_CHARACTERS + "\n", "line 1 is not CSV: a row is longer than"),
        ("package_power\n" + '"\n",' * (MAX_ROW_CHARACTERS // 4) + "\n", "is not CSV: a row is longer than"),
    ],
)  # fmt: skip
def test_errors_name_the_place(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TableError) as error:
        read_table(str(path), {}, ())
    assert problem in str(error.value)
    assert str(error.value).startswith(str(path))


def test_missing_columns_get_close_matches(tmp_path: Path) -> None:
    path = str(write(tmp_path / "t.csv", rows(3), ("time", "bpf_cpu_time_ms", "load_1", "power_w")))
    with pytest.raises(TableError, match=r"no column 'powerw', which --column names .*; did you mean power_w\?"):
        read_table(path, {"package_power": "powerw"}, ())
    with pytest.raises(TableError, match=r"no column 'load1', which third_party names; did you mean load_1\?"):
        read_table(path, {"package_power": "power_w"}, ["load1"])
    table = read_table(path, parse_columns(["package=power_w", "timestamp=time"], ()), ["load_1"])
    assert sorted(table.features) == ["bpf_cpu_time_ms", "load_1"]
    assert list(table.power) == ["package"]
    for pairs, problem in (
        (["packag=x"], "did you mean package"),
        (["package"], "expected NAME=COLUMN"),
        (["package=a", "package_power=b"], "given twice"),
        (["package=a", "core=a"], "the column 'a' is given twice"),
    ):
        with pytest.raises(UsageError, match=problem):
            parse_columns(pairs, ())


def test_not_a_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(TableError, match="not a Parquet file"):
        read_table(str(path), {}, ())
    with pytest.raises(UsageError, match=r"must end in \.csv or \.parquet"):
        read_table(str(tmp_path / "t.xlsx"), {}, ())


def test_a_csv_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"node,package_power\n" + b"a,1\n" * 3000 + "ü,1\n".encode("latin-1"))
    with pytest.raises(TableError, match="line 3002 is not UTF-8 text"):
        read_table(str(path), {}, ())


@pytest.mark.parametrize("column", ["node", "timestamp", "package_power"])
def test_columns_of_lists_are_refused_before_they_are_read(column: str, tmp_path: Path) -> None:
    """Columns of lists are refused before they are read: a file of 1 kB may contain any number of list items."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n = 10_000_000
    lists = pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), pa.array(np.zeros(n)))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"core_power": [1.0], column: lists}), path)
    del lists
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(TableError, match=rf"the column {column} holds values of type list<element: double>, not"):
        read_table(str(path), {}, ())
    assert pa.default_memory_pool().max_memory() == before
    assert pa.default_memory_pool().bytes_allocated() < 8 * n


def test_a_parquet_file_that_states_too_few_rows(tmp_path: Path) -> None:
    """A file is refused if it has too many rows, even if its metadata state a small number.

    Parquet files state the number of rows in several places. If these numbers differ, pyarrow reads the largest.
    """
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"package_power": np.zeros(MAX_ROWS + 1)}), path, row_group_size=2**30)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    stated, one_row = varint(2 * (MAX_ROWS + 1)), b"\x82\x80\x80\x00"
    assert len(stated) == len(one_row)
    path.write_bytes(content[:footer] + content[footer:].replace(stated, one_row, 1))
    assert pq.read_metadata(path).num_rows == 1
    with pytest.raises(TableError, match=f"more than {MAX_ROWS} rows"):
        read_table(str(path), {}, ())


def varint(number: int) -> bytes:
    """Encode a number as in the metadata of Parquet files: 7 bits in each byte, lowest bits first."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_two_rows_of_a_node_at_one_time_are_an_error(tmp_path: Path) -> None:
    table = with_cell(rows(30), 20, {0: rows(30)[3][0]})
    with pytest.raises(TableError, match=r"row 21 \(line 22\) and row 4 \(line 5\) both have node '' at 2023-11-14"):
        training(write(tmp_path / "t.csv", table))
    named = [[f"n{row % 2}", *cells] for row, cells in enumerate(table)]
    observations = training(write(tmp_path / "t.csv", named, ("node", *HEADER))).rows.data.observations
    assert [stream.node for stream in observations.streams] == ["n0", "n1"]
    one, two = write(tmp_path / "1.csv", rows(30)), write(tmp_path / "2.csv", rows(31))
    with pytest.raises(RecordingError, match=r"both hold node '' at the same time"):
        training(one, two)
    with pytest.raises(TableError, match="holds the same data as"):
        training(one, write(tmp_path / "3.csv", rows(30)))


def test_readings_that_cannot_be_true_are_left_out_and_counted(tmp_path: Path) -> None:
    """Impossible values, too high power, and features that are always 0 are left out and counted."""
    table = with_cell(with_cell(rows(60), 5, {1: -1}), 7, {3: 90_000})
    data = training(write(tmp_path / "t.csv", [[*row, 0] for row in table], (*HEADER, "cpu_cycles"))).rows.data
    counts = data.observations.counts.as_dict()
    assert counts["impossible_values"] == {"bpf_cpu_time_ms": 1}
    assert counts["power_jumps"] == {"rapl-sysfs package": 1}
    assert counts["dead_features"] == {"cpu_cycles": 60}
    assert np.flatnonzero(np.isnan(data.node_features["bpf_cpu_time_ms"])).tolist() == [5]
    assert np.flatnonzero(np.isnan(data.node_power["rapl-sysfs", "package"])).tolist() == [7]
    assert np.isnan(data.node_features["cpu_cycles"]).all()


def test_the_energy_source_depends_on_the_component_unless_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [[*row, 200] for row in rows(30)], (*HEADER, "platform_power"))
    assert set(training(path).rows.data.node_power) == {("rapl-sysfs", "package"), ("acpi", "platform")}
    of_redfish = training(path, energy_source="redfish")
    assert set(of_redfish.rows.data.node_power) == {("redfish", "platform")}
    assert of_redfish.notes == (f"{path}: not used: package",)
    with pytest.raises(UsageError, match=r"--energy-source: .*did you mean redfish"):
        training(path, energy_source="redfsh")


def test_misspelled_columns_are_noted_with_similar_names(tmp_path: Path) -> None:
    header = (*HEADER, "cpu_cycls", "CPU_Cycles", "phase", "\x1b[2Jx", "container name", "y" * 4000)
    path = write(tmp_path / "t.csv", [[*row, 1, 1, "idle", 1, 1, 1] for row in rows(30)], header)
    (note,) = training(path).notes
    expected = "not used: cpu_cycls (cpu_cycles?), CPU_Cycles (cpu_cycles?), phase, "
    assert note.startswith(f"{path}: {expected}")
    assert "container name (container_name?)" in note
    assert note.isprintable()
    assert len(note) < 400 + len(str(path))


def test_a_gap_is_noted(tmp_path: Path) -> None:
    table = rows(30) + rows(30, start=1_700_009_000.0)
    assert "1 intervals between rows are longer" in training(write(tmp_path / "t.csv", table)).notes[0]
