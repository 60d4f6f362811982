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
    """One measured figure beside what Kepler Core is meant to reach."""

    what: str
    before: str
    """The figure before models stated their own errors."""
    asked: str
    now: str
    met: bool | None
    """Whether the figure is as asked; None if it was not measured, or if nothing was asked."""
    values: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """The numbers behind `now`."""


@attrs.frozen
class Settings:
    """What all measurements share."""

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
