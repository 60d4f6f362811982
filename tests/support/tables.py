"""Tables of features and power, and CSV files with such tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADER = ("timestamp", "bpf_cpu_time_ms", "bpf_page_cache_hit", "package_power")


def rows(n: int, start: float = 1_700_000_000.0, step: float = 3.0) -> list[list[Any]]:
    """Return rows with the columns `HEADER`. The power depends linearly on the CPU time."""
    table = []
    for number in range(n):
        cpu = 100.0 + 37 * (number * 7 % 29)
        table.append([start + step * number, cpu, 5.0 * (number % 11), 30 + cpu / 50])
    return table


def write(path: Path, table: Sequence[Sequence[Any]], header: Sequence[str] = HEADER) -> Path:
    """Write a CSV file and return its path."""
    lines = [",".join(map(str, row)) for row in (header, *table)]
    path.write_text("\n".join(lines) + "\n")
    return path


def with_cell(table: Sequence[Sequence[Any]], row: int, cells: Mapping[int, Any]) -> list[list[Any]]:
    """Return a copy of a table with other cells in one row. `cells` maps indexes of columns to the new values."""
    changed = [list(cells_of_row) for cells_of_row in table]
    for column, value in cells.items():
        changed[row][column] = value
    return changed
