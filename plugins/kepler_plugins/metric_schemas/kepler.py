"""The metric schema of Kepler 0.4 to 0.9. It knows the metric names that came with Kepler 0.7, and the older names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from kepler_core.contracts import MachineMapping, MetricMapping, MetricSchema
from kepler_core.errors import PluginError
from kepler_core.messages import quoted
from kepler_core.vocabulary import (
    BPF_FEATURES,
    COUNTER_FEATURES,
    IRQ_FEATURES,
    PLATFORM_COMPONENTS,
    RAPL_COMPONENTS,
    UNGROUPED_FEATURES,
)

_CONTAINER_LABELS = ("container_id", "container_namespace", "pod_name", "container_name")
_PROCESS_LABELS = ("pid", "container_id", "command")

_COUNTED = (*COUNTER_FEATURES, *BPF_FEATURES, *IRQ_FEATURES, *UNGROUPED_FEATURES)

_SAMPLE_PERIOD_SECONDS = 3.0
"""Default interval at which Kepler reads its sensors (`SAMPLE_PERIOD_SEC`)."""

# The current names of features (since Kepler 0.7), by their older names. Counters with the old suffix "us"
# (microseconds) counted milliseconds.
_OLD_FEATURES = {
    "cpu_cpu_time_us": "bpf_cpu_time_ms",
    "cpu_time_us": "bpf_cpu_time_ms",
    "bpf_cpu_time_us": "bpf_cpu_time_ms",
    "irq_block": "bpf_block_irq",
    "irq_net_rx": "bpf_net_rx_irq",
    "irq_net_tx": "bpf_net_tx_irq",
}

PREFIX = "kepler"
"""First word of the names of Kepler's metrics."""
_PREFIX = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_NAME = re.compile(r"(container|process|node|vm)_(.+)")
_JOULES = re.compile(r"(package|core|uncore|dram|platform)_joules(?:_total)?")


@lru_cache(maxsize=1024)
def _mapping(name: str) -> MetricMapping | None:
    """Return the mapping of a metric; `name` is the metric's name without the prefix "kepler_"."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    level, rest = match.groups()
    if level in ("container", "process"):
        return _usage_mapping(level, rest)
    if joules := _JOULES.fullmatch(rest):
        component = joules[1]
        source = "rapl-sysfs" if component in RAPL_COMPONENTS else "acpi"
        if level == "vm":
            return MetricMapping("energy", component, "vm", ("vm_id", "mode"), source=source)
        return MetricMapping("energy", component, "node", ("package", "mode"), source=source)
    if level == "node":
        return _NODE.get(rest)
    return None


def _usage_mapping(level: str, rest: str) -> MetricMapping | None:
    """Return the mapping of a usage counter of containers or processes; None if the counter is unknown.

    `level` is "container" or "process". `rest` is the metric's name without its beginning "kepler_<level>_".
    """
    name = rest.removesuffix("_total")
    feature = _OLD_FEATURES.get(name, name)
    if feature not in _COUNTED or (name == feature and not rest.endswith("_total")):
        return None
    note = ""
    if name.endswith("_us"):
        note = "an old name: counts milliseconds, although its name says us"
    elif name != feature:
        note = f"an old name of {feature}"
    if level == "container":
        return MetricMapping("feature", feature, "container", _CONTAINER_LABELS, note=note)
    return MetricMapping("feature", feature, "process", _PROCESS_LABELS, note=note)


_NODE = {
    "accelerator_intel_qat": MetricMapping("feature", "accelerator_intel_qat", "node", ("type", "device", "qatDevID")),
    "accelerator_intel_qat_total": MetricMapping(
        "feature", "accelerator_intel_qat", "node", ("type", "device", "qatDevID")
    ),
    "cpu_scaling_frequency_hertz": MetricMapping(
        "feature", "cpu_scaling_frequency_hertz", "node", ("cpu",), counter=False, aggregate="mean"
    ),
    # Kepler adds the CPU's frequency in kHz to this counter whenever it reads its sensors
    "avg_cpu_frequency_total": MetricMapping(
        "feature",
        "cpu_scaling_frequency_hertz",
        "node",
        ("device",),
        scale=1000.0 * _SAMPLE_PERIOD_SECONDS,
        aggregate="mean",
        note="a sum of kilohertz, converted to hertz for Kepler's default SAMPLE_PERIOD_SEC of 3",
    ),
    "info": MetricMapping("feature", "node_info", "node", counter=False, aggregate="mean"),
    "node_info": MetricMapping(
        "feature", "node_info", "node", counter=False, aggregate="mean", note="the name before Kepler 0.5.5"
    ),
}


class Kepler07(MetricSchema):
    """Schema of Kepler 0.7 (`kepler_container_*_total`, `kepler_node_*_joules_total`) and of older metric names.

    `prefix` is the first word of all metric names. Some exporters report Kepler's metrics with another first word than
    "kepler".
    """

    node_label = "instance"
    node_alias_labels = ("exported_instance",)
    container_labels = _CONTAINER_LABELS
    source_label = "source"
    mode_label = "mode"

    def __init__(self, prefix: str = PREFIX) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise PluginError(f"{quoted(prefix)} cannot begin the name of a metric", path=("prefix",))
        self._begin = prefix.removesuffix("_") + "_"

    def mappings(self, metric: str) -> Sequence[MetricMapping]:
        mapping = _mapping(metric.removeprefix(self._begin)) if metric.startswith(self._begin) else None
        return () if mapping is None else (mapping,)

    def machine_mappings(self, metric: str) -> Sequence[MachineMapping]:
        is_info = metric in (f"{self._begin}node_info", f"{self._begin}node_node_info")
        return (MachineMapping("architecture", label="cpu_architecture"),) if is_info else ()

    def spelling(self, level: str, name: str) -> str:
        if name in (*RAPL_COMPONENTS, *PLATFORM_COMPONENTS):
            return f"{self._begin}node_{name}_joules_total"
        if name == "cpu_scaling_frequency_hertz":
            return f"{self._begin}node_cpu_scaling_frequency_hertz"
        if name == "node_info":
            return f"{self._begin}node_info"
        if name == "accelerator_intel_qat":
            return f"{self._begin}node_accelerator_intel_qat"
        if name not in _COUNTED:
            return name
        return f"{self._begin}{level if level in ('container', 'process') else 'container'}_{name}_total"
