"""The metrics of the power exporter Scaphandre 1.x, and the power meter that Scaphandre reads."""

from __future__ import annotations

import os

from kepler_core.contracts import EnergySource, MetricMapping, MetricSchema

CORES = "KEPLER_SCAPHANDRE_CORES"
"""Name of the environment variable with the number of logical CPUs of each recorded machine."""

_SOCKET_POWER = "scaph_socket_power_microwatts"
_CPU_USAGE = "scaph_process_cpu_usage_percentage"


class ScaphandreRapl(EnergySource):
    """The power meter Intel RAPL. Scaphandre reports the power that RAPL measures for each socket."""

    components = ("package",)
    sent_as = "intel_rapl"
    reads = ("scaphandre",)


class Scaphandre1(MetricSchema):
    """Metric names of Scaphandre 1.x for the power of sockets and the CPU usage of processes.

    Scaphandre reports CPU usage in per cent of all logical CPUs, but does not report their number. If the
    environment variable KEPLER_SCAPHANDRE_CORES is set to that number, CPU usage is converted to the
    feature bpf_cpu_time_ms. If it is not set, CPU usage is not read, because the percentages of machines
    with different numbers of CPUs cannot be compared.
    """

    node_label = "instance"
    container_labels = ("pid", "exe")

    def __init__(self) -> None:
        cores = os.environ.get(CORES, "")
        self.cores = int(cores) if cores.isdecimal() else 0

    def mapping(self, metric: str) -> MetricMapping | None:
        if metric == _SOCKET_POWER:
            return MetricMapping("power", "package", "node", ("socket_id",), scale=1e-6, source="scaphandre")
        if metric == _CPU_USAGE and self.cores:
            # A usage of 1 % of one CPU is 10 ms of CPU time per second.
            milliseconds = 10.0 * self.cores
            return MetricMapping(
                "feature", "bpf_cpu_time_ms", "process", self.container_labels, counter=False, scale=milliseconds
            )
        return None

    def spelling(self, level: str, name: str) -> str:
        return {"package": _SOCKET_POWER, "bpf_cpu_time_ms": _CPU_USAGE}.get(name, name)
