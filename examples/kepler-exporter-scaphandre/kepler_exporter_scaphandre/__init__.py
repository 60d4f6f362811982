"""What the metrics of Scaphandre 1.x mean, and the meter behind them."""

from __future__ import annotations

import os

from kepler_core.contracts import EnergySource, MetricMapping, MetricSchema

CORES = "KEPLER_SCAPHANDRE_CORES"
"""Environment variable: logical CPUs of the machines that were recorded."""

_SOCKET_POWER = "scaph_socket_power_microwatts"
_CPU_USAGE = "scaph_process_cpu_usage_percentage"


class ScaphandreRapl(EnergySource):
    """Intel RAPL as Scaphandre reports it: the power of each socket."""

    components = ("package",)
    sent_as = "intel_rapl"
    reads = ("scaphandre",)


class Scaphandre1(MetricSchema):
    """Metric names of Scaphandre 1.x: power of sockets, CPU usage of processes.

    Scaphandre gives CPU usage in per cent of all cores, and a recording does not say how many there
    are. With KEPLER_SCAPHANDRE_CORES in the environment it is the feature bpf_cpu_time_ms; without,
    it is not used, because it would be a wrong number on any other machine.
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
            # one per cent of all cores is 10 ms per second of each
            per_cent = 10.0 * self.cores
            return MetricMapping(
                "feature", "bpf_cpu_time_ms", "process", self.container_labels, counter=False, scale=per_cent
            )
        return None

    def spelling(self, level: str, name: str) -> str:
        return {"package": _SOCKET_POWER, "bpf_cpu_time_ms": _CPU_USAGE}.get(name, name)
