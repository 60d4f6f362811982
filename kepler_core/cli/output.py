"""Output of commands: tables for human readers, JSON for programs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")

json_errors_option = click.option(
    "--json", is_flag=True, expose_value=False, help="Print an error as JSON, for programs."
)
"""The option `--json` of commands whose result is a file, a document or a running server. It affects only errors."""


def print_json(content: Any) -> None:
    """Print a JSON document on standard output. NaN and infinity become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(content), indent=1).decode())


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], indent: str = "") -> None:
    """Print a table. Columns of numbers are aligned to the right, and None is printed as "-".

    On a terminal, the lines are not longer than the terminal is wide. In files and pipes, a row is always one line.
    """
    from kepler_core.cli.table_text import table_text

    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    columns = max(len(headers), *(len(row) for row in cells)) if cells else len(headers)
    headers = [*headers, *[""] * (columns - len(headers))]
    width = terminal_width()
    text = table_text(cells, headers, None if width is None else width - len(indent))
    click.echo("\n".join((indent + line).rstrip() for line in text.splitlines()))


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output is connected to, in characters; None if it is no terminal.

    The environment variable `COLUMNS` takes precedence over the width that the terminal states.
    """
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def percent(fraction: float | None) -> str:
    """Return a fraction as a table cell in percent with one decimal; None becomes "-"."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def watts(value: float | None) -> str:
    """Return watts or a percentage as a table cell with two decimals; None becomes "-"."""
    return "-" if value is None else f"{value:.2f}"
