"""The names of Kepler 0.10 and later: its metrics and labels.

Source: the collectors in internal/exporter/prometheus/collector of sustainable-computing-io/kepler, v0.10.0 to v0.11.4.
"""

from __future__ import annotations

NODE_JOULES = "kepler_node_cpu_joules_total"
"""Counter of a zone's energy as the hardware counts it: it starts at any value and falls back to 0 at its maximum."""
NODE_ACTIVE_JOULES = "kepler_node_cpu_active_joules_total"
NODE_IDLE_JOULES = "kepler_node_cpu_idle_joules_total"
"""Counters of the used part (active) and the unused part (idle) of a zone's energy. They do not fall back to 0."""
NODE_WATTS = "kepler_node_cpu_watts"
USAGE_RATIO = "kepler_node_cpu_usage_ratio"
"""Gauge: the fraction of the time of all CPUs in which they were busy. Up to Kepler 0.11.4, the gauge lags by one
window."""
CPU_INFO = "kepler_node_cpu_info"
"""One series for each logical CPU (label `processor`). The value is always 1."""
PROCESS_SECONDS = "kepler_process_cpu_seconds_total"
PROCESS_JOULES = "kepler_process_cpu_joules_total"
VM_JOULES = "kepler_vm_cpu_joules_total"
"""Counter of a virtual machine's energy. It falls to 0 if Kepler finds no active energy between two measurements."""
VM_WATTS = "kepler_vm_cpu_watts"
"""Gauge of a virtual machine's mean power since Kepler's previous measurement."""
CONTAINER_JOULES = "kepler_container_cpu_joules_total"
BUILD_INFO = "kepler_build_info"

PAIR_METRICS = (
    NODE_JOULES,
    NODE_ACTIVE_JOULES,
    NODE_IDLE_JOULES,
    USAGE_RATIO,
    CPU_INFO,
    PROCESS_SECONDS,
    VM_JOULES,
    VM_WATTS,
    BUILD_INFO,
)
"""The metrics of a host from which the power of a virtual machine is calculated."""

RECORDED_METRICS = (*PAIR_METRICS, NODE_WATTS)
"""The metrics of a host that `kepler-model pair host` records."""

RUNNING = "running"
"""Value of the label `state` while a workload (e.g. a container) exists. After its end, its series show its last
watts."""

ZONE_COMPONENTS = {"package": "package", "core": "core", "uncore": "uncore", "dram": "dram"}
"""Maps values of the label `zone` to components. Zones overlap: package contains core and uncore. psys is no
component, because it contains more than the package, but not the whole machine."""
