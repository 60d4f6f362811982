"""Metrics that describe machines, as Kepler 0.10 and node_exporter report them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Recorded = dict[str, list[dict[str, Any]]]
"""A recording: metric -> series."""


def series(metric: str, times: Sequence[int], value: float = 1, **labels: str) -> dict[str, Any]:
    """Return a series that has the same value at all times."""
    return {"metric": {"__name__": metric, **labels}, "values": [[time, f"{value:.0f}"] for time in times]}


def kepler_cpu_info(
    node: str, times: Sequence[int], *, model: str, cores: int, chips: int = 2, **labels: str
) -> Recorded:
    """Return the metric of Kepler with a series for each logical CPU; two of them share a core."""
    per_chip = cores // chips
    return {
        "kepler_node_cpu_info": [
            series(
                "kepler_node_cpu_info", times, instance=node, vendor_id="GenuineIntel", model_name=model,
                processor=str(cpu), physical_id=str(cpu // per_chip), core_id=str(cpu % per_chip // 2), **labels,
            )
            for cpu in range(cores)
        ]
    }  # fmt: skip


def node_exporter_info(
    node: str, times: Sequence[int], *, memory: float | None = None, hertz: float | None = None, product: str = ""
) -> Recorded:
    """Return metrics of node_exporter: memory in bytes, the highest frequency, and the name of the computer."""
    found: Recorded = {}
    if memory is not None:
        found["node_memory_MemTotal_bytes"] = [series("node_memory_MemTotal_bytes", times, memory, instance=node)]
    if hertz is not None:
        name = "node_cpu_frequency_max_hertz"
        found[name] = [series(name, times, hertz, instance=node, cpu=str(cpu)) for cpu in range(2)]
    if product:
        found["node_dmi_info"] = [series("node_dmi_info", times, instance=node, product_name=product)]
    return found


def added(*parts: Recorded) -> Recorded:
    """Return a recording with the series of several recordings."""
    result: Recorded = {}
    for part in parts:
        for metric, of_metric in part.items():
            result.setdefault(metric, []).extend(of_metric)
    return result
