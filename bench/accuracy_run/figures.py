"""The results (figures) of the measurements, and a table of these results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs


class AbsentError(Exception):
    """A measurement cannot run, because its data or an option is absent. The message states what is absent."""


@attrs.frozen
class Figure:
    """One result of a measurement, with its target and the result of an earlier version."""

    what: str
    before: str
    """The result of an earlier version of Kepler Core, whose models did not state their own errors."""
    asked: str
    """The target."""
    now: str
    met: bool | None
    """Whether the result meets the target; None if there is no result or no target."""
    values: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """The measured numbers, for the JSON file. `now` is a text that summarises them."""


@attrs.frozen
class Settings:
    """The settings of all measurements."""

    data: Path
    """Folder with the subfolders `recordings` and `public`, and the script `evaluate.py`."""
    folder: Path
    """Temporary folder for stores."""
    quick: bool
    """Whether to train few models on few rows."""
    jobs: int | None

    def path(self, name: str) -> Path:
        """Return the path of a file of the public data. Raises `AbsentError` if there is no such file."""
        path = self.data / name
        if not path.exists():
            raise AbsentError(f"no file {name} in the folder of the public data")
        return path


def table(figures: Sequence[Figure]) -> str:
    """Return the results as a Markdown table."""
    marks = {True: "yes", False: "**no**", None: "–"}
    lines = ["| test | before | goal | now | reached |", "|---|---|---|---|---|"]
    lines += [f"| {f.what} | {f.before} | {f.asked} | {f.now} | {marks[f.met]} |" for f in figures]
    return "\n".join(lines)
