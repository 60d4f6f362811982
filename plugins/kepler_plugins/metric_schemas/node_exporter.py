"""The metric schema of Prometheus' node_exporter: CPU time, CPU frequency and power meters of a whole machine.

Names and labels are those of node_exporter 1.0 to 1.9 (collector/cpu_linux.go, cpufreq_linux.go, rapl_linux.go,
hwmon_linux.go).
"""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import MetricMapping, MetricSchema, UnusedMetric
from kepler_core.vocabulary import RAPL_COMPONENTS

BUSY_MODES = ("user", "nice", "system", "irq", "softirq")
"""Values of the label `mode` in which a CPU works. The time of guests is part of user and nice."""
_IDLE_MODES = ("idle", "iowait", "steal")
PACKAGE_WRAPS_AT = 262143.328850
"""Joules after which the package counter of most Intel processors begins at 0 (max_energy_range_uj of powercap)."""
ACPI_METERS = tuple(
    f"{parent}_acpi000d:0{number}"
    for parent in ("lnxsybus:00", "lnxsystm:00", "device:00", "platform", "acpi")
    for number in (0, 1)
)
"""Values of the label `chip` of an ACPI power meter, whose hardware id is ACPI000D. It measures the whole machine."""
_NO_METER = UnusedMetric("the sensor is no ACPI power meter: it measures a part that Kepler Core has no component for")
_PLATFORM = MetricMapping("power", "platform", "node", ("chip", "sensor"), source="acpi", where={"chip": ACPI_METERS})

_METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    "node_cpu_seconds_total": (
        MetricMapping(
            "feature", "bpf_cpu_time_ms", "node", ("cpu", "mode"), scale=1000.0, where={"mode": BUSY_MODES}
        ),
        MetricMapping("cpus", "cpus", "node", ("cpu",), counter=False, where={"mode": "user"}),
        UnusedMetric("the CPU does not work", where={"mode": _IDLE_MODES}),
    ),
    "node_cpu_guest_seconds_total": (UnusedMetric("already part of the modes user and nice"),),
    "node_cpu_scaling_frequency_hertz": (
        MetricMapping(
            "feature", "cpu_scaling_frequency_hertz", "node", ("cpu",), counter=False, aggregate="mean"
        ),
    ),
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

_SPELLINGS = {
    "bpf_cpu_time_ms": "node_cpu_seconds_total",
    "cpu_scaling_frequency_hertz": "node_cpu_scaling_frequency_hertz",
    "platform": "node_hwmon_power_average_watt",
    **{zone: f"node_rapl_{zone}_joules_total" for zone in RAPL_COMPONENTS},
}


class NodeExporter(MetricSchema):
    """Schema of node_exporter: CPU time and frequency of a node, RAPL counters and ACPI power meters.

    With these metrics alone, models of the feature group CPUTime can be trained. node_exporter needs the permission to
    read /sys/class/powercap, and the option --collector.rapl, which is set by default.
    """

    node_label = "instance"
    node_alias_labels = ("node", "nodename", "kubernetes_node")
    container_labels = ("container_id",)

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        return _METRICS.get(metric, ())

    def spelling(self, level: str, name: str) -> str:
        return _SPELLINGS.get(name, name)
