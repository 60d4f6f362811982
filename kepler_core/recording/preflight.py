"""Find out before a training which models can be trained from a recording, and why other models cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.contracts import MetricMapping
from kepler_core.plugins import registry
from kepler_core.recording.assemble import observe
from kepler_core.recording.columns import Recording
from kepler_core.recording.dead_features import reason_of_dead, split_dead
from kepler_core.recording.findings import Finding, findings
from kepler_core.recording.observations import Observations
from kepler_core.recording.parts import RecordingParts
from kepler_core.recording.schemas import SchemaUse, find_schemas
from kepler_core.vocabulary import (
    FEATURE_GROUPS,
    MIN_TIMESTAMPS,
    VM_SOURCES,
    group_features,
    is_constant,
    reduced_group,
)


@attrs.frozen
class NodeSummary:
    """Summary of one node in a recording."""

    node: str
    """Value of the node label."""
    timestamps: int
    """Number of timestamps."""
    start: float
    """The node's earliest timestamp, in Unix seconds."""
    end: float
    """The node's latest timestamp, in Unix seconds."""
    step: float
    """Median interval between two successive timestamps, in seconds; NaN if there is only one timestamp."""
    longest_interval: float
    """Longest interval between two successive timestamps, in seconds; NaN if there is only one timestamp."""
    containers: int
    """Number of containers."""


@attrs.frozen
class PowerSummary:
    """Summary of the power of one component and energy source on all nodes together."""

    source: str
    component: str
    timestamps: int
    """Number of samples in which the component's power is known."""
    lowest: float
    """Lowest power in watts."""
    median: float
    """Median of the power in watts."""
    highest: float
    """Highest power in watts."""
    constant: bool
    """Whether the power counts as constant, see `vocabulary.is_constant`."""


@attrs.frozen
class GroupSummary:
    """Report on whether models of a feature group can be trained with an energy source."""

    source: str
    feature_group: str
    trainable: bool
    timestamps: int
    """Number of samples in which all features of the group and the power of all components are known."""
    reason: str
    """Why no model of the group can be trained; empty if `trainable`."""
    missing: tuple[str, ...] = ()
    """Names of the metrics that the group needs and the recording lacks."""


@attrs.frozen
class Preflight:
    """Report on which models can be trained from a recording.

    `validate --json` prints the result of `as_dict`.
    """

    recording: str
    digest: str
    schema: str
    """Names of the recording's metric schemas, separated by commas; the schema with the most metrics comes first."""
    metrics: dict[str, int]
    """Number of samples of each metric that a schema uses, by metric name."""
    unused_metrics: dict[str, str]
    """Reasons why metrics that a schema knows are not used, by metric name."""
    other_metrics: tuple[str, ...]
    """Sorted names of the metrics that no schema knows."""
    notes: dict[str, str]
    """Notes for the user, by metric name, e.g. that an old version of Kepler used this name."""
    nodes: list[NodeSummary]
    power: list[PowerSummary]
    groups: list[GroupSummary]
    missing_sources: dict[str, str]
    """For each energy source that has no power in the recording, the reason, as a text for the user."""
    findings: tuple[Finding, ...]
    """The irregularities of the recording, the severe ones first."""

    @property
    def trainable(self) -> bool:
        """Whether models of at least one feature group can be trained with at least one energy source."""
        return any(group.trainable for group in self.groups)

    def as_dict(self) -> dict[str, Any]:
        """Return the report in a form that can be written as JSON."""
        return {**attrs.asdict(self), "trainable": self.trainable}


def check(
    recording: Recording | RecordingParts, *, use_vm_metrics: bool = False, vm_guests: Mapping[str, str] | None = None
) -> Preflight:
    """Return a report on which models can be trained from a recording.

    Raises `RecordingError` only if no installed metric schema knows any metric of the recording.
    """
    observations = observe([recording], use_vm_metrics=use_vm_metrics, vm_guests=vm_guests)
    uses = find_schemas([*recording.sample_counts, *recording.other_metrics], recording.metric_prefix)
    used = sorted(name for name in recording.sample_counts if uses.mappings(name))
    unused = {name: use.reason_unused for name, use in sorted(uses.metrics.items()) if use.reason_unused}
    missing_sources = {
        name: f"no {' or '.join(uses.spelling('node', c) for c in plugin.components[:1])} with source "
        + " or ".join(repr(value) for value in plugin.reads)
        for name, plugin in sorted(registry.energy_sources.load_all()[0].items())
        if name not in observations.sources and name not in VM_SOURCES.values()
    }
    return Preflight(
        recording=recording.name,
        digest=recording.digest,
        schema=", ".join(uses.names),
        metrics={name: recording.sample_counts[name] for name in used},
        unused_metrics=unused,
        other_metrics=tuple(sorted({*recording.other_metrics, *recording.sample_counts} - {*used, *unused})),
        notes={name: note for name in used if (note := _note(uses.mappings(name)))},
        nodes=_nodes(observations),
        power=_power(observations),
        groups=_groups(observations, uses),
        missing_sources=missing_sources,
        findings=findings(observations.counts),
    )


def _note(mappings: Sequence[MetricMapping]) -> str:
    return "; ".join(dict.fromkeys(mapping.note for mapping in mappings if mapping.note))


def _nodes(observations: Observations) -> list[NodeSummary]:
    nodes = []
    for code, stream in enumerate(observations.streams):
        of_stream = observations.sample_stream == code
        times = np.unique(observations.sample_time[of_stream])
        intervals = np.diff(times)
        containers = np.unique(observations.row_container[of_stream[observations.row_sample]])
        nodes.append(
            NodeSummary(
                node=stream.node,
                timestamps=len(times),
                start=float(times[0]),
                end=float(times[-1]),
                step=float(np.median(intervals)) if len(intervals) else float("nan"),
                longest_interval=float(intervals.max()) if len(intervals) else float("nan"),
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
                    source=source,
                    component=component,
                    timestamps=len(watts),
                    lowest=lowest,
                    median=float(np.median(watts)),
                    highest=highest,
                    constant=is_constant(lowest, highest),
                )
            )
    return summaries


def _groups(observations: Observations, uses: SchemaUse) -> list[GroupSummary]:
    summaries = []
    known_features = set(observations.features)
    for source, components in observations.sources.items():
        watts = [observations.power[source, component] for component in components]
        for group, features in FEATURE_GROUPS.items():
            unknown = [feature for feature in features if feature not in known_features]
            reduced = reduced_group(group, unknown) if unknown else None
            if reduced is not None and reduced not in FEATURE_GROUPS:
                group, features, unknown = reduced, group_features(reduced), []
            if unknown:
                dead, absent = split_dead(unknown, observations.counts)
                missing = tuple(uses.spelling("container", feature) for feature in absent)
                reasons = [f"missing: {', '.join(missing)}"] if missing else []
                if dead:
                    reasons.append(reason_of_dead([uses.spelling("container", feature) for feature in dead]))
                summaries.append(GroupSummary(source, group, False, 0, "; ".join(reasons), missing))
                continue
            columns = [*watts, *(observations.node_features[feature] for feature in features)]
            usable = int(np.count_nonzero(np.logical_and.reduce([np.isfinite(column) for column in columns])))
            reason = "" if usable >= MIN_TIMESTAMPS else f"only {usable} usable timestamps, {MIN_TIMESTAMPS} needed"
            summaries.append(GroupSummary(source, group, usable >= MIN_TIMESTAMPS, usable, reason))
    return summaries
