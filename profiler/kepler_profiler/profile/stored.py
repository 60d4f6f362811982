"""The profile that is published with a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.pipeline.node_types import profile_file
from kepler_core.recording.observations import Observations
from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import NodeProfile, ProfileError, read_profile, write_profile


def profile_files(
    observations: Observations,
    idle: Observations | None,
    node_type: int,
    machine_spec: Mapping[str, Any],
    known: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """The profile of a training's recordings as a file, or the known one where that says more: a machine
    that was idle once need not be idle in every recording."""
    try:
        made: NodeProfile | None = build_profile(observations, idle, machine_spec=machine_spec, node_type=node_type)
    except ProfileError:
        made = None  # no power, or no time at which there is any: nothing to say of it
    before = None if known is None else read_profile(known, "the profile")
    best = before if before is not None and (made is None or _says_more(before, made)) else made
    if best is None:
        return {}
    return {profile_file(node_type): write_profile(msgspec.structs.replace(best, node_type=node_type))}


def _says_more(before: NodeProfile, made: NodeProfile) -> bool:
    """Whether the earlier profile knows the idle power and the new one only a bound of it."""
    return before.quiet.idle and not made.quiet.idle and set(made.power) <= set(before.power)
