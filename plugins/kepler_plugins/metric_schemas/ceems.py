"""The metric schema of the CEEMS exporter, which monitors jobs of SLURM, virtual machines of OpenStack and pods.

Names and labels are those of ceems-dev/ceems 0.4 and later (website/docs/usage/ceems-exporter.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import MetricMapping, MetricSchema, UnusedMetric

_BUSY_MODES = ("user", "nice", "system", "irq", "softirq")
_UNIT_LABELS = ("uuid", "manager", "project", "user")
_PART = UnusedMetric("a statistic of ceems_ipmi_dcmi_current_watts")


def _cpu_time(part: str) -> tuple[MetricMapping, ...]:
    """Return the mapping of one part of the CPU time of jobs: the time in user mode or in system mode."""
    return (
        MetricMapping(
            "feature",
            "bpf_cpu_time_ms",
            "container",
            _UNIT_LABELS,
            scale=1000.0,
            ignored_labels=("hostname",),
            part=part,
            note="does not contain the processes outside of jobs",
        ),
    )


def _energy(component: str, wraps_at: float | None) -> tuple[MetricMapping, ...]:
    return (
        MetricMapping(
            "energy",
            component,
            "node",
            ("index",),
            source="rapl-sysfs",
            ignored_labels=("path", "hostname"),
            wraps_at=wraps_at,
        ),
    )


_METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    "ceems_compute_unit_cpu_user_seconds_total": _cpu_time("user"),
    "ceems_compute_unit_cpu_system_seconds_total": _cpu_time("system"),
    "ceems_compute_unit_cpus": (UnusedMetric("the CPUs that a job has reserved, not what the job uses"),),
    "ceems_cpu_seconds_total": (
        MetricMapping(
            "feature",
            "bpf_cpu_time_ms",
            "node",
            ("mode",),
            scale=1000.0,
            where={"mode": _BUSY_MODES},
            ignored_labels=("hostname",),
        ),
        UnusedMetric("the CPU does not work", where={"mode": ("idle", "iowait", "steal")}),
    ),
    "ceems_cpu_count": (UnusedMetric("a constant of the machine"),),
    "ceems_cpu_per_core_count": (UnusedMetric("a constant of the machine"),),
    # The package counter of most Intel processors starts again at 0 after this number of joules (max_energy_range_uj of
    # Linux' powercap).
    "ceems_rapl_package_joules_total": _energy("package", 262143.328850),
    "ceems_rapl_dram_joules_total": _energy("dram", None),
    # the power of the whole machine, measured by the baseboard controller
    "ceems_ipmi_dcmi_current_watts": (
        MetricMapping("power", "platform", "node", source="acpi", ignored_labels=("hostname",)),
    ),
    "ceems_redfish_current_watts": (
        MetricMapping("power", "platform", "node", ("chassis",), source="redfish", ignored_labels=("hostname",)),
    ),
    **{f"ceems_ipmi_dcmi_{kind}_watts": (_PART,) for kind in ("avg", "max", "min")},
}

_SPELLINGS = {
    "bpf_cpu_time_ms": "ceems_compute_unit_cpu_user_seconds_total",
    "package": "ceems_rapl_package_joules_total",
    "dram": "ceems_rapl_dram_joules_total",
    "platform": "ceems_ipmi_dcmi_current_watts",
}


class Ceems(MetricSchema):
    """Schema of the CEEMS exporter: CPU time by job, RAPL counters, and power by IPMI or Redfish.

    A job counts as a container. If the exporter reports no jobs, the CPU time of the whole node is used.
    """

    node_label = "instance"
    node_alias_labels = ("hostname",)
    container_labels = _UNIT_LABELS

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        return _METRICS.get(metric, ())

    def spelling(self, level: str, name: str) -> str:
        return _SPELLINGS.get(name, name)
