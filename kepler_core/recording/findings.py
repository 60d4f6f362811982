"""The findings of a recording: its irregularities as users see them, the severe ones first.

`Counts` counts the irregularities while a recording is observed. This module adds to each kind of irregularity its
severity, its rule, and its consequence for the data. `validate`, `train` and the metadata of models show the same list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from kepler_core.recording.counts import Counts

Severity = Literal["error", "warning", "note"]
"""error: the data cannot be true or cannot be used. warning: models may be wrong. note: models are not affected."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@attrs.frozen
class Kind:
    """A kind of irregularity."""

    severity: Severity
    what: str
    """Name of the irregularity, in the plural."""
    rule: str
    """The condition under which data counts as an irregularity of this kind."""
    consequence: str
    """What was done with the data, e.g. "left out"."""


KINDS: Mapping[str, Kind] = {
    "impossible_power": Kind(
        "error",
        "samples of power that no machine draws",
        "the power of a component is above 4,000 W (platform: 50,000 W), e.g. because the counter is in microjoules; "
        "or the median power of a busy package is below 0.1 W (platform: 0.3 W), e.g. because it is in kilojoules",
        "left out; if more than half of a component's values on a node are too high, all of them are left out; if the "
        "power is too low, all power of the energy source on the node is left out",
    ),
    "contradicting_power": Kind(
        "error",
        "samples of power that contradict each other",
        "the platform draws less than 90 % of what the package draws, or of what package and DRAM draw together, or "
        "the package less than 90 % of the core",
        "the powers are left out, and at all samples of a node if one of its meters is wrong throughout",
    ),
    "stuck_units": Kind(
        "error",
        "samples at which the energy of a socket stands still",
        "the energy of another socket of the node moves",
        "the component's power in this interval and in the next interval is left out",
    ),
    "power_jumps": Kind(
        "error",
        "jumps of power",
        "the power is more than twice the node's other values, and the usage is as usual",
        "left out",
    ),
    "usage_jumps": Kind(
        "error",
        "jumps of usage",
        "the usage is far above the node's other values, and the power is as usual",
        "left out",
    ),
    "contradictions": Kind(
        "error",
        "samples at which usage and power contradict each other",
        "the power is far from the usual power at this usage, in at most 2 % of the samples",
        "left out",
    ),
    "impossible_cpu_time": Kind(
        "error",
        "samples of more CPU time than the node has CPUs",
        "the containers use more than 1100 ms per second and CPU",
        "left out",
    ),
    "few_cycles": Kind(
        "error",
        "samples of CPU time with too few CPU cycles",
        "the CPUs have less than 20 million cycles per second of CPU time, e.g. because CPU time is in microseconds",
        "CPU time and CPU cycles are left out",
    ),
    "usage_shifts": Kind(
        "error",
        "samples of usage whose unit changes",
        "the power follows the usage before and after a time in the recording, but at this time, the watts per unit "
        "of usage change by a factor of more than 8 in the same range of power, or by a factor of more than 100",
        "left out at all times of the node",
    ),
    "mirrored_power": Kind(
        "error",
        "samples at which two components have the same power",
        "platform, package or DRAM have the same varying power in at least 95 % of the samples",
        "both powers are left out",
    ),
    "ambiguous_series": Kind(
        "error",
        "series that cannot be told apart",
        "one exporter reports several counters of the same container or socket, and their increases differ",
        "left out, with the node's sum",
    ),
    "conflicting_times": Kind(
        "error",
        "series with two values at one time",
        "at 5 % or more of the samples, two samples of a series have the same time and different values, e.g. because "
        "the clock was set back",
        "left out, with the node's sum",
    ),
    "no_counters": Kind(
        "error",
        "falls of values that are not counters",
        "the values of a node's metric fall in more than 20 % of the intervals, e.g. because a rate is recorded",
        "the metric is left out on this node; for energy, the component's power is unknown",
    ),
    "falls": Kind(
        "error",
        "falls of counters that were not reset",
        "a usage counter falls by at most a tenth of its value, and the value is more than three times its highest "
        "increase",
        "the usage in this interval and in the next interval is left out",
    ),
    "impossible_values": Kind(
        "error",
        "samples with values that no counter has",
        "the value is negative, 2^64 or more, or a meter's code for an invalid reading (2^32 - 1)",
        "left out, with the node's sum at these times",
    ),
    "unreadable": Kind(
        "error",
        "samples of counters that are too large to show their increase",
        "the rounding of the value is more than 1 % of the usual increase",
        "left out, with the node's sum at these times",
    ),
    "frozen_usage": Kind(
        "error",
        "samples at which usage stood still",
        "no usage counter of the node moved, while the node used energy; or CPU time, cycles or instructions did not "
        "move, while another one of the three showed work",
        "the usage in this interval and in the next interval is left out",
    ),
    "nodes_without_energy": Kind(
        "error",
        "nodes with usage but no energy",
        "other nodes of the recording have energy but no usage, so a machine's series may have two `instance` labels",
        "no model is trained from them; set `honor_labels: false` in the scrape configuration of Prometheus",
    ),
    "nodes_without_usage": Kind(
        "error",
        "nodes with energy but no usage",
        "other nodes of the recording have usage but no energy, so a machine's series may have two `instance` labels",
        "no model is trained from them; set `honor_labels: false` in the scrape configuration of Prometheus",
    ),
    "guests_without_vm": Kind(
        "error",
        "guests or virtual machines that are not joined",
        "usage of processes and energy of virtual machines come from different `instance` labels",
        "not trained on; name the guest and its virtual machine (`vm_guests`, or `--vm-guest INSTANCE=VM_ID`)",
    ),
    "dead_features": Kind(
        "error",
        "samples of features that measure nothing",
        "eBPF features of a node are 0 while hardware counters run, or hardware counters are 0 while CPU time is used",
        "left out",
    ),
    "idle_only": Kind(
        "error",
        "series of idle energy without dynamic energy",
        "a meter has series with mode=idle and none with mode=dynamic",
        "left out, with all series of the same component and energy source of the node",
    ),
    "not_finite": Kind("warning", "samples that are not numbers", "the value is NaN or infinite", "left out"),
    "frozen_meters": Kind(
        "warning",
        "samples at which a meter stood still",
        "all counters of an energy source, or its counters of package or DRAM, keep their values while other counters "
        "of the node move",
        "the power is left out, or spread over the time since the meter last moved if the whole meter often stands "
        "still",
    ),
    "malformed_series": Kind(
        "warning",
        "malformed series",
        "a series is null, or has no labels, no metric name or no list of samples with timestamps in Unix seconds",
        "left out; if the series is one of a node's energy counters, the power of that component is unknown",
    ),
    "missing_labels": Kind(
        "warning",
        "series without a label that identifies their node or container",
        "a series has no label `instance` or `container_id`",
        "used; the series are told apart by their other labels",
    ),
    "unmapped_series": Kind(
        "warning",
        "series with label values that the metric schema does not know",
        "no mapping of the metric is for these values, e.g. for a zone of another meter",
        "left out",
    ),
    "unknown_shares": Kind(
        "warning",
        "series that are shares of a number of CPUs that is not known",
        "the exporter reports CPU usage as a share of the machine, and no metric of the node tells its number of CPUs",
        "left out",
    ),
    "ambiguous_hosts": Kind(
        "warning",
        "node labels of an exporter that fit several nodes",
        "the host of the node label, or a label with the name of the machine, fits several nodes of another exporter",
        "the node stays separate, so that its usage and energy are not used together",
    ),
    "unknown_sources": Kind(
        "warning",
        "energy series of an unknown source",
        "no installed energy source reads the value of the label `source`",
        "left out",
    ),
    "counted_twice": Kind(
        "warning",
        "intervals in which idle and dynamic energy rise alike",
        "the increases of a meter's idle and dynamic energy differ by at most 5 % in most intervals",
        "used; the sum of idle and dynamic energy may be twice the true energy",
    ),
    "totals": Kind(
        "warning",
        "series of energy, or containers, that are the sum of other series or containers",
        "the increases of a series equal the sum over all other modes or sockets, or the usage of a container equals "
        "the sum over all other containers of the node",
        "left out, not added up",
    ),
    "dynamic_only": Kind(
        "warning",
        "series of dynamic energy without idle energy",
        "a meter has series with mode=dynamic and none with mode=idle",
        "used as the whole power",
    ),
    "duplicate_nodes": Kind(
        "note",
        "second labels of a node",
        "two `instance` labels name the same machine, or report the same container at the same time",
        "left out, not added up",
    ),
    "nodes_told_apart": Kind(
        "note",
        "nodes that share their `instance` label with another node",
        "series with other target labels (such as `cluster`) or another `exported_instance` have other counter values",
        "used as nodes of their own",
    ),
    "joined_nodes": Kind(
        "note",
        "`instance` labels of energy whose usage has another `instance` label",
        "one node has only energy, one node has only usage, and the recording has no other node",
        "used as one node",
    ),
    "duplicates": Kind(
        "note",
        "samples that a second exporter reported again",
        "two exporters report the same container, socket or mode of a node at the same time",
        "left out, not added up",
    ),
    "other_exporters": Kind(
        "note",
        "series that report the same as another exporter on the node",
        "two exporters report the same feature or the same component of an energy source",
        "left out, not added up",
    ),
    "repeated_scrapes": Kind(
        "note",
        "timestamps that repeat the previous scrape",
        "no energy counter of the node moved, while the counters moved at other times",
        "left out; rates are computed over the longer interval",
    ),
    "corrected_times": Kind(
        "note",
        "scrapes whose times were corrected",
        "the query's step does not divide the scrape interval, so that values appear at irregular times",
        "used with the times of the scrapes",
    ),
    "repeated_timestamps": Kind(
        "note", "samples at a timestamp that their series already had", "two samples have the same time", "left out"
    ),
    "incomplete": Kind(
        "note",
        "timestamps at which a sum over the node is incomplete",
        "too few containers have a rate, or a socket or mode has none",
        "the node's value is unknown at this time",
    ),
    "gaps": Kind(
        "note", "gaps", "an interval is longer than five usual steps of the node", "no rate is computed over a gap"
    ),
    "resets": Kind(
        "note",
        "counter resets",
        "a counter falls",
        "the value after the reset counts as the increase; for energy, the power of the interval is unknown",
    ),
    "wraps": Kind(
        "note",
        "counters that began at 0 again after their highest value",
        "a counter falls, and its metric schema states the highest value",
        "used: the counter is continued",
    ),
    "one_sample_series": Kind("note", "series of one sample", "a series has one sample", "not used: it has no rate"),
    "empty_series": Kind("note", "series without samples", "a series has no sample", "left out"),
}
"""Maps each field of `Counts` to a description of the irregularity that it counts. Of irregularities with equal
severity, the more important stands first."""


@attrs.frozen
class Finding:
    """An irregularity of a recording, in one metric, or in one component of an energy source."""

    kind: str
    severity: Severity
    where: str
    """A metric, a feature, or "<energy source> <component>"; empty if the irregularity concerns whole nodes."""
    count: int
    what: str
    rule: str
    consequence: str
    example: str = ""
    """A series and a time at which the irregularity occurs; empty if no example was kept."""

    def __str__(self) -> str:
        where = f" of {self.where}" if self.where else ""
        example = f", e.g. {self.example}" if self.example else ""
        return f"{self.count} {self.what}{where}{example} ({self.rule}): {self.consequence}"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return attrs.asdict(self)


def findings(counts: Counts) -> tuple[Finding, ...]:
    """Return a finding for each kind of irregularity and each key of its counter, severe findings first."""
    result = []
    for kind, description in sorted(KINDS.items(), key=lambda item: SEVERITIES.index(item[1].severity)):
        for where, count in sorted(counts.of(kind).items()):
            result.append(
                Finding(
                    kind,
                    description.severity,
                    where,
                    count,
                    description.what,
                    description.rule,
                    description.consequence,
                    counts.examples.get((kind, where), ""),
                )
            )
    return tuple(result)
