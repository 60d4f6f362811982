"""The size limits of table files, the columns that were read from a file, and the conversion of text to numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import TableError
from kepler_core.messages import printable, quoted
from kepler_core.recording.samples import LATEST_UNIX_SECONDS
from kepler_core.recording.times import unix_seconds

MAX_BYTES = 2**30
"""Largest size of a table file. A larger file could fill the memory."""
MAX_ROWS = 5_000_000
MAX_COLUMNS = 4096
MAX_ROW_CHARACTERS = 4 * 2**20
"""Maximum length of a row of a CSV file. Without this limit, one row of commas could fill the memory with empty
cells."""
MAX_TEXT_CHARACTERS = 4096

Kind = Literal["number", "time", "text"]
"""What the cells of a column hold. A "time" is in Unix seconds, or a date and time in ISO 8601."""
ChooseKinds = Callable[[Sequence[str]], Mapping[str, Kind]]
"""Function that returns the columns to read and their kinds, given the names of all columns of a file."""

_SHOWN_CHARACTERS = 40


@attrs.frozen(eq=False)
class RawTable:
    """The columns that were read from a file."""

    document: str
    """Name of the file, as messages show it."""
    header: tuple[str, ...]
    """Names of all columns of the file."""
    rows: int
    digest: str
    """SHA-256 of the file."""
    numbers: Mapping[str, FloatArray]
    """The columns of numbers and of times (Unix seconds), each of shape (rows,); NaN for an empty cell."""
    texts: Mapping[str, Sequence[str]]
    """The columns of text; "" for an empty cell."""
    lines: IntArray | None = None
    """Number of the line at which each row ends, shape (rows,); None if the file is not text."""

    def place(self, row: int) -> str:
        """Return where a row is, in words for messages. `row` is counted from 0."""
        line = "" if self.lines is None else f" (line {self.lines[row]})"
        return f"row {row + 1}{line}"


def read_bytes(path: Path) -> bytes:
    """Return the content of a table file. Raises `TableError` if it is unreadable, empty or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TableError(error.strerror or str(error), document=str(path)) from error
    if len(content) > MAX_BYTES:
        raise TableError(f"larger than {MAX_BYTES} bytes", document=str(path))
    if not content:
        raise TableError("the file is empty", document=str(path))
    return content


def check_header(header: Sequence[str], document: str) -> None:
    """Raise `TableError` if a table has too many columns, or if the name of a column is empty or too long."""
    if len(header) > MAX_COLUMNS:
        raise TableError(f"{len(header)} columns; at most {MAX_COLUMNS} are read", document=document)
    for index, name in enumerate(header, 1):
        if not name.strip():
            raise TableError(f"column {index} has no name", document=document)
        if len(name) > MAX_TEXT_CHARACTERS:
            raise TableError(f"the name of column {index} is too long", document=document)


def cell_error(document: str, place: str, column: str, problem: str) -> TableError:
    """Return the error for a cell: "<file>: row 3 (line 4), column watts: <problem>"."""
    shown = printable(column, _SHOWN_CHARACTERS)
    return TableError(f"{place}, column {shown}: {problem}", document=document)


def number_of(text: str) -> float:
    """Return the number in a cell; NaN if the cell is empty. Raises `ValueError` if it is no number."""
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        if not text.strip():
            return math.nan
    hint = " (write numbers with a decimal point)" if _is_decimal_comma(text) else ""
    raise ValueError(f"{quoted(text, _SHOWN_CHARACTERS)} is no number{hint}")


def _is_decimal_comma(text: str) -> bool:
    return text.count(",") == 1 and text.replace(",", "").lstrip("+-").strip().isdecimal()


def time_of(text: str) -> float:
    """Return the time in a cell in Unix seconds. Raises `ValueError` if the cell has no time."""
    try:
        return unix_seconds(text)
    except ValueError:
        shown = quoted(text, _SHOWN_CHARACTERS)
        raise ValueError(f"{shown} is no time (Unix seconds, or e.g. 2026-03-01T12:00:00Z)") from None


def text_of(text: str) -> str:
    """Return the text in a cell. Raises `ValueError` if it is too long."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"the text is longer than {MAX_TEXT_CHARACTERS} characters")
    return text


def check_times(raw: RawTable, column: str) -> None:
    """Raise `TableError` if a time is missing, or is a number that cannot be Unix seconds."""
    times = raw.numbers[column]
    if not len(times):
        return
    wrong = np.flatnonzero(~(np.isfinite(times) & (times >= 0) & (times < LATEST_UNIX_SECONDS)))
    if len(wrong):
        value = times[wrong[0]]
        problem = "no time" if np.isnan(value) else f"{value:g} is not in Unix seconds (is it in milliseconds?)"
        raise cell_error(raw.document, raw.place(int(wrong[0])), column, problem)
