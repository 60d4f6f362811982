"""Tests that the tables of commands fit into the width of a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.cli.table_text import NARROWEST_TEXT_CHARACTERS, is_number, table_text, wrap

HEADERS = ("source", "feature group", "trainer", "MAE W", "other rec. W", "why not")
ROWS = [
    ("rapl-sysfs", "CounterOnly", "GradientBoostingRegressorTrainer", "3.27", "-", ""),
    ("acpi", "BPFOnly", "LinearRegressionTrainer", "4.84", "-", "no power of acpi"),
]


def on_a_terminal(columns: int, *arguments: str, cwd: Path | None = None) -> list[str]:
    """Run `kepler-model` on a terminal with `columns` columns, and return the lines that the command prints."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "kepler_core", *arguments]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment, cwd=cwd)
    os.close(follower)
    content = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the OSError means that the last process of the terminal has ended
            break
        content += part
        if not part:
            break
    os.close(leader)
    assert process.wait() == 0, content
    return content.decode().splitlines()


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_a_table_without_limit_has_one_line_per_row() -> None:
    lines = table_text(ROWS, HEADERS, None).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert [line.split()[0] for line in lines[2:]] == ["rapl-sysfs", "acpi"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_fits_and_keeps_all_cells(width: int) -> None:
    text = table_text(ROWS, HEADERS, width)
    assert widest(text) <= width
    joined = "".join(text.split())
    for row in ROWS:
        for cell in row:
            if cell not in ("", "-") and width > 80:
                assert cell.replace(" ", "") in joined or any(piece in joined for piece in cell.split())
    assert text.count("3.27") == text.count("4.84") == 1


def test_a_table_that_cannot_get_narrow_enough_has_a_record_per_row() -> None:
    assert table_text(ROWS, HEADERS, 40).splitlines() == [
        "rapl-sysfs  CounterOnly",
        "GradientBoostingRegressorTrainer",
        "  MAE W 3.27",
        "acpi  BPFOnly  LinearRegressionTrainer",
        "no power of acpi",
        "  MAE W 4.84",
    ]


def test_long_names_are_broken_at_capitals_and_separators() -> None:
    assert wrap("GradientBoostingRegressorTrainer", 17) == "GradientBoosting\nRegressorTrainer"
    assert wrap("rapl-sysfs/AbsPower/BPFOnly", 12) == "rapl-sysfs/\nAbsPower/\nBPFOnly"
    assert wrap("abcdefghij", 4) == "abcd\nefgh\nij"


cells = st.text(st.sampled_from("aB3 ./-_W"), max_size=40).map(str.strip)


@given(st.lists(st.tuples(cells, cells, st.floats(0, 1e6).map(lambda x: f"{x:.2f}")), min_size=1), st.integers(40, 300))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    assert widest(table_text(rows, ("source", "why not known", "MAE W"), width)) <= width


@given(cells, st.integers(NARROWEST_TEXT_CHARACTERS, 60))
def test_wrapping_loses_no_character(text: str, width: int) -> None:
    wrapped = wrap(text, width)
    assert "".join(wrapped.split()) == "".join(text.split())
    assert widest(wrapped or " ") <= width


def test_numbers_are_recognised() -> None:
    assert [is_number(cell) for cell in ("1.5", "-2", "-", "1 %", "", "a")] == [True, True, True, False, False, False]


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize(
    "arguments",
    [
        ("plugins", "list"),
        ("pipelines", "list"),
        ("profile", "machine"),
        ("machines", "list", "--instances"),
        ("machines", "estimate", "--instance", "m5.2xlarge"),
        ("machines", "show", "m5.2xlarge"),
    ],
    ids=" ".join,
)
def test_tables_of_commands_fit_into_the_terminal(arguments: tuple[str, ...], columns: int) -> None:
    lines = on_a_terminal(columns, *arguments)
    tables = [line for line in lines if set(line) <= {"-", " "} and line.strip()]
    assert all(len(line) <= columns for line in tables)
    assert len(lines) > 2


@pytest.mark.parametrize("columns", [45, 60, 80, 200])
def test_the_watts_fit_into_the_terminal(columns: int) -> None:
    lines = on_a_terminal(columns, "watts")
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("source ") for line in lines)
