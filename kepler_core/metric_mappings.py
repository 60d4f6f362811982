"""What a metric schema states about a metric: the feature or component that its series measure, or why they are unused.

A metric may need several mappings, each for some values of its labels: the label `zone` of one energy metric
can stand for the components package and DRAM. `kepler_core.contracts.MetricSchema` returns the mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import attrs


def _values_by_label(where: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {label: (values,) if isinstance(values, str) else tuple(values) for label, values in where.items()}


def _selects(where: Mapping[str, tuple[str, ...]], labels: Mapping[str, str]) -> bool:
    return all(labels.get(label, "") in values for label, values in where.items())


@attrs.frozen
class MetricMapping:
    """The feature or component that series of a metric measure, and how their values are combined."""

    kind: Literal["feature", "energy", "power", "cpus"]
    """What the series measure. "feature": the feature `name`. "energy": the energy of the component `name`, as a
    counter of joules. "power": the power of the component `name`, as a gauge of watts. "cpus": no value; each unit of
    the node (see `unit_labels`) is one of the node's logical CPUs, and `name` is "cpus"."""
    name: str
    """Name of a feature or component from `kepler_core.vocabulary`; "cpus" for the kind "cpus"."""
    level: Literal["container", "process", "vm", "node"]
    """Whether each series of the metric belongs to a container, a process, a virtual machine or a node."""
    unit_labels: tuple[str, ...] = ()
    """Labels that distinguish the units of a node, e.g. its containers, or its CPU packages in the mode "idle" or
    "dynamic". The attribute `aggregate` tells how the units' values become the node's value. If two series of a node
    have the same unit, the same `summed_labels` and the same time, one of the two series is left out."""
    share_of: Literal["cpus"] | None = attrs.field(default=None, kw_only=True)
    """"cpus": the metric is a share of the node's CPUs. Its values, multiplied by `scale`, are fractions (0 to 1) of
    the time of all logical CPUs of the node. From them, Kepler Core computes the feature: CPU time in milliseconds per
    second. The number of CPUs comes from a metric of the kind "cpus" of any exporter on the node. None: the metric is
    not a share."""
    counter: bool = attrs.field()
    """Whether the metric is a counter, which is used as a rate per second. Default: True, except for power and for
    shares (`share_of`)."""
    scale: float = 1.0
    """Factor that converts the metric's unit to the unit that `kepler_core.vocabulary` defines.

    A metric can be a negative `part` of a feature: its factor is below 0, e.g. for available memory, which is
    subtracted from all memory."""
    aggregate: Literal["sum", "mean"] = "sum"
    """How the values of several units (see `unit_labels`) become the node's value."""
    source: str | None = None
    """Name of the energy source of series that have no source label. If it is None, such series are not used."""
    note: str = ""
    """A remark for the user, for example that newer exporters use another name for the metric."""
    where: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_values_by_label, kw_only=True)
    """Selects the series to which this mapping applies: maps labels to the value, or the values, of these series. A
    missing label has the value "". Empty: the mapping applies to all series of the metric."""
    where_not: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_values_by_label, kw_only=True)
    """Excludes series from this mapping: maps labels to the value, or the values, of these series. For example,
    {"container": ""} excludes series that are sums over several containers."""
    summed_labels: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    """Labels that split a node or container into parts, e.g. `pid` for the processes of a container. The values of
    series that differ only in these labels are added up."""
    ignored_labels: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    """Labels of the exporter that distinguish neither machines nor units of a machine. An example is the path of a
    meter's file, which may change when a machine restarts."""
    part: str = attrs.field(default="", kw_only=True)
    """Name of a part, if the series measure only a part of the feature or component. Kepler Core adds up all parts,
    e.g. active and idle energy, or user and system CPU time. The sum is known only where all parts are known."""
    rank: int = attrs.field(default=0, kw_only=True)
    """If several metrics measure the same feature or component, Kepler Core uses the metric with the lowest rank
    wherever its value is known."""
    wraps_at: float | None = attrs.field(default=None, kw_only=True)
    """The value at which the counter begins at 0 again, in the metric's unit. None: the counter never falls back to 0,
    or the value is not known. If a counter of energy falls and this value is not known, the interval is left out."""
    rest: str = attrs.field(default="", kw_only=True)
    """Name of the unit to which series without any of `unit_labels` belong, e.g. a name for the processes outside of
    containers. If the name is empty, such series count as irregular, because a label is missing."""

    @counter.default
    def _is_counter(self) -> bool:
        return self.kind != "power" and self.share_of is None

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether this mapping applies to a series with these labels."""
        excluded = any(labels.get(label, "") in values for label, values in self.where_not.items())
        return not excluded and _selects(self.where, labels)


MachineAttribute = Literal[
    "processor", "architecture", "vendor", "cores", "physical_cores", "chips", "memory", "frequency", "product"
]
MACHINE_ATTRIBUTES: tuple[MachineAttribute, ...] = get_args(MachineAttribute)
"""The attributes of machines that a metric may state."""


@attrs.frozen
class MachineMapping:
    """An attribute of a node's machine that series of a metric state, e.g. the name of the processor.

    The attribute is the value of a label (`label`), a number of series (`counted_labels`), or the value of the metric.
    """

    attribute: MachineAttribute
    """Name of the attribute. "cores" are logical CPUs. "chips" are CPU sockets. "memory" is in GiB. "frequency" is the
    highest frequency of the CPUs in MHz. "architecture" is the microarchitecture, which is used if the processor is not
    known. "product" is the name of the computer."""
    label: str = ""
    """Label whose value is the attribute. Empty: no label has the attribute."""
    counted_labels: tuple[str, ...] = ()
    """The attribute is the number of different combinations of values that these labels have on the node."""
    scale: float = 1.0
    """Factor that converts the value of the metric to the unit of the attribute."""
    where: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_values_by_label, kw_only=True)
    """Label -> the value, or the values, of the series that state the attribute. Empty: all series of the metric."""

    @property
    def is_value(self) -> bool:
        """Whether the attribute is the value of the metric."""
        return not self.label and not self.counted_labels

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels states the attribute."""
        return _selects(self.where, labels)


@attrs.frozen
class UnusedMetric:
    """Statement that a schema knows series of a metric, and that Kepler Core does not use them."""

    reason: str
    """Why the series are not used, in one sentence for the user, e.g. "covers only the last window of the exporter"."""
    where: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_values_by_label, kw_only=True)
    """Selects the series that are not used: maps labels to the value, or the values, of these series. Empty: no
    series of the metric is used."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels is one of the unused series."""
        return _selects(self.where, labels)
