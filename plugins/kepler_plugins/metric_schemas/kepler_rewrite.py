"""The metric schema of Kepler 0.10 and later, which was rewritten in 2025.

Names, labels and meanings are those of sustainable-computing-io/kepler from tag v0.10.0 to the main branch of
August 2026 (internal/exporter/prometheus/collector).
"""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import MachineMapping, MetricMapping, MetricSchema, UnusedMetric
from kepler_core.vocabulary import RAPL_COMPONENTS

_RUNNING = ("running", "")
"""Values of the label `state` of workloads that exist. Kepler repeats the last values of terminated workloads."""
_METER = "rapl-sysfs"
"""The energy source of Kepler's zones. Kepler reads their energy from /sys/class/powercap. Kepler's metrics do not name
this energy source."""
SYSTEM_PROCESSES = "system_processes"
"""Name of the container that stands for all processes outside of containers. Kepler 0.7 uses the same name."""
_SECONDS_TO_MS = 1000.0
_PACKAGE_WRAPS_AT = 262143.328850
"""The package counter of most Intel processors starts again at 0 after this number of joules (max_energy_range_uj of
Linux' powercap).

Kepler adds up the counters of several sockets. This sum starts again at 0 after a multiple of this value, so it cannot
be corrected with this value (see `kepler_core.recording.wraps`)."""

_PSYS = UnusedMetric(
    "psys covers the whole platform on some machines and a part of it on others, and it contains the package",
    where={"zone": "psys"},
)
_WINDOW = UnusedMetric("covers only the exporter's last window, which is not the scrape interval; joules are used")
_LAGS = UnusedMetric("lags one window in all releases up to 0.11.4; the CPU seconds of processes are used instead")
_SHARE = UnusedMetric("a share of the node's energy by CPU time, so that it contains nothing that was measured")
_GPU = UnusedMetric("Kepler Core has no component for the power of GPUs")
_INFO = UnusedMetric("describes the exporter or the machine, and measures nothing")
_NOT_RUNNING = UnusedMetric("repeats the last values of workloads that have ended", where={"state": "terminated"})


def _part_of_energy(part: str) -> tuple[MetricMapping, ...]:
    """Return a mapping for each of the zones package, core, uncore and dram.

    `part` is "active" or "idle": the part of the zone's energy that the metric counts.
    """
    return tuple(
        MetricMapping("energy", zone, "node", source=_METER, where={"zone": zone}, ignored_labels=("path",), part=part)
        for zone in RAPL_COMPONENTS
    )


_RAW_ENERGY = tuple(
    MetricMapping(
        "energy",
        zone,
        "node",
        source=_METER,
        where={"zone": zone},
        ignored_labels=("path",),
        rank=1,
        wraps_at=_PACKAGE_WRAPS_AT if zone == "package" else None,
    )
    for zone in RAPL_COMPONENTS
)
_CPU_TIME_OF_PROCESSES = MetricMapping(
    "feature",
    "bpf_cpu_time_ms",
    "container",
    ("container_id",),
    scale=_SECONDS_TO_MS,
    summed_labels=("pid", "comm", "exe", "type", "vm_id"),
    rest=SYSTEM_PROCESSES,
)
"""CPU time by container, from the series of processes. These series have no label `state`, and the name of a process
(label `comm`) may change."""
_CPU_TIME_OF_CONTAINERS = MetricMapping(
    "feature",
    "bpf_cpu_time_ms",
    "container",
    ("container_id", "container_name", "pod_id"),
    scale=_SECONDS_TO_MS,
    where={"state": _RUNNING},
    ignored_labels=("runtime",),
    rank=1,
    note="does not contain the processes outside of containers",
)
_VM_ENERGY = tuple(
    MetricMapping(
        "energy",
        zone,
        "vm",
        ("vm_id",),
        source=_METER,
        where={"zone": zone, "state": _RUNNING},
        ignored_labels=("vm_name", "hypervisor"),
    )
    for zone in RAPL_COMPONENTS
)
_CPUS = MetricMapping(
    "cpus",
    "cpus",
    "node",
    ("processor",),
    counter=False,
    ignored_labels=("vendor_id", "model_name", "physical_id", "core_id"),
)
_MACHINE = (
    MachineMapping("processor", label="model_name"),
    MachineMapping("vendor", label="vendor_id"),
    MachineMapping("cores", counted_labels=("processor",)),
    MachineMapping("physical_cores", counted_labels=("physical_id", "core_id")),
    MachineMapping("chips", counted_labels=("physical_id",)),
)
"""Attributes in kepler_node_cpu_info, which has a series for each logical CPU."""
_BMC_LABELS = ("bmc_id", "chassis_id", "source_id", "power_control_id")
"""Labels of a reading of the baseboard controller. In the first releases, `source_id` was called `power_control_id`."""
_PLATFORM = (
    MetricMapping(
        "power",
        "platform",
        "node",
        _BMC_LABELS,
        source="redfish",
        ignored_labels=("source_name", "power_control_name"),
        where={"source_type": ("PowerControl", "")},
        note="the baseboard controller renews this power seldom",
    ),
    MetricMapping(
        "power",
        "platform",
        "node",
        _BMC_LABELS,
        source="redfish",
        ignored_labels=("source_name",),
        where={"source_type": "PowerSupply"},
        rank=1,
        note="the output of the power supplies does not contain the losses of the power supplies",
    ),
)

_METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    # Active and idle energy start at 0 when Kepler starts, and never wrap. Their sum is the whole energy of the zone.
    "node_cpu_active_joules_total": (*_part_of_energy("active"), _PSYS),
    "node_cpu_idle_joules_total": (*_part_of_energy("idle"), _PSYS),
    "node_cpu_joules_total": (*_RAW_ENERGY, _PSYS),
    "node_cpu_watts": (_WINDOW,),
    "node_cpu_active_watts": (_WINDOW,),
    "node_cpu_idle_watts": (_WINDOW,),
    "node_cpu_usage_ratio": (_LAGS,),
    "node_cpu_info": (_CPUS,),
    "process_cpu_seconds_total": (_CPU_TIME_OF_PROCESSES,),
    "container_cpu_seconds_total": (_CPU_TIME_OF_CONTAINERS, _NOT_RUNNING),
    "vm_cpu_joules_total": (*_VM_ENERGY, _PSYS, _NOT_RUNNING),
    "vm_cpu_watts": (_WINDOW,),
    "platform_watts": _PLATFORM,
    "build_info": (_INFO,),
    "node_gpu_info": (_INFO,),
    **{f"{level}_cpu_joules_total": (_SHARE,) for level in ("process", "container", "pod")},
    **{f"{level}_cpu_watts": (_SHARE,) for level in ("process", "container", "pod")},
    **{f"{level}_gpu_{unit}": (_GPU,) for level in ("node", "process", "container", "pod", "vm")
       for unit in ("watts", "joules_total")},
    **{f"node_gpu_{part}_{unit}": (_GPU,) for part in ("active", "idle") for unit in ("watts", "joules_total")},
}  # fmt: skip


class Kepler010(MetricSchema):
    """Schema of Kepler 0.10 and later (`kepler_node_cpu_*_joules_total`, `kepler_process_cpu_seconds_total`).

    CPU time is the only feature. The machine's name is in the label `node_name`. Kepler up to 0.11.4 writes this label
    only in Kubernetes or with the flag --kube.node-name, so the label `instance` tells nodes apart.
    """

    node_label = "instance"
    node_alias_labels = ("node_name", "node")
    container_labels = ("container_id",)
    source_label = "source"

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        begin, _, rest = metric.partition("_")
        return _METRICS.get(rest, ()) if begin == "kepler" else ()

    def machine_mappings(self, metric: str) -> Sequence[MachineMapping]:
        return _MACHINE if metric == "kepler_node_cpu_info" else ()

    def spelling(self, level: str, name: str) -> str:
        if name in RAPL_COMPONENTS:
            return "kepler_vm_cpu_joules_total" if level == "vm" else "kepler_node_cpu_joules_total"
        return {"platform": "kepler_platform_watts", "bpf_cpu_time_ms": "kepler_process_cpu_seconds_total"}.get(
            name, name
        )
