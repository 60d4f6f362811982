"""The numbers of irregularities that were found in recordings."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs


@attrs.define
class Counts:
    """Counts of irregularities in recordings, and of the samples and series left out because of them.

    The keys of a `Counter` are metric names, unless the docstring of the field names other keys.
    """

    not_finite: Counter[str] = attrs.field(factory=Counter)
    """Number of samples that were left out because their value is NaN or infinite."""
    repeated_timestamps: Counter[str] = attrs.field(factory=Counter)
    """Number of samples that were left out because their series already has a sample at that timestamp."""
    malformed_series: Counter[str] = attrs.field(factory=Counter)
    """Number of series that were left out because they cannot be read."""
    empty_series: Counter[str] = attrs.field(factory=Counter)
    """Number of series without samples."""
    one_sample_series: Counter[str] = attrs.field(factory=Counter)
    """Number of series with a single sample, from which no rate can be calculated."""
    missing_labels: Counter[str] = attrs.field(factory=Counter)
    """Number of series without a label that should identify their node or container; keys are "<metric> <label>"."""
    unmapped_series: Counter[str] = attrs.field(factory=Counter)
    """Number of series left out because the metric schema does not say what they measure, e.g. because of an unknown
    zone."""
    unknown_shares: Counter[str] = attrs.field(factory=Counter)
    """Number of series left out because they are fractions of a node's CPUs, but the number of CPUs is not known."""
    other_exporters: Counter[str] = attrs.field(factory=Counter)
    """Number of series left out because another exporter on the node reports the same quantity."""
    ambiguous_hosts: Counter[str] = attrs.field(factory=Counter)
    """Number of node labels that fit several nodes of another exporter, so that the machine is unknown; keys are the
    labels."""
    wraps: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which a counter began at 0 again after its highest value."""
    gaps: Counter[str] = attrs.field(factory=Counter)
    """Number of intervals between samples that are too long to calculate a rate (`rates.GAP_FACTOR`)."""
    resets: Counter[str] = attrs.field(factory=Counter)
    """Number of samples whose value is lower than the counter's previous value."""
    duplicates: Counter[str] = attrs.field(factory=Counter)
    """Number of samples left out because another series has a sample of the same quantity at the same time."""
    duplicate_nodes: Counter[str] = attrs.field(factory=Counter)
    """Number of node labels left out because another label of the machine is used; keys are the labels left out."""
    nodes_told_apart: Counter[str] = attrs.field(factory=Counter)
    """Number of nodes that share their node label with another machine; keys are the names that the nodes get."""
    joined_nodes: Counter[str] = attrs.field(factory=Counter)
    """Number of node labels whose energy was joined with the usage of another node label.

    Keys are the node labels of the energy.
    """
    nodes_without_energy: Counter[str] = attrs.field(factory=Counter)
    """By node label: number of nodes with usage only, in recordings that also have nodes with energy only."""
    nodes_without_usage: Counter[str] = attrs.field(factory=Counter)
    """By node label: number of nodes with energy only, in recordings that also have nodes with usage only."""
    guests_without_vm: Counter[str] = attrs.field(factory=Counter)
    """Number of guests for which no virtual machine is known, and of virtual machines for which no guest is known.

    Keys are node labels of guests, and ids of virtual machines.
    """
    unknown_sources: Counter[str] = attrs.field(factory=Counter)
    """Number of energy series left out because no energy source reads their source label; keys are source labels."""
    repeated_scrapes: Counter[str] = attrs.field(factory=Counter)
    """Number of timestamps left out because no energy counter of the node had moved; keys are node labels.

    At such a timestamp the Prometheus server repeated the values of the previous scrape.
    """
    counted_twice: Counter[str] = attrs.field(factory=Counter)
    """Number of intervals in which idle and dynamic energy rise alike; keys are "<source label> <component>"."""
    dynamic_only: Counter[str] = attrs.field(factory=Counter)
    """Number of dynamic energy series without an idle energy series; keys are "<source label> <component>"."""
    idle_only: Counter[str] = attrs.field(factory=Counter)
    """Number of idle energy series without a dynamic energy series; keys are "<source label> <component>"."""
    ambiguous_series: Counter[str] = attrs.field(factory=Counter)
    """Number of series that seem to be copies of another series of the exporter, but rise by other amounts.

    Both series have the same node, container (or socket) and energy source.
    """
    conflicting_times: Counter[str] = attrs.field(factory=Counter)
    """Number of series that have two different values at many timestamps."""
    no_counters: Counter[str] = attrs.field(factory=Counter)
    """For each metric whose values fall too often for a counter: number of intervals in which a value falls."""
    falls: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which a usage counter falls, but not to a value near 0. So the counter was not reset."""
    totals: Counter[str] = attrs.field(factory=Counter)
    """Number of energy series or containers left out because each of them is a sum of other series or containers.

    Keys are the metric names of the energy series, and "containers" for containers.
    """
    mirrored_power: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which two components have the same power; keys are "<energy source> <component>"."""
    few_cycles: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which the CPUs have too few cycles for their CPU time; keys are features."""
    usage_shifts: Counter[str] = attrs.field(factory=Counter)
    """Number of samples left out because the unit of the usage changes in the recording; keys are features."""
    incomplete: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which the node's sum is unknown, because too few of its series have a value.

    This includes times at which a container's series has no sample, though it has samples before and after.

    Keys are features, or "<energy source> <component>" for power.
    """

    power_jumps: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which the power jumps far above its other values, but the usage does not.

    Keys are "<energy source> <component>".
    """
    usage_jumps: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which the usage jumps far above its other values, but the power does not.

    Keys are features.
    """
    contradictions: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which usage and power contradict each other.

    Keys are features, or "<energy source> <component>" if the power contradicts all kinds of usage.
    """
    impossible_power: Counter[str] = attrs.field(factory=Counter)
    """Number of samples with more power than `screening.CEILING_WATTS`; keys are "<energy source> <component>"."""
    contradicting_power: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which the platform draws less than the package, or the package draws less than the core.

    Keys are "<energy source> <component>".
    """
    impossible_cpu_time: Counter[str] = attrs.field(factory=Counter)
    """Number of samples with more CPU time than the CPUs of the node can provide; keys are features."""
    frozen_usage: Counter[str] = attrs.field(factory=Counter)
    """Number of samples left out because no usage counter of the node moved; keys are features.

    The sample after such a sample is left out and counted, too.
    """
    stuck_units: Counter[str] = attrs.field(factory=Counter)
    """Number of samples at which a socket's energy stands still while another socket's energy moves.

    The sample after such a sample is counted, too. Keys are "<energy source> <component>".
    """
    unreadable: Counter[str] = attrs.field(factory=Counter)
    """Number of samples whose value is so large that its rounding hides the increase of the counter."""
    impossible_values: Counter[str] = attrs.field(factory=Counter)
    """Number of samples with impossible values: negative values, values of 2^64 and above, error codes of meters."""
    corrected_times: Counter[str] = attrs.field(factory=Counter)
    """Number of scrapes whose times were corrected, because the scrape interval is no multiple of the query's step.

    Keys are node labels.
    """
    frozen_meters: Counter[str] = attrs.field(factory=Counter)
    """Number of samples left out because the meter stood still or lost energy.

    Keys are "<energy source> <component>".
    """
    dead_features: Counter[str] = attrs.field(factory=Counter)
    """Number of samples of features that are always 0 on a node although its CPUs run; keys are features."""
    examples: dict[tuple[str, str], str] = attrs.field(factory=dict)
    """Examples for messages: one series and time for each kind of irregularity and key of its counter."""

    def count(self, kind: str, key: str, number: int, example: str = "") -> None:
        """Add `number` to the counter `kind` under `key`. If the key has no example yet, keep `example`."""
        if number > 0:
            counter: Counter[str] = getattr(self, kind)
            counter[key] += number
            if example:
                self.examples.setdefault((kind, key), example)

    def of(self, kind: str) -> Counter[str]:
        """Return the counts of one kind of irregularity, by key. Counts of 0 are left out."""
        counter: Counter[str] = getattr(self, kind)
        return +counter

    def as_dict(self) -> dict[str, Any]:
        """Return all counts that are above 0, in a form that can be written as JSON."""
        return {kind: dict(counts) for kind in KIND_NAMES if (counts := self.of(kind))}

    def add(self, other: Counts) -> None:
        """Add the counts of another recording."""
        for kind in KIND_NAMES:
            getattr(self, kind).update(getattr(other, kind))
        self.examples = {**other.examples, **self.examples}


KIND_NAMES = tuple(field.name for field in attrs.fields(Counts) if field.name != "examples")
"""Names of the fields that count irregularities."""
