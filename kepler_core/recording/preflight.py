"""What can be trained from a recording, and why the rest cannot: asked before training."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import numpy as np

from kepler_core.plugins import registry
from kepler_core.recording.assemble import observe
from kepler_core.recording.columns import Recording
from kepler_core.recording.metric_mapping import find_schema, meaning_of
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import FEATURE_GROUPS, MIN_TIMESTAMPS, is_constant


@attrs.frozen
class NodeSummary:
    """One node of a recording."""

    node: str
    timestamps: int
    start: float
    """Unix seconds."""
    end: float
    step: float
    """Median seconds between timestamps."""
    longest_interval: float
    containers: int


@attrs.frozen
class PowerSummary:
    """One component of one energy source: watts over all nodes."""

    source: str
    component: str
    timestamps: int
    lowest: float
    median: float
    highest: float
    constant: bool


@attrs.frozen
class GroupSummary:
    """Whether a feature group can be trained with an energy source, or why not."""

    source: str
    feature_group: str
    trainable: bool
    timestamps: int
    reason: str
    missing: tuple[str, ...] = ()


@attrs.frozen
class Preflight:
    """The findings; `as_dict` is `validate --json`."""

    recording: str
    digest: str
    schema: str
    metrics: dict[str, int]
    """Known metric -> samples."""
    other_metrics: tuple[str, ...]
    notes: dict[str, str]
    """Metric -> what to know about it, e.g. that its name is an old one."""
    nodes: list[NodeSummary]
    power: list[PowerSummary]
    groups: list[GroupSummary]
    missing_sources: dict[str, str]
    """Energy source -> why it cannot be trained."""
    counts: dict[str, Any]

    @property
    def trainable(self) -> bool:
        return any(group.trainable for group in self.groups)

    def as_dict(self) -> dict[str, Any]:
        return {**attrs.asdict(self), "trainable": self.trainable}


def utc(seconds: float) -> str:
    """Unix seconds as a readable UTC time."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def check(recording: Recording, *, use_vm_metrics: bool = False) -> Preflight:
    """Look a recording through; `RecordingError` only where no metric of it is known."""
    observations = observe([recording], use_vm_metrics=use_vm_metrics)
    found = find_schema(recording.metrics)
    assert found is not None  # else observe has raised
    schema_name, schema = found
    meanings = {name: meaning for name in recording.metrics if (meaning := meaning_of(schema, name)) is not None}
    missing_sources = {
        name: f"no {' or '.join(schema.spelling('node', c) for c in plugin.components[:1])} with source "
        + " or ".join(repr(value) for value in plugin.reads)
        for name, plugin in sorted(registry.energy_sources.load_all()[0].items())
        if name not in observations.sources
    }
    return Preflight(
        recording=recording.name,
        digest=recording.digest,
        schema=schema_name,
        metrics={name: recording.metrics[name].n_samples for name in sorted(meanings)},
        other_metrics=tuple(sorted({*recording.other_metrics, *(recording.metrics.keys() - meanings.keys())})),
        notes={name: meaning.note for name, meaning in sorted(meanings.items()) if meaning.note},
        nodes=_nodes(observations),
        power=_power(observations),
        groups=_groups(observations, schema),
        missing_sources=missing_sources,
        counts=observations.counts.as_dict(),
    )


def _nodes(observations: Observations) -> list[NodeSummary]:
    nodes = []
    for code, stream in enumerate(observations.streams):
        mine = observations.instant_stream == code
        times = np.unique(observations.instant_time[mine])
        between = np.diff(times)
        containers = np.unique(observations.row_container[mine[observations.row_instant]])
        nodes.append(
            NodeSummary(
                node=stream.node,
                timestamps=len(times),
                start=float(times[0]),
                end=float(times[-1]),
                step=float(np.median(between)) if len(between) else float("nan"),
                longest_interval=float(between.max()) if len(between) else float("nan"),
                containers=len(containers),
            )
        )
    return nodes


def _power(observations: Observations) -> list[PowerSummary]:
    summaries = []
    for source, components in observations.sources.items():
        for component in components:
            watts = observations.power[source, component]
            watts = watts[np.isfinite(watts)]
            lowest, highest = float(watts.min()), float(watts.max())
            summaries.append(
                PowerSummary(
                    source,
                    component,
                    len(watts),
                    lowest,
                    float(np.median(watts)),
                    highest,
                    is_constant(lowest, highest),
                )
            )
    return summaries


def _groups(observations: Observations, schema: Any) -> list[GroupSummary]:
    summaries = []
    known = set(observations.features)
    for source, components in observations.sources.items():
        watts = [observations.power[source, component] for component in components]
        for group, features in FEATURE_GROUPS.items():
            missing = tuple(schema.spelling("container", f) for f in features if f not in known)
            if missing:
                summaries.append(GroupSummary(source, group, False, 0, "missing: " + ", ".join(missing), missing))
                continue
            columns = [*watts, *(observations.node_features[feature] for feature in features)]
            usable = int(np.count_nonzero(np.logical_and.reduce([np.isfinite(column) for column in columns])))
            reason = "" if usable >= MIN_TIMESTAMPS else f"only {usable} usable timestamps, {MIN_TIMESTAMPS} needed"
            summaries.append(GroupSummary(source, group, usable >= MIN_TIMESTAMPS, usable, reason))
    return summaries
