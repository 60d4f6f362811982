"""Examples in the help texts of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

TITLE = "Examples:"
"""The line before the examples of a command."""
PROGRAM = "kepler-model"
WIDEST_CHARACTERS = 76
"""Maximum width of a line. A longer example is broken into several lines, so that it fits into 80 columns."""


def examples(*commands: str) -> str:
    """Return the end of a command's help text (`epilog`) with examples of calls, without the name of the program."""
    lines = (line for command in commands for line in _lines(f"{PROGRAM} {command}"))
    return "\n".join(["\b", TITLE, *lines])


def _lines(command: str) -> Iterator[str]:
    """Yield the lines of an example. If an example is too long for one line, the next line begins with an option."""
    line = " "
    for part in re.split(r" (?=-)", command):
        if line.strip() and len(line) + 1 + len(part) > WIDEST_CHARACTERS:
            yield f"{line} \\"
            line = "   "
        line += f" {part}"
    yield line
