"""Recordings to a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kepler_core.containers import workload
from kepler_core.recording.observations import Observations
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
from kepler_profiler.profile.quiet import GAP_STEPS, IDLE_PART, QuietTimes, load_of, quiet_times

SIGMAS = 4.0
"""A measured power below the idle power by more than this many spreads contradicts it."""


def build_profile(
    observations: Observations | None,
    idle: Observations | None = None,
    *,
    machine_spec: Mapping[str, Any] | None = None,
    node_type: int | None = None,
) -> NodeProfile:
    """The profile of the machine that the recordings are of.

    Idle power is that of the quietest blocks of `idle` where it is given, else of `observations`.
    `ProfileError` where there is no power at all.
    """
    spec = dict(machine_spec or {})
    parts = [part for part in (observations, idle) if part is not None]
    quiet_in = idle if idle is not None else observations
    if quiet_in is None:
        raise ProfileError("no recording given")
    quiet = quiet_times(quiet_in, spec, _highest_load(observations) if idle is not None else None)
    power = _power(parts, quiet_in, quiet)
    if not power:
        raise ProfileError("no power of any energy source in the recordings")
    profile = NodeProfile(
        layout=LAYOUT_VERSION,
        machine_spec=spec,
        power=power,
        quiet=Quiet(
            quiet.feature, quiet.level, quiet.highest, quiet.capacity, quiet.blocks, quiet.block_steps, quiet.idle
        ),
        features=_features(parts),
        feature_groups={},
        recordings=[recorded for part in parts for recorded in _recorded(part, part is idle)],
        background=[] if idle is None else sorted({workload(name) for name in idle.container_names}),
        notes=_notes(quiet, idle is not None) + _unmeasured(power, quiet) + _contradictions(power, observations, idle),
        node_type=node_type,
    )
    for group, features in FEATURE_GROUPS.items():
        if all(feature in profile.features for feature in features):
            profile.feature_groups[group] = list(features)
    return profile


def _highest_load(observations: Observations | None) -> float | None:
    found = None if observations is None else load_of(observations)
    return None if found is None or not np.isfinite(found[1]).any() else float(np.nanmax(found[1]))


def _power(
    parts: list[Observations], quiet_in: Observations, quiet: QuietTimes
) -> dict[str, dict[str, ComponentPower]]:
    found: dict[str, dict[str, ComponentPower]] = {}
    for source, components in quiet_in.sources.items():
        for component in components:
            watts = quiet_in.power[source, component]
            here = watts[quiet.instants & np.isfinite(watts)]
            # one that was not measured while the machine was quiet: what it drew at other times
            seen_quiet = len(here) > 0
            if not seen_quiet:
                here = watts[np.isfinite(watts)]
            low, middle, high = np.quantile(here, (0.25, 0.5, 0.75))
            columns = [part.power[source, component] for part in parts if (source, component) in part.power]
            every = np.concatenate([column[np.isfinite(column)] for column in columns])
            found.setdefault(source, {})[component] = ComponentPower(
                idle=_rounded(middle),
                idle_spread=_rounded((high - low) / 2),
                idle_samples=len(here),
                maximum=_rounded(every.max()),
                samples=len(every),
                upper_bound=not (quiet.idle and seen_quiet),
                counted_twice=any(part.counts.counted_twice[f"{source} {component}"] > 0 for part in parts),
            )
    return found


def _features(parts: list[Observations]) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for name in sorted({feature for part in parts for feature in part.features}):
        columns = [part.node_features[name] for part in parts if name in part.node_features]
        values = np.concatenate([column[np.isfinite(column)] for column in columns])
        found[name] = Range(
            lowest=float(values.min()),
            median=float(np.median(values)),
            highest=float(values.max()),
            scale=float(np.abs(values).max()) or 1.0,
            samples=len(values),
        )
    return found


def _recorded(observations: Observations, idle: bool) -> list[Recorded]:
    found = []
    for code, stream in enumerate(observations.streams):
        times = np.unique(observations.sample_time[observations.sample_stream == code])
        between = np.diff(times)
        step = float(np.median(between)) if len(between) else 0.0
        gaps = int(np.count_nonzero(between > GAP_STEPS * step))
        found.append(
            Recorded(stream.recording, stream.node, float(times[0]), float(times[-1]), len(times), step, gaps, idle)
        )
    return found


def _notes(quiet: QuietTimes, given: bool) -> list[str]:
    if quiet.idle and quiet.block_steps == 1:
        return [
            f"quiet for single intervals only ({quiet.blocks}): a meter that averages over time, as ACPI's does, "
            "may not have come down to the idle power yet"
        ]
    if quiet.idle:
        return []
    which = "the idle recording" if given else "the recording"
    if quiet.feature is None:
        return [
            f"{which} has no CPU time, cycles or instructions: its lowest power is an upper bound of the idle power"
        ]
    of = "the highest that was seen" if quiet.capacity is None else "the capacity of all CPUs"
    hint = "; with the machine's number of cores it could be known" if quiet.capacity is None else ""
    verdict = "is not idle" if given else "never is idle"
    return [
        f"{which} {verdict}: in its quietest blocks {quiet.feature} is {quiet.level:.4g} per second, "
        f"{quiet.part:.0%} of {of} ({IDLE_PART:.0%} would be idle); its idle power is an upper bound{hint}"
    ]


def _unmeasured(power: Mapping[str, Mapping[str, ComponentPower]], quiet: QuietTimes) -> list[str]:
    if not quiet.idle:
        return []
    return [
        f"{source}: {component} was not measured while the machine was quiet: its idle power is an upper bound"
        for source, components in power.items()
        for component, found in components.items()
        if found.upper_bound
    ]


def _contradictions(
    power: Mapping[str, Mapping[str, ComponentPower]], observations: Observations | None, idle: Observations | None
) -> list[str]:
    notes = []
    for source, components in power.items():
        twice = [name for name, found in components.items() if found.counted_twice]
        if twice:
            figures = ", ".join(f"{name} {components[name].idle:.1f} W" for name in twice)
            notes.append(
                f"{source}: idle and dynamic energy rise alike, so their sum counts twice: {figures}; "
                "half of that is likelier"
            )
        if observations is None or idle is None:
            continue
        for component, found in components.items():
            watts = observations.power.get((source, component))
            if watts is None or not np.isfinite(watts).any():
                continue
            lowest = float(np.nanquantile(watts, 0.01))
            if found.idle > lowest + max(SIGMAS * found.idle_spread, 0.05 * found.idle):
                notes.append(
                    f"{source}: {component} draws {found.idle:.1f} W in the idle recording but as little as "
                    f"{lowest:.1f} W in the other one: another machine, or not idle"
                )
    return notes


def _rounded(watts: Any) -> float:
    return round(float(watts), 3)
