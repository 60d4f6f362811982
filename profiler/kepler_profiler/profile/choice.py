"""Choose the profile of a training. Isolators use this profile, and it is published with the pipeline."""

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
    stored: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """Return the file with the training's profile, which is added to the trained pipeline.

    The result maps the path of the file in the pipeline to its content. It is empty if the recording has no power and
    no profile is stored. `chosen_profile` chooses the profile.
    """
    try:
        profile = chosen_profile(observations, idle, machine_spec, stored)
    except ProfileError:
        if stored is not None:
            raise
        return {}  # the recording has no power: publish without a profile
    return {profile_file(node_type): write_profile(msgspec.structs.replace(profile, node_type=node_type))}


def chosen_profile(
    observations: Observations,
    idle: Observations | None,
    machine_spec: Mapping[str, Any],
    stored: Mapping[str, Any] | None,
) -> NodeProfile:
    """Choose between the stored profile and a profile that is built from the recordings of a training.

    If there is a recording of the idle machine, the built profile is preferred, otherwise the stored profile.
    But a profile with a measured idle power is always preferred to a profile with only an upper bound of the
    idle power. Raises `ProfileError` if the stored profile is of another machine, or if there is no profile
    at all.
    """
    before = None if stored is None else read_profile(stored, "the profile")
    if before is not None and (other := differences(before.machine_spec, machine_spec)):
        raise ProfileError(f"the profile is of another machine: {'; '.join(other)}")
    try:
        built = build_profile(observations, idle, machine_spec=machine_spec)
    except ProfileError:
        if before is None:
            raise
        return before
    if before is None:
        return built
    first, second = (before, built) if idle is None else (built, before)
    if second.quiet.idle and not first.quiet.idle and set(first.power) <= set(second.power):
        return _with_reasons(second, built.notes if second is before else [])
    return first


def _with_reasons(profile: NodeProfile, notes: list[str]) -> NodeProfile:
    """Add `notes` to the chosen profile, and return it. The notes tell why the other profile was not chosen."""
    own = [note for note in profile.notes if not note.startswith(_NOT_TAKEN)]
    return msgspec.structs.replace(profile, notes=[*own, *(_NOT_TAKEN + note for note in notes)])
