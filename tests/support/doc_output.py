"""Compares the output that a documentation page shows with the output that a command prints.

`…` stands for any text within a line. A line that is only `…` stands for any number of lines. Numbers with decimals
may differ a little, because different versions of libraries fit slightly different models. The comparison ignores the
width of columns, empty lines, and lines below the headers of tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TOLERANCE = 0.05
"""Allowed relative difference between a number with decimals in a page and in the real output."""
TOLERANCE_ABSOLUTE = 0.05
"""Allowed absolute difference between a number with decimals in a page and in the real output."""

GAP = "…"
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e-?\d+)?(?![\w]*\.\d)")


def line_matches(shown: str, printed: str) -> bool:
    """Return whether a printed line has the same words and nearly the same numbers as a line of the page."""
    shown, printed = " ".join(shown.split()), " ".join(printed.split())
    numbers: list[float] = []
    pattern = ""
    position = 0
    for match in _NUMBER.finditer(shown):
        pattern += _text_pattern(shown[position : match.start()]) + f"({_DECIMAL.pattern})"
        numbers.append(float(match[0]))
        position = match.end()
    pattern += _text_pattern(shown[position:])
    found = re.fullmatch(pattern, printed)
    if found is None:
        return False
    return all(
        abs(number - float(other)) <= TOLERANCE * abs(number) + TOLERANCE_ABSOLUTE
        for number, other in zip(numbers, found.groups(), strict=True)
    )


def _text_pattern(text: str) -> str:
    return ".*".join(re.escape(part).replace(r"\ ", r"\s*") for part in text.split(GAP))


def content_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines to compare. Empty lines, and lines below the headers of tables, are left out."""
    return [line for line in lines if line.strip() and not set(line) <= {"-", " "}]


def first_difference(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """Return the first shown line that the output lacks, or the first printed line that the page lacks.

    Return None if the output agrees with the page. JSON is compared without white space, as one line.
    """
    expected, actual = content_lines(shown), content_lines(printed)
    if expected and expected[0].lstrip()[:1] in ("{", "["):
        expected, actual = ["".join("".join(expected).split())], ["".join("".join(actual).split())]
    farthest = 0
    reached: set[tuple[int, int]] = set()
    waiting = [(0, 0)]
    while waiting:
        position, index = waiting.pop()
        if (position, index) in reached:
            continue
        reached.add((position, index))
        farthest = max(farthest, position)
        if position == len(expected):
            if index == len(actual):
                return None
            continue
        if expected[position].strip() == GAP:
            waiting.append((position + 1, index))
            if index < len(actual):
                waiting.append((position, index + 1))
        elif index < len(actual) and line_matches(expected[position], actual[index]):
            waiting.append((position + 1, index + 1))
    if farthest == len(expected):
        lines = [actual[index] for position, index in reached if position == farthest and index < len(actual)]
        return f"the page lacks this line: {lines[0] if lines else ''}"
    return f"not printed: {expected[farthest]}"
