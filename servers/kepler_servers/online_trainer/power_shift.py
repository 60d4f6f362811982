"""Power shifts: from some time on, a node needs more or less power than before for the same work.

A new kernel, a new power limit or another firmware can cause a power shift. A new workload is not a power shift. In
terms of machine learning, a power shift is a concept drift: the power for the same features changes. A power shift is
described by a straight line (a linear function) for each energy source and component:

    watts now = scale · watts then + offset

Here, "then" means before the shift and "now" means after it, for the same work.

The module `shift_detection` finds power shifts. Samples from before a shift stay usable, because the function
`shift_watts` converts their watts with the line. So models can still learn from the workloads in these samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.atomic_files import flush_folder, whole_file
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError
from kepler_core.recording.observations import Observations

SMALLEST_SHIFT = 0.05
"""Smallest change of a component's mean power that counts as a power shift, as a fraction of that mean."""


class Line(msgspec.Struct, frozen=True):
    """The line `watts now = scale · watts then + offset` of one component; the offset is in watts."""

    scale: float
    offset: float

    def __call__(self, watts: FloatArray) -> FloatArray:
        """Convert watts before the shift to the watts for the same work after the shift. The result is at least 0 W."""
        return np.maximum(self.scale * watts + self.offset, 0.0)


class PowerShift(msgspec.Struct, frozen=True):
    """A power shift of one node, with its time and its effect on each component."""

    node: str
    since: float
    """Time at which the power shifted, Unix seconds."""
    lines: dict[str, Line]
    """Lines that map watts before the shift to watts after it. A key is "<energy source>.<component>"."""
    pairs: int
    """Number of sample pairs that show the shift. A pair is a sample before the shift and a similar sample after it."""


def shift_watts(observations: Observations, shifts: Sequence[PowerShift]) -> Observations:
    """Convert the watts before each shift to the watts for the same work after the shift.

    Returns the observations with the converted watts.
    """
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
    """Average the lines of several nodes. Return one `Line` for each key "<energy source>.<component>".

    Scale and offset of the returned line are the mean scale and the mean offset of the nodes' lines. A node without
    a shift counts as a line with scale 1 and offset 0. The result is None if there are no shifts. The result is also
    None if the scales of two nodes differ by more than `2 * SMALLEST_SHIFT`, because one line cannot then describe
    the shifts of all nodes.
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
    """Return a text for a log message about a power shift: scale and offset of the line of each component."""
    return ", ".join(f"{key} × {line.scale:.3f} {line.offset:+.1f} W" for key, line in sorted(lines.items()))


class _LogFile(msgspec.Struct):
    changes: list[PowerShift]


class ShiftLog:
    """A JSON file with all power shifts that were found. Each change replaces the whole file atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def shifts(self) -> list[PowerShift]:
        """Return the power shifts in the file; no shifts if the file is absent.

        Raises `KeplerError` if the file cannot be read.
        """
        try:
            return decode_json(self.path.read_bytes(), _LogFile).changes
        except FileNotFoundError:
            return []
        except (OSError, DocumentError) as error:
            raise KeplerError(f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def add(self, shifts: Sequence[PowerShift]) -> None:
        """Append power shifts to the file. Raises `KeplerError` if the file cannot be written."""
        content = msgspec.json.format(msgspec.json.encode(_LogFile([*self.shifts(), *shifts])), indent=1)
        try:
            with whole_file(self.path) as file:
                file.write(content + b"\n")
            flush_folder(self.path.parent)
        except OSError as error:
            raise KeplerError(f"cannot write {self.path}: {error.strerror or error}") from error
