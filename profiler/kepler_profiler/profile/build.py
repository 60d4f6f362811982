"""The function `build_profile`, which builds a profile from recordings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kepler_core.containers import workload
from kepler_core.recording.observations import Observations
from kepler_core.recording.quiet import GAP_STEPS, IDLE_PART, QuietTimes, load_of, quiet_times
from kepler_core.vocabulary import FEATURE_GROUPS
from kepler_profiler.profile.document import (
    LAYOUT_VERSION,
    ComponentPower,
    NodeProfile,
    ProfileError,
    Quiet,
    Range,
    Recorded,
)

CONTRADICTION_SPREADS = 4.0
"""Measured power contradicts the idle power only if it is lower by more than this number × `idle_spread`."""
CONTRADICTION_PART = 0.05
"""Measured power contradicts the idle power only if it is lower by more than this number × idle power."""


def build_profile(
    observations: Observations | None,
    idle: Observations | None = None,
    *,
    machine_spec: Mapping[str, Any] | None = None,
    node_type: int | None = None,
) -> NodeProfile:
    """Build the profile of the machine in the recordings.

    The idle power is the power in the times with the lowest load. These times are taken from `idle`, a recording of the
    idle machine, or from `observations` if `idle` is None. Raises `ProfileError` if the recordings have no power.
    """
    spec = dict(machine_spec or {})
    recordings = [part for part in (observations, idle) if part is not None]
    quiet_recording = idle if idle is not None else observations
    if quiet_recording is None:
        raise ProfileError("no recording given")
    quiet = quiet_times(quiet_recording, spec, _highest_load(observations) if idle is not None else None)
    power = _power(recordings, quiet_recording, quiet)
    if not power:
        raise ProfileError("no power of any energy source in the recordings")
    profile = NodeProfile(
        layout=LAYOUT_VERSION,
        machine_spec=spec,
        power=power,
        quiet=Quiet(
            quiet.feature, quiet.level, quiet.highest, quiet.capacity, quiet.blocks, quiet.block_steps, quiet.idle
        ),
        features=_features(recordings),
        feature_groups={},
        recordings=[entry for part in recordings for entry in _recorded(part, part is idle)],
        background=[] if idle is None else sorted({workload(name) for name in idle.container_names}),
        notes=[
            *_notes_on_idleness(quiet, idle is not None),
            *_notes_on_unmeasured(power, quiet),
            *_notes_on_double_counting(power),
            *_notes_on_contradictions(power, observations, idle),
        ],
        node_type=node_type,
    )
    for group, features in FEATURE_GROUPS.items():
        if all(feature in profile.features for feature in features):
            profile.feature_groups[group] = list(features)
    return profile


def _highest_load(observations: Observations | None) -> float | None:
    measure = None if observations is None else load_of(observations)
    return None if measure is None or not np.isfinite(measure[1]).any() else float(np.nanmax(measure[1]))


def _power(
    recordings: list[Observations], quiet_recording: Observations, quiet: QuietTimes
) -> dict[str, dict[str, ComponentPower]]:
    """Return the power of each component that `quiet_recording` has measured, by energy source and component.

    The idle power is measured in the times `quiet`, in which `quiet_recording` has its lowest load. The highest power
    is measured in all `recordings`.
    """
    power: dict[str, dict[str, ComponentPower]] = {}
    for source, components in quiet_recording.sources.items():
        for component in components:
            watts = quiet_recording.power[source, component]
            idle_watts = watts[quiet.samples & np.isfinite(watts)]
            # If a component has no samples in the times with the lowest load, its power at other times is an upper
            # bound of its idle power.
            measured_quiet = len(idle_watts) > 0
            if not measured_quiet:
                idle_watts = watts[np.isfinite(watts)]
            low, middle, high = np.quantile(idle_watts, (0.25, 0.5, 0.75))
            columns = [part.power[source, component] for part in recordings if (source, component) in part.power]
            every = np.concatenate([column[np.isfinite(column)] for column in columns])
            power.setdefault(source, {})[component] = ComponentPower(
                idle=_rounded(middle),
                idle_spread=_rounded((high - low) / 2),
                idle_samples=len(idle_watts),
                maximum=_rounded(every.max()),
                samples=len(every),
                upper_bound=not (quiet.idle and measured_quiet),
                counted_twice=any(part.counts.counted_twice[f"{source} {component}"] > 0 for part in recordings),
            )
    return power


def _features(recordings: list[Observations]) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
    for name in sorted({feature for part in recordings for feature in part.features}):
        columns = [part.node_features[name] for part in recordings if name in part.node_features]
        values = np.concatenate([column[np.isfinite(column)] for column in columns])
        ranges[name] = Range(
            lowest=float(values.min()),
            median=float(np.median(values)),
            highest=float(values.max()),
            scale=float(np.abs(values).max()) or 1.0,
            samples=len(values),
        )
    return ranges


def _recorded(observations: Observations, idle: bool) -> list[Recorded]:
    entries = []
    for code, stream in enumerate(observations.streams):
        times = np.unique(observations.sample_time[observations.sample_stream == code])
        between = np.diff(times)
        step = float(np.median(between)) if len(between) else 0.0
        gaps = int(np.count_nonzero(between > GAP_STEPS * step))
        entries.append(
            Recorded(stream.recording, stream.node, float(times[0]), float(times[-1]), len(times), step, gaps, idle)
        )
    return entries


def _notes_on_idleness(quiet: QuietTimes, idle_recording: bool) -> list[str]:
    if quiet.idle and quiet.block_steps == 1:
        return [
            f"quiet for single intervals only ({quiet.blocks}): a meter that averages over time, as ACPI's does, "
            "may not have come down to the idle power yet"
        ]
    if quiet.idle:
        return []
    which = "the idle recording" if idle_recording else "the recording"
    if quiet.feature is None:
        return [
            f"{which} has no CPU time, cycles or instructions: its lowest power is an upper bound of the idle power"
        ]
    full = "the highest recorded load" if quiet.capacity is None else "the capacity of all CPUs"
    hint = "; with the machine's number of cores it could be known" if quiet.capacity is None else ""
    verdict = "is not idle" if idle_recording else "never is idle"
    return [
        f"{which} {verdict}: in its quietest blocks {quiet.feature} is {quiet.level:.4g} per second, "
        f"{quiet.part:.0%} of {full} ({IDLE_PART:.0%} would be idle); its idle power is an upper bound{hint}"
    ]


def _notes_on_unmeasured(power: Mapping[str, Mapping[str, ComponentPower]], quiet: QuietTimes) -> list[str]:
    if not quiet.idle:
        return []
    return [
        f"{source}: {component} was not measured while the machine was quiet: its idle power is an upper bound"
        for source, components in power.items()
        for component, component_power in components.items()
        if component_power.upper_bound
    ]


def _notes_on_double_counting(power: Mapping[str, Mapping[str, ComponentPower]]) -> list[str]:
    notes = []
    for source, components in power.items():
        if twice := [name for name, component_power in components.items() if component_power.counted_twice]:
            sums = ", ".join(f"{name} {components[name].idle:.1f} W" for name in twice)
            notes.append(
                f"{source}: idle and dynamic energy rise alike, so their sum counts twice: {sums}; "
                "half of that is likelier"
            )
    return notes


def _notes_on_contradictions(
    power: Mapping[str, Mapping[str, ComponentPower]], observations: Observations | None, idle: Observations | None
) -> list[str]:
    if observations is None or idle is None:
        return []
    notes = []
    for source, components in power.items():
        for component, entry in components.items():
            watts = observations.power.get((source, component))
            if watts is None or not np.isfinite(watts).any():
                continue
            lowest = float(np.nanquantile(watts, 0.01))
            if entry.idle > lowest + max(CONTRADICTION_SPREADS * entry.idle_spread, CONTRADICTION_PART * entry.idle):
                notes.append(
                    f"{source}: {component} draws {entry.idle:.1f} W in the idle recording but as little as "
                    f"{lowest:.1f} W in the other recording: another machine, or not idle"
                )
    return notes


def _rounded(watts: Any) -> float:
    return round(float(watts), 3)
