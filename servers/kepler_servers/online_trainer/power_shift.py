"""Power shifts: from some time on, a node needs other power than before for the same work.

A new kernel, a new power limit or another firmware causes one; a new workload does not. It is a concept
drift of power given features, described by one line per energy source and component:

    watts now = scale · watts then + offset

`shift_detection` finds power shifts. Applying them to the watts of older samples keeps what those
samples tell about workloads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.atomic_files import whole_file
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError
from kepler_core.recording.observations import Observations

SMALLEST_SHIFT = 0.05
"""Smallest shift that counts, as a fraction of the mean power."""


class Line(msgspec.Struct, frozen=True):
    """The line `watts now = scale · watts then + offset`."""

    scale: float
    offset: float

    def __call__(self, watts: FloatArray) -> FloatArray:
        """Return the power now, at least 0 W."""
        return np.maximum(self.scale * watts + self.offset, 0.0)


class PowerShift(msgspec.Struct, frozen=True):
    """A power shift of one node."""

    node: str
    since: float
    """When the power shifted, Unix seconds."""
    lines: dict[str, Line]
    """"<energy source>.<component>" -> the line from the power before to the power after."""
    pairs: int
    """Number of pairs of similar samples, before and after, that show the shift."""


def shift_watts(observations: Observations, shifts: Sequence[PowerShift]) -> Observations:
    """Return the observations with the power of samples before each shift moved to the level after it."""
    if not shifts:
        return observations
    power = {key: values.copy() for key, values in observations.power.items()}
    nodes = {stream.node: code for code, stream in enumerate(observations.streams)}
    for shift in sorted(shifts, key=lambda shift: shift.since):
        if shift.node not in nodes:
            continue
        before = (observations.sample_stream == nodes[shift.node]) & (observations.sample_time < shift.since)
        for (source, component), values in power.items():
            line = shift.lines.get(f"{source}.{component}")
            if line is not None:
                values[before] = line(values[before])
    return attrs.evolve(observations, power=power)


def common_lines(shifts: Sequence[PowerShift], nodes: Sequence[str]) -> Mapping[str, Line] | None:
    """Return one line per "<energy source>.<component>" that holds for all nodes.

    None if the nodes differ by more than twice the smallest shift that counts: then no line is right for
    all of them.
    """
    by_node = {shift.node: shift.lines for shift in shifts}
    keys = sorted({key for lines in by_node.values() for key in lines})
    common = {}
    for key in keys:
        lines = [by_node.get(node, {}).get(key, Line(1.0, 0.0)) for node in nodes]
        scales = [line.scale for line in lines]
        if max(scales) - min(scales) > 2 * SMALLEST_SHIFT:
            return None
        common[key] = Line(float(np.mean(scales)), float(np.mean([line.offset for line in lines])))
    return common or None


def describe_lines(lines: Mapping[str, Line]) -> str:
    """Return the lines as text, e.g. for a log line."""
    return ", ".join(f"{key} × {line.scale:.3f} {line.offset:+.1f} W" for key, line in sorted(lines.items()))


class _LogFile(msgspec.Struct):
    changes: list[PowerShift]


class ShiftLog:
    """All power shifts that were found, in one file that is replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shifts(self) -> list[PowerShift]:
        """Read the file; an absent file has no shifts. `KeplerError` if it cannot be read."""
        try:
            return decode_json(self.path.read_bytes(), _LogFile).changes
        except FileNotFoundError:
            return []
        except (OSError, DocumentError) as error:
            raise KeplerError(f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def add(self, shifts: Sequence[PowerShift]) -> None:
        """Append shifts to the file; `KeplerError` if it cannot be written."""
        content = msgspec.json.format(msgspec.json.encode(_LogFile([*self.shifts(), *shifts])), indent=1)
        try:
            with whole_file(self.path) as file:
                file.write(content + b"\n")
        except OSError as error:
            raise KeplerError(f"cannot write {self.path}: {error.strerror or error}") from error
