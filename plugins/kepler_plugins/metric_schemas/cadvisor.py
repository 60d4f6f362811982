"""The metric schema of cAdvisor and of the kubelet, which contains cAdvisor: the CPU time of containers.

Names and labels are those of google/cadvisor (docs/storage/prometheus.md) and of the kubelet's page /metrics/cadvisor.
"""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import MachineMapping, MetricMapping, MetricSchema, UnusedMetric

CPU_TIME = "container_cpu_usage_seconds_total"
_UNIT_LABELS = ("id", "namespace", "pod", "container")

_METRICS: dict[str, tuple[MetricMapping | UnusedMetric, ...]] = {
    CPU_TIME: (
        # The kubelet also reports the CPU time of each pod, of each slice and of the root, without a label `container`.
        MetricMapping(
            "feature",
            "bpf_cpu_time_ms",
            "container",
            _UNIT_LABELS,
            scale=1000.0,
            summed_labels=("cpu",),
            ignored_labels=("image", "name"),
            where_not={"container": ("", "POD")},
            note="does not contain the processes outside of containers",
        ),
        # Without the kubelet, cAdvisor has no label `container`. Containers have a label `name`, and slices do not.
        MetricMapping(
            "feature",
            "bpf_cpu_time_ms",
            "container",
            ("id", "name"),
            scale=1000.0,
            summed_labels=("cpu",),
            ignored_labels=("image",),
            where={"container": "", "pod": ""},
            where_not={"name": ""},
            note="does not contain the processes outside of containers",
        ),
        UnusedMetric("a pod, a slice or the whole machine: the sum of containers that are reported, too"),
    ),
    "container_cpu_user_seconds_total": (UnusedMetric(f"a part of {CPU_TIME}"),),
    "container_cpu_system_seconds_total": (UnusedMetric(f"a part of {CPU_TIME}"),),
}
_MACHINE: dict[str, tuple[MachineMapping, ...]] = {
    "machine_cpu_cores": (MachineMapping("cores"),),
    "machine_cpu_physical_cores": (MachineMapping("physical_cores"),),
    "machine_cpu_sockets": (MachineMapping("chips"),),
    "machine_memory_bytes": (MachineMapping("memory", scale=2.0**-30),),
}


class CAdvisor(MetricSchema):
    """Schema of cAdvisor and of the kubelet: CPU time by container. Power must come from another exporter."""

    node_label = "instance"
    node_alias_labels = ("node", "kubernetes_io_hostname")
    container_labels = _UNIT_LABELS

    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        return _METRICS.get(metric, ())

    def machine_mappings(self, metric: str) -> Sequence[MachineMapping]:
        return _MACHINE.get(metric, ())

    def spelling(self, level: str, name: str) -> str:
        return CPU_TIME if name == "bpf_cpu_time_ms" else name
