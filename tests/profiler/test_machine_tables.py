"""Tests of tables of measured machines: two formats, machines that are left out, and hostile content."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.command import kepler
from support.tables import write

from kepler_core.errors import TableError
from kepler_profiler.machine_features import LOAD, machine_features, vendors_of
from kepler_profiler.machine_pipeline import write_machine_pipeline
from kepler_profiler.machine_tables import read_machines

HEADER = (
    "machine_id",
    "processor",
    "tdp_w",
    "chips",
    "cores",
    "threads",
    "memory_gb",
    "hw_year",
    "load_pct",
    "power_w",
)


def tidy(path: Path, machines: int, **changes: Any) -> Path:
    """Write a table of machines. Their power is 60 W + 1.2 · load · thermal design power of both chips.

    `changes` replaces cells of the first machine.
    """
    rows = []
    for number in range(machines):
        for load in (0, 50, 100):
            tdp = 80 + 10 * (number % 12)
            watts = 60 + 1.2 * tdp * load / 50
            cells = (f"m{number}", "Intel Xeon", tdp, 2, 16 + number, 32 + 2 * number, 64, 2015, load, watts)
            row: dict[str, Any] = dict(zip(HEADER, cells, strict=True))
            rows.append(list({**row, **(changes if number == 0 else {})}.values()))
    return write(path, rows, HEADER)


SPEC_HEADER = (
    "Hardware Vendor\t", "System", "# Cores", "# Chips ", "# Threads Per Core", "Processor", "Processor MHz",
    "Memory (GB)", "HW Avail", "Result", "Average watts @ 100% of target load", "Average watts @ 50% of target load",
    "Average watts @ active idle\t",
)  # fmt: skip
SPEC_ROW = ("Acme", "One", 28, 2, 2, "Intel Xeon E5-2680 v4", 2400, 64, "Apr-2016", 4000, 300, 180, 60)


def spec(path: Path, *rows: Sequence[Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([SPEC_HEADER, *rows])
    return path


def test_an_export_of_specs_website_is_read(tmp_path: Path) -> None:
    (machine,) = read_machines(spec(tmp_path / "spec.csv", SPEC_ROW)).machines
    description = machine.description
    assert (description.cores, description.threads, description.chips) == (28, 56, 2)
    assert (description.tdp_watts, description.year, description.vendor) == (120, 2016, "intel")
    assert (description.memory_gib, machine.facts["frequency_mhz"], machine.words["vendor"]) == (64, 2400, "Acme")
    assert machine.loads.tolist() == [0, 0.5, 1]
    assert machine.watts.tolist() == [60, 180, 300]


def test_own_measurements_are_read(tmp_path: Path) -> None:
    table = read_machines(tidy(tmp_path / "own.csv", 3))
    assert [machine.name for machine in table.machines] == ["m0", "m1", "m2"]
    description = table.machines[1].description
    assert (description.tdp_watts, description.cores, description.threads) == (90, 17, 34)
    assert (description.year, description.vendor, table.notes) == (2015, "intel", ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"power_w": 0}, "power is missing"),
        ({"power_w": ""}, "power is missing"),
        ({"power_w": 1e12}, "power is missing"),
        ({"power_w": "nan"}, "power is missing"),
        ({"load_pct": 130}, "a load is not between"),
        ({"cores": 500}, "500 cores cannot have only 32 threads"),
        ({"tdp_w": -4}, "-4.0 is not between"),
        ({"hw_year": 15}, "15 is not between"),
        ({"memory_gb": "inf"}, "inf"),
        ({"threads": "", "processor": "Abacus"}, "not in the table of processors"),
    ],
)
def test_a_machine_that_cannot_be_true_is_left_out_and_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    table = read_machines(tidy(tmp_path / "own.csv", 3, **changes))
    if reason == "inf":  # an infinite memory size counts as unknown
        assert table.machines[0].description.memory_gib is None
        return
    assert [machine.name for machine in table.machines] == ["m1", "m2"]
    assert table.left_out[0].startswith("m0: ")
    assert reason in table.left_out[0]
    assert table.notes[0] == "1 machines are left out:"


def test_bad_rows_of_an_export_are_left_out(tmp_path: Path) -> None:
    path = spec(
        tmp_path / "spec.csv",
        SPEC_ROW,
        (*SPEC_ROW[:9], 0, *SPEC_ROW[10:]),
        (*SPEC_ROW[:10], 50, 40, 300),
        (*SPEC_ROW[:10], "n/a", 180, 60),
        (*SPEC_ROW[:2], "many", "", *SPEC_ROW[4:5], "Abacus", *SPEC_ROW[6:]),
    )
    table = read_machines(path)
    assert len(table.machines) == 1
    assert [line.partition(": ")[2][:24] for line in table.left_out] == [
        "SPEC marks the result as", "the highest load draws l", "power is missing, or not", "the number of threads is",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"a,b\n1,2\n", "no column 'load_pct'"),
        (b"load_pct,power_w\n", "the table has no rows"),
        (b"load_pct,power_w\n0,60\n100,200\n", "no machine can be used"),
        (b"load_pct,power_w\n0,x\n", "is no number"),
        (b"load_pct;power_w\n0;1\n", "semicolon"),
        (b"load_pct,power_w,processor\n0,60,\xff\n", "UTF-8"),
        (b"load_pct,power_w\n0\n", "1 cells"),
        (b"\x00" * 100, "no column 'load_pct'"),
    ],
)
def test_a_file_that_is_no_table_of_machines_is_rejected(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=problem) as error:
        read_machines(path)
    assert error.value.document == str(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(max_size=8), min_size=13, max_size=13), max_size=4))
def test_every_export_gives_machines_or_an_error(tmp_path: Path, cells: list[list[str]]) -> None:
    path = spec(tmp_path / "spec.csv", *cells)
    try:
        table = read_machines(path)
    except TableError:
        return
    assert all(machine.watts.min() > 0 for machine in table.machines)


def test_features_are_numbers_of_at_least_0(tmp_path: Path) -> None:
    machines = read_machines(spec(tmp_path / "spec.csv", *[SPEC_ROW] * 9)).machines
    vendors = vendors_of(machines)
    assert vendors == ("machine_vendor_acme",)
    features = machine_features(machines[0].description, machines[0].facts, machines[0].words, vendors, 60.0)
    assert all(value >= 0 for value in features.values())
    assert (features["machine_tdp_w"], features["machine_vendor_acme"], features["machine_idle_per_w"]) == (
        240,
        1,
        0.25,
    )
    assert LOAD not in features


def test_equal_machines_are_held_out_together(tmp_path: Path) -> None:
    rows = [(*SPEC_ROW[:2], 2 * (number // 2 + 4), *SPEC_ROW[3:]) for number in range(24)]
    machines = read_machines(spec(tmp_path / "spec.csv", *rows)).machines
    files = write_machine_pipeline(machines, "p", tmp_path)
    with files.table.open(newline="", encoding="utf-8") as file:
        nodes = [row["node"] for row in csv.DictReader(file)]
    assert len(nodes) == 24 * 3
    assert len(set(nodes)) == 12


def test_few_machines_are_not_trained_on(tmp_path: Path) -> None:
    done = kepler("machines", "fit", tidy(tmp_path / "own.csv", 5), "-s", tmp_path / "models")
    assert done.returncode == 1
    assert "5 machines; a model needs at least 20" in done.stderr
    assert not (tmp_path / "models").exists()
