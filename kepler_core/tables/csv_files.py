"""Read tables from CSV files. Errors name the row, the line and the column."""

from __future__ import annotations

import csv
import hashlib
import io
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.errors import TableError
from kepler_core.messages import reason_of
from kepler_core.tables.raw import (
    MAX_ROW_CHARACTERS,
    MAX_ROWS,
    ChooseKinds,
    RawTable,
    cell_error,
    check_header,
    number_of,
    read_bytes,
    text_of,
    time_of,
)


def read_csv(path: Path, kinds: ChooseKinds) -> RawTable:
    """Read columns of a CSV file in UTF-8, with commas between the cells and the column names in the first row.

    Raises `TableError` if the file has another form, or a cell does not have the kind of its column (see `Kind`).
    """
    content = read_bytes(path)
    document = str(path)
    text = _Text(content)
    reader = csv.reader(text, strict=True)
    rows = _rows(reader, text, document)
    header = next(rows, None)
    if header is None:
        raise TableError("the file has no row with the names of the columns", document=document)
    _check_separator(header, document)
    check_header(header, document)
    wanted = kinds(header)
    numbers = {name: array("d") for name, kind in wanted.items() if kind != "text"}
    texts: dict[str, list[str]] = {name: [] for name, kind in wanted.items() if kind == "text"}
    parsers = [(header.index(name), name, *_parser(name, kind, numbers, texts)) for name, kind in wanted.items()]
    lines = array("q")
    for row in rows:
        if not row:
            continue  # skip an empty line, e.g. at the end of the file
        place = f"row {len(lines) + 1} (line {reader.line_num})"
        if len(row) != len(header):
            raise TableError(f"{place} has {len(row)} cells, but there are {len(header)} columns", document=document)
        if len(lines) >= MAX_ROWS:
            raise TableError(f"more than {MAX_ROWS} rows", document=document)
        lines.append(reader.line_num)
        for index, name, parse, append in parsers:
            try:
                append(parse(row[index]))
            except ValueError as error:
                raise cell_error(document, place, name, str(error)) from None
    return RawTable(
        document,
        tuple(header),
        len(lines),
        hashlib.sha256(content).hexdigest(),
        {name: np.array(values, dtype=np.float64) for name, values in numbers.items()},
        texts,
        np.array(lines, dtype=np.int64),
    )


def _parser(
    name: str, kind: str, numbers: dict[str, array[float]], texts: dict[str, list[str]]
) -> tuple[Callable[[str], float | str], Callable[..., None]]:
    """Return the function that converts a cell of a column, and the function that stores the converted value."""
    if kind == "text":
        words: dict[str, str] = {}  # to save memory, equal texts in many rows share one object
        return (lambda text: words.setdefault(text, text_of(text))), texts[name].append
    return (number_of if kind == "number" else time_of), numbers[name].append


class _Text:
    """Iterator over the lines of a file, as text with the line ends. It limits the length of a row of cells.

    The file is decoded line by line, because text takes up to four times the memory of the bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._file = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        self.characters = 0
        """Number of characters that were read for the current row. The reader of the rows sets it to 0 for each row."""

    def __iter__(self) -> _Text:
        return self

    def __next__(self) -> str:
        try:
            line = self._file.readline(MAX_ROW_CHARACTERS + 1)
        except UnicodeDecodeError as error:
            raise csv.Error(self._undecodable()) from error
        self.characters += len(line)
        if self.characters > MAX_ROW_CHARACTERS:
            raise csv.Error(f"a row is longer than {MAX_ROW_CHARACTERS} characters")
        if not line:
            raise StopIteration
        return line

    def _undecodable(self) -> str:
        """Return a message that names the line that is not UTF-8.

        The file decodes many lines at once, so its own error does not name the line.
        """
        for number, line in enumerate(io.BytesIO(self._content), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number} is not UTF-8 text"
        return "the file is not UTF-8 text"


def _rows(reader: Any, text: _Text, document: str) -> Iterator[list[str]]:
    """Yield the rows that a `csv.reader` reads from the lines. Raises `TableError`."""
    while True:
        text.characters = 0
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TableError(f"line {reader.line_num} is not CSV: {reason_of(error)}", document=document) from error


def _check_separator(header: Sequence[str], document: str) -> None:
    if len(header) == 1:
        for separator, word in ((";", "semicolon"), ("\t", "tab")):
            if separator in header[0]:
                raise TableError(f"the cells are separated by a {word}; a comma is expected", document=document)
