"""The metric schema of Prometheus' node_exporter: usage and power meters of a whole machine.

Names and labels are those of node_exporter 1.0 to 1.9 (collector/cpu_linux.go, cpufreq_linux.go, stat_linux.go,
vmstat_linux.go, meminfo_linux.go, diskstats_linux.go, netdev_linux.go, rapl_linux.go, hwmon_linux.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kepler_core.contracts import MachineMapping, MetricMapping, MetricSchema, UnusedMetric
from kepler_core.vocabulary import RAPL_COMPONENTS

USER_MODES = ("user", "nice")
"""Values of the label `mode` of the CPU time of programs. This time contains the time of guests (virtual machines)."""
SYSTEM_MODES = ("system", "irq", "softirq")
PACKAGE_WRAPS_AT = 262143.328850
"""The package counter of most Intel processors starts again at 0 after this number of joules (max_energy_range_uj of
Linux' powercap)."""
ACPI_METERS = tuple(
    f"{parent}_acpi000d:0{number}"
    for parent in ("lnxsybus:00", "lnxsystm:00", "device:00", "platform", "acpi")
    for number in (0, 1)
)
"""Values of the label `chip` of ACPI power meters, whose hardware id is ACPI000D. They measure the whole machine."""
_NO_METER = UnusedMetric("the sensor is no ACPI power meter: it measures a part that Kepler Core has no component for")
_PLATFORM = MetricMapping("power", "platform", "node", ("chip", "sensor"), source="acpi", where={"chip": ACPI_METERS})

_DEVICE_MAPPER = tuple(f"dm-{number}" for number in range(256))
"""Values of the label `device` of logical volumes. Their transfers are left out, because they are also transfers of the
disks below the volumes."""


def _cpu(name: str, modes: str | tuple[str, ...], **about: Any) -> MetricMapping:
    """Return a mapping that adds up the CPU time in the modes `modes` over all CPUs."""
    return MetricMapping(
        "feature", name, "node", ("cpu", "mode"), scale=about.pop("scale", 1000.0), where={"mode": modes}, **about
    )


def _of_node(name: str, *unit_labels: str, **about: Any) -> tuple[MetricMapping]:
    return (MetricMapping("feature", name, "node", unit_labels, **about),)


_METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    "node_cpu_seconds_total": (
        _cpu("bpf_cpu_time_ms", (*USER_MODES, *SYSTEM_MODES)),
        _cpu("cpu_user_ms", USER_MODES, part="programs and guests"),
        _cpu("cpu_system_ms", SYSTEM_MODES),
        _cpu("cpu_idle_ms", "idle"),
        _cpu("cpu_iowait_ms", "iowait"),
        _cpu("cpu_steal_ms", "steal"),
        MetricMapping("cpus", "cpus", "node", ("cpu",), counter=False, where={"mode": "user"}),
    ),
    "node_cpu_guest_seconds_total": (
        _cpu("cpu_guest_ms", USER_MODES),
        _cpu("cpu_user_ms", USER_MODES, scale=-1000.0, part="guests"),
    ),
    "node_cpu_scaling_frequency_hertz": _of_node(
        "cpu_scaling_frequency_hertz", "cpu", counter=False, aggregate="mean"
    ),
    "node_context_switches_total": _of_node("context_switches"),
    "node_intr_total": _of_node("interrupts"),
    "node_vmstat_pgfault": _of_node("page_faults"),
    "node_memory_MemTotal_bytes": _of_node("memory_used_bytes", counter=False, part="total"),
    "node_memory_MemAvailable_bytes": _of_node("memory_used_bytes", counter=False, part="available", scale=-1.0),
    "node_disk_read_bytes_total": _of_node("disk_read_bytes", "device", where_not={"device": _DEVICE_MAPPER}),
    "node_disk_written_bytes_total": _of_node("disk_written_bytes", "device", where_not={"device": _DEVICE_MAPPER}),
    "node_network_receive_bytes_total": _of_node("network_received_bytes", "device", where_not={"device": "lo"}),
    "node_network_transmit_bytes_total": _of_node("network_sent_bytes", "device", where_not={"device": "lo"}),
    **{
        f"node_rapl_{zone}_joules_total": (
            MetricMapping(
                "energy",
                zone,
                "node",
                ("index",),
                source="rapl-sysfs",
                ignored_labels=("path",),
                wraps_at=PACKAGE_WRAPS_AT if zone == "package" else None,
            ),
        )
        for zone in RAPL_COMPONENTS
    },
    "node_rapl_psys_joules_total": (UnusedMetric("contains the package, and on some machines the whole platform"),),
    "node_hwmon_power_average_watt": (_PLATFORM, _NO_METER),
    "node_hwmon_power_watt": (_PLATFORM, _NO_METER),
}  # fmt: skip
for _name in ("node_disk_read_bytes_total", "node_disk_written_bytes_total"):
    _METRICS[_name] += (UnusedMetric("a logical volume; the disks below it are used"),)
for _name in ("node_network_receive_bytes_total", "node_network_transmit_bytes_total"):
    _METRICS[_name] += (UnusedMetric("the loopback interface"),)

_OTHER_BEGINNINGS = (
    "node_cpu_", "node_pressure_cpu_", "node_hwmon_power_", "node_hwmon_energy_", "node_power_supply_",
    "node_softnet_cpu_",
)  # fmt: skip
_OTHERS = (UnusedMetric("describes CPUs or sensors, and is no usage, energy or power that Kepler Core knows"),)

_MACHINE: dict[str, tuple[MachineMapping, ...]] = {
    "node_cpu_info": (
        MachineMapping("processor", label="model_name"),
        MachineMapping("vendor", label="vendor"),
        MachineMapping("cores", counted_labels=("cpu",)),
        MachineMapping("physical_cores", counted_labels=("package", "core")),
        MachineMapping("chips", counted_labels=("package",)),
    ),
    "node_cpu_seconds_total": (MachineMapping("cores", counted_labels=("cpu",), where={"mode": "user"}),),
    "node_memory_MemTotal_bytes": (MachineMapping("memory", scale=2.0**-30),),
    "node_cpu_frequency_max_hertz": (MachineMapping("frequency", scale=1e-6),),
    "node_dmi_info": (MachineMapping("product", label="product_name"),),
}
"""Attributes of machines. node_exporter has node_cpu_info only with the option --collector.cpu.info."""

_SPELLINGS = {
    mapping.name: metric
    for metric, mappings in reversed(_METRICS.items())
    for mapping in mappings
    if isinstance(mapping, MetricMapping) and mapping.scale > 0
}


class NodeExporter(MetricSchema):
    """Schema of node_exporter: usage of a node (CPU, memory, disks, network), RAPL counters and ACPI power meters.

    With these metrics alone, models of the feature group CPUTime can be trained. For the RAPL counters, node_exporter
    needs the permission to read /sys/class/powercap, and the option --collector.rapl, which is set by default.
    """

    node_label = "instance"
    node_alias_labels = ("node", "nodename", "kubernetes_node")
    container_labels = ("container_id",)

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        return _METRICS.get(metric) or (_OTHERS if metric.startswith(_OTHER_BEGINNINGS) else ())

    def machine_mappings(self, metric: str) -> Sequence[MachineMapping]:
        return _MACHINE.get(metric, ())

    def spelling(self, level: str, name: str) -> str:
        return _SPELLINGS.get(name, name)
