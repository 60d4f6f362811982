"""The figures that the measurements return, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs


class AbsentError(Exception):
    """The data or the option that a measurement needs is absent. The text is the reason."""


@attrs.frozen
class Figure:
    """One measured figure, with its earlier value and its target."""

    what: str
    before: str
    """The figure of an earlier version of Kepler Core, in which models did not state their own errors."""
    asked: str
    """The target."""
    now: str
    met: bool | None
    """Whether the figure meets the target; None if the figure was not measured, or has no target."""
    values: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """The numbers from which the text `now` was made."""


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
    """Return the figures as a Markdown table."""
    marks = {True: "yes", False: "**no**", None: "–"}
    lines = ["| what | before | asked | now | as asked |", "|---|---|---|---|---|"]
    lines += [f"| {f.what} | {f.before} | {f.asked} | {f.now} | {marks[f.met]} |" for f in figures]
    return "\n".join(lines)
