"""The metrics of the power exporter Scaphandre 1.x, and the power meter that Scaphandre reads."""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import EnergySource, MetricMapping, MetricSchema, UnusedMetric


class ScaphandreRapl(EnergySource):
    """The power meter Intel RAPL. Scaphandre reports the power that RAPL measures for each socket."""

    components = ("package",)
    sent_as = "intel_rapl"
    reads = ("scaphandre",)


METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    "scaph_socket_power_microwatts": (
        MetricMapping("power", "package", "node", ("socket_id",), scale=1e-6, source="scaphandre"),
    ),
    # The unit is per cent of all logical CPUs. Scaphandre does not report the number of CPUs.
    "scaph_process_cpu_usage_percentage": (
        MetricMapping(
            "feature",
            "bpf_cpu_time_ms",
            "process",
            ("pid", "exe"),
            scale=0.01,
            share_of="cpus",
            ignored_labels=("cmdline",),
        ),
    ),
    "scaph_host_power_microwatts": (
        UnusedMetric("the sum of the sockets, or the power of the whole platform on machines that measure it"),
    ),
    "scaph_process_power_consumption_microwatts": (UnusedMetric("a share of the host's power by CPU time"),),
}


class Scaphandre1(MetricSchema):
    """Metric names of Scaphandre 1.x for the power of sockets and the CPU usage of processes.

    Scaphandre reports CPU usage in per cent of all logical CPUs. Kepler Core converts this percentage to the feature
    bpf_cpu_time_ms if another exporter on the machine, for example node_exporter, reports the number of CPUs.
    """

    node_label = "instance"
    container_labels = ("pid", "exe")

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        return METRICS.get(metric, ())

    def spelling(self, level: str, name: str) -> str:
        spellings = {
            "package": "scaph_socket_power_microwatts",
            "bpf_cpu_time_ms": "scaph_process_cpu_usage_percentage",
        }
        return spellings.get(name, name)
