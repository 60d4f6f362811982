"""The JSON document of a node-type profile: `profiles/<node type>.json` of a pipeline, or a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError
from kepler_core.json_files import indented_json
from kepler_core.machine import machine_spec_from

LAYOUT_VERSION = 1


class ProfileError(KeplerError):
    """Error of a profile that cannot be read or built, or that lacks a requested energy source or component."""


class ComponentPower(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Power of one component, in watts."""

    idle: float
    """Power of the idle machine: the median power in the times with the lowest load."""
    idle_spread: float
    """Half of the interquartile range of the power, in the times with the lowest load."""
    idle_samples: int
    maximum: float
    samples: int
    upper_bound: bool = False
    """Whether `idle` is only an upper bound: the machine was never idle, or its load is not known."""
    counted_twice: bool = False
    """Whether the meter's idle and dynamic energy increase by nearly equal amounts.

    If so, the meter probably counts the energy twice: as idle energy, and again as dynamic energy.
    """


class Quiet(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The quiet blocks: short times in which the load was lowest. The idle power is measured in these times."""

    feature: str | None
    """The feature that measures load; None if no feature can measure load. Power itself is then used as the load.

    The unit of load is the feature's unit per second.
    """
    level: float
    """Mean load in the quiet blocks (the times with the lowest load)."""
    highest: float
    """The highest load in all recordings, as the mean of a block of timestamps."""
    capacity: float | None
    """The load if all CPUs of the machine are busy; None if this is not known."""
    blocks: int
    block_steps: int
    """Number of timestamps in each quiet block: 5, 3 or 1.

    It is 3 or 1 only if the machine was idle in a block of this length, but never in a longer block.
    """
    idle: bool
    """Whether the machine was idle in the quiet blocks (the times with the lowest load)."""


class Range(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The values of a feature over all recordings: rates per second for counters, values for gauges."""

    lowest: float
    median: float
    highest: float
    scale: float
    """The largest absolute value of the feature; 1 if the feature is always 0. Models divide the feature by this
    value."""
    samples: int


class Recorded(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One node in one of the recordings from which the profile is built."""

    recording: str
    node: str
    start: float
    """Time of the first timestamp in Unix seconds; `end` is the time of the last timestamp."""
    end: float
    timestamps: int
    step: float
    """Median number of seconds between two timestamps."""
    gaps: int
    """Number of gaps: intervals between two timestamps that are longer than 2.5 steps."""
    idle: bool
    """Whether the user gave this recording as a recording of the idle machine."""


class NodeProfile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The profile of a node type."""

    layout: int
    machine_spec: dict[str, Any]
    power: dict[str, dict[str, ComponentPower]]
    """The power of each component, by energy source and component."""
    quiet: Quiet
    features: dict[str, Range]
    """The range of the values of each feature in the recordings, by the name of the feature."""
    feature_groups: dict[str, list[str]]
    """The features of each feature group, by the name of the group. Only groups whose features are all in the
    recordings are listed."""
    recordings: list[Recorded]
    background: list[str] = []
    """Names of the containers in the recordings of the idle machine."""
    notes: list[str] = []
    """Warnings about the profile, one line each."""
    node_type: int | None = None

    def idle_power(self, source: str) -> dict[str, ComponentPower]:
        """Return the power of each component for an energy source.

        Raises `ProfileError` if the profile does not have the source.
        """
        try:
            return self.power[source]
        except KeyError:
            sources = ", ".join(sorted(self.power)) or "none"
            raise ProfileError(f"the profile has no power of {source} (available: {sources})") from None


def read_profile(content: bytes | Mapping[str, Any], where: str) -> NodeProfile:
    """Read a profile from JSON text or from a decoded document. Raises `ProfileError` if the profile is not valid."""
    try:
        if isinstance(content, bytes):
            profile = decode_json(content, NodeProfile)
        else:
            profile = msgspec.convert(content, NodeProfile)
    except (DocumentError, msgspec.ValidationError) as error:
        raise ProfileError(f"{where}: not a node-type profile: {error}") from error
    if profile.layout != LAYOUT_VERSION:
        raise ProfileError(f"{where}: layout {profile.layout}; this kepler-core reads {LAYOUT_VERSION}")
    machine_spec_from(profile.machine_spec, f"{where}: machine_spec")
    return profile


def write_profile(profile: NodeProfile) -> bytes:
    """Return a profile as JSON text, the content of its file."""
    return indented_json(profile)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a profile."""
    schema = msgspec.json.schema(NodeProfile)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Kepler Core node-type profile"
    return schema
