"""A node-type profile as it is stored: `profiles/<node type>.json` of a pipeline, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.errors import KeplerError
from kepler_core.machine import machine_spec_from

LAYOUT_VERSION = 1


class ProfileError(KeplerError):
    """A profile that cannot be read, or does not have what is asked of it."""


class ComponentPower(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Power of one component, in watts."""

    idle: float
    """While the machine does nothing: the median over the quietest blocks."""
    idle_spread: float
    """Half of the range that holds the middle half of those samples."""
    idle_samples: int
    maximum: float
    samples: int
    upper_bound: bool = False
    """The recordings never were idle, or do not say: the idle power is at most `idle`."""
    counted_twice: bool = False
    """Idle and dynamic energy rise alike: what they add up to is probably twice the truth."""


class Quiet(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The load of the quietest blocks, which the idle power is of."""

    feature: str | None
    """What the load is measured by, in its own unit per second; None: by power itself."""
    level: float
    """Mean load of the quietest blocks."""
    highest: float
    """The highest load of a block in all recordings."""
    capacity: float | None
    """The load of a machine that is busy on all CPUs, where that is known."""
    blocks: int
    block_steps: int
    """Timestamps of a block; 1: the machine was quiet for single intervals only."""
    idle: bool
    """Whether the machine did nothing then."""


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A feature over all recordings, per second (gauges as they are)."""

    lowest: float
    median: float
    highest: float
    scale: float
    """The largest absolute value, by which models divide."""
    samples: int


class Recorded(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One node in one recording that the profile is made of."""

    recording: str
    node: str
    start: float
    """Unix seconds."""
    end: float
    timestamps: int
    step: float
    """Usual seconds between two timestamps."""
    gaps: int
    """Intervals of more than two and a half steps."""
    idle: bool
    """Given as a recording of the idle machine."""


class NodeProfile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The profile of a node type."""

    layout: int
    machine_spec: dict[str, Any]
    power: dict[str, dict[str, ComponentPower]]
    """Energy source -> component -> power."""
    quiet: Quiet
    features: dict[str, Range]
    """The features that there are."""
    feature_groups: dict[str, list[str]]
    """Feature group -> its features, for the groups of which all are there."""
    recordings: list[Recorded]
    background: list[str] = []
    """Names of the containers that ran in the recordings of the idle machine."""
    notes: list[str] = []
    """What cannot be relied on, one line each."""
    node_type: int | None = None

    def idle_power(self, source: str) -> dict[str, ComponentPower]:
        """The components of an energy source; `ProfileError` where the profile has none."""
        try:
            return self.power[source]
        except KeyError:
            there = ", ".join(sorted(self.power)) or "none"
            raise ProfileError(f"the profile has no power of {source} (there: {there})") from None


def read_profile(content: bytes | Mapping[str, Any], where: str) -> NodeProfile:
    """A profile from its JSON or the decoded document; `ProfileError`, one line, if it is none."""
    try:
        if isinstance(content, bytes):
            found = msgspec.json.decode(content, type=NodeProfile)
        else:
            found = msgspec.convert(content, NodeProfile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProfileError(f"{where}: not a node-type profile: {error}") from error
    if found.layout != LAYOUT_VERSION:
        raise ProfileError(f"{where}: layout {found.layout}; this kepler-core reads {LAYOUT_VERSION}")
    machine_spec_from(found.machine_spec, f"{where}: machine_spec")
    return found


def write_profile(profile: NodeProfile) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a profile."""
    schema = msgspec.json.schema(NodeProfile)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Kepler Core node-type profile"
    return schema
