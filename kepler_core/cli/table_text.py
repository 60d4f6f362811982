"""Tables as text that fits into the width of a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

SEPARATOR = "  "
"""Blanks between two columns of a table."""
NARROWEST_TEXT_CHARACTERS = 10
"""Minimum width of a column of text. In a narrower column, the pieces of names would be too short to be readable."""

_PIECES = re.compile(r"(?<=[ /_,;:=-])|(?<=[a-z0-9])(?=[A-Z])")
"""Matches the positions at which a text may be continued in the next line: after blanks and separators, and before the
capitals of a name."""


def table_text(rows: Sequence[Sequence[str]], headers: Sequence[str], width: int | None) -> str:
    """Return a table as text whose lines have at most `width` characters (None: no limit).

    Columns of numbers are aligned to the right. A table that is too wide gets narrower columns, whose texts continue
    in the next line. If this does not suffice, each row becomes a record: its texts in one line, and below them each
    number with the name of its column.
    """
    numeric = [bool(rows) and all(is_number(row[index]) for row in rows) for index in range(len(headers))]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    text = _render(rows, headers, numeric)
    if width is None or max(map(len, text.splitlines())) <= width:
        return text
    narrowest = [
        max(map(len, column[1:])) if number and rows else min(natural, NARROWEST_TEXT_CHARACTERS)
        for natural, number, column in zip(widths, numeric, zip(headers, *rows, strict=True), strict=True)
    ]
    narrowest = [
        max(least, min(natural, max(map(len, _pieces(header)))))
        for least, natural, header in zip(narrowest, widths, headers, strict=True)
    ]
    if _total(narrowest) > width:
        return _records(rows, headers, width)
    chosen = _shared(narrowest, widths, width - _total(narrowest))
    wrapped = [[wrap(cell, limit) for cell, limit in zip(row, chosen, strict=True)] for row in (headers, *rows)]
    lines = [_columns(wrapped[0], chosen, numeric), SEPARATOR.join("-" * limit for limit in chosen)]
    return "\n".join([*lines, *(_columns(row, chosen, numeric) for row in wrapped[1:])])


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, or `-` in place of a number."""
    return cell == "-" or cell.replace(".", "", 1).lstrip("-").isdigit()


def wrap(text: str, width: int) -> str:
    """Break a text into lines of at most `width` characters, where possible between words or parts of names."""
    lines = [""]
    for piece in _pieces(text):
        rest = piece
        if lines[-1] and len(lines[-1]) + len(rest.rstrip()) > width:
            lines.append("")
        while len(rest.rstrip()) > width:
            lines[-1] += rest[:width]
            rest = rest[width:]
            lines.append("")
        lines[-1] += rest
    return "\n".join(line.rstrip() for line in lines if line.strip()) or text


def _pieces(text: str) -> list[str]:
    return [piece for piece in _PIECES.split(text) if piece] or [""]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(SEPARATOR) * (len(widths) - 1)


def _shared(narrowest: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """Share `spare` characters among the columns. Each character goes to the column that lacks most characters."""
    chosen = list(narrowest)
    for _ in range(spare):
        index = max(range(len(chosen)), key=lambda column: natural[column] - chosen[column])
        if chosen[index] >= natural[index]:
            break
        chosen[index] += 1
    return chosen


def _columns(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    """Return the lines of a row whose cells have several lines."""
    parts = [cell.split("\n") for cell in cells]
    lines = []
    for number in range(max(map(len, parts))):
        words = [part[number] if number < len(part) else "" for part in parts]
        aligned = [
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(words, widths, numeric, strict=True)
        ]
        lines.append(SEPARATOR.join(aligned).rstrip())
    return "\n".join(lines)


def _render(rows: Sequence[Sequence[str]], headers: Sequence[str], numeric: Sequence[bool]) -> str:
    from tabulate import tabulate

    align = ["right" if number else "left" for number in numeric] if rows else None
    text = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _records(rows: Sequence[Sequence[str]], headers: Sequence[str], width: int) -> str:
    """Return each row as a record: its texts in one line, and below them the numbers with their columns' names."""
    lines: list[str] = []
    for row in rows:
        texts = [cell for cell in row if any(map(str.isalpha, cell))]
        named = [
            f"{header} {cell}".strip()
            for header, cell in zip(headers, row, strict=True)
            if cell not in ("", "-") and not any(map(str.isalpha, cell))
        ]
        lines += _flow(texts, width, "") + _flow(named, width, SEPARATOR)
    return "\n".join(lines)


def _flow(words: Sequence[str], width: int, indent: str) -> list[str]:
    """Return lines that are filled with the words. A word is divided only if it is longer than a line."""
    lines: list[str] = []
    limit = width - len(indent)
    for word in words:
        parts = [word] if len(word) <= limit else wrap(word, limit).split("\n")
        for part in parts:
            if lines and len(lines[-1]) + len(SEPARATOR) + len(part) <= width:
                lines[-1] += SEPARATOR + part
            else:
                lines.append(indent + part)
    return lines
