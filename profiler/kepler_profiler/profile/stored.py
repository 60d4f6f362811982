"""The profile of a training: which one isolators use, and which is published. It is one and the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.machine import differences
from kepler_core.pipeline.node_types import profile_file
from kepler_core.recording.observations import Observations
from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import NodeProfile, ProfileError, read_profile, write_profile

_NOT_TAKEN = "not taken: "


def profile_files(
    observations: Observations,
    idle: Observations | None,
    node_type: int,
    machine_spec: Mapping[str, Any],
    known: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """The profile of a training (`chosen_profile`) as a file."""
    try:
        best = chosen_profile(observations, idle, machine_spec, known)
    except ProfileError:
        if known is not None:
            raise
        return {}  # no power, or no time at which there is any: nothing to say of it
    return {profile_file(node_type): write_profile(msgspec.structs.replace(best, node_type=node_type))}


def chosen_profile(
    observations: Observations,
    idle: Observations | None,
    machine_spec: Mapping[str, Any],
    known: Mapping[str, Any] | None,
) -> NodeProfile:
    """The profile of the idle recording if there is one, else the known one, else that of the recording
    itself. But one that knows the idle power goes before one that has only an upper bound of it.

    `ProfileError` for a known one that is of another machine, or if there is none at all.
    """
    before = None if known is None else read_profile(known, "the profile")
    if before is not None and (other := differences(before.machine_spec, machine_spec)):
        raise ProfileError(f"the profile is of another machine: {'; '.join(other)}")
    try:
        made = build_profile(observations, idle, machine_spec=machine_spec)
    except ProfileError:
        if before is None:
            raise
        return before
    if before is None:
        return made
    first, second = (before, made) if idle is None else (made, before)
    if second.quiet.idle and not first.quiet.idle and set(first.power) <= set(second.power):
        return _noting(second, made.notes if second is before else [])
    return first


def _noting(profile: NodeProfile, notes: list[str]) -> NodeProfile:
    """A profile that also says why the recording's own was not taken."""
    own = [note for note in profile.notes if not note.startswith(_NOT_TAKEN)]
    return msgspec.structs.replace(profile, notes=[*own, *(_NOT_TAKEN + note for note in notes)])
