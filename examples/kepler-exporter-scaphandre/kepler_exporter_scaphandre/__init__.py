"""The metrics of Scaphandre 1.x, and the power meter behind them."""

from __future__ import annotations

import os

from kepler_core.contracts import EnergySource, MetricMapping, MetricSchema

CORES = "KEPLER_SCAPHANDRE_CORES"
"""Environment variable with the number of logical CPUs of the recorded machines."""

_SOCKET_POWER = "scaph_socket_power_microwatts"
_CPU_USAGE = "scaph_process_cpu_usage_percentage"


class ScaphandreRapl(EnergySource):
    """Intel RAPL as Scaphandre reports it: the power of each socket."""

    components = ("package",)
    sent_as = "intel_rapl"
    reads = ("scaphandre",)


class Scaphandre1(MetricSchema):
    """Metric names of Scaphandre 1.x: power of sockets, CPU usage of processes.

    Scaphandre reports CPU usage in per cent of all cores, but not the number of cores. If the
    environment variable KEPLER_SCAPHANDRE_CORES has that number, CPU usage becomes the feature
    bpf_cpu_time_ms. Without it CPU usage is left out, because the values of two machines could not be
    compared.
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
            # one per cent of a core is 10 ms per second
            milliseconds = 10.0 * self.cores
            return MetricMapping(
                "feature", "bpf_cpu_time_ms", "process", self.container_labels, counter=False, scale=milliseconds
            )
        return None

    def spelling(self, level: str, name: str) -> str:
        return {"package": _SOCKET_POWER, "bpf_cpu_time_ms": _CPU_USAGE}.get(name, name)
