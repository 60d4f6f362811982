"""Output of commands: tables for human readers, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")


def print_json(content: Any) -> None:
    """Print a JSON document on standard output. NaN and infinity become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(content), indent=1).decode())


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], indent: str = "") -> None:
    """Print a table. Columns of numbers are aligned to the right, and None is printed as "-"."""
    from tabulate import tabulate

    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    align = ["right" if _numeric(column) else "left" for column in zip(*cells, strict=True)] or None
    text = tabulate(cells, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
    click.echo("\n".join((indent + line).rstrip() for line in text.splitlines()))


def _numeric(column: Sequence[str]) -> bool:
    return all(cell == "-" or cell.replace(".", "", 1).lstrip("-").isdigit() for cell in column)


def percent(fraction: float | None) -> str:
    """Return a fraction as a table cell in percent with one decimal; None becomes "-"."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def watts(value: float | None) -> str:
    """Return watts or a percentage as a table cell with two decimals; None becomes "-"."""
    return "-" if value is None else f"{value:.2f}"
