"""Recordings of a machine whose load is known at every moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from kepler_core.simulate import Simulation, power_law, recording

Document = dict[str, list[dict[str, Any]]]


def steady(busy: Any, **more: Any) -> Document:
    """One container and a node whose CPUs are busy to these parts, one per 3 s, by the simulation's law."""
    busy = np.asarray(busy, dtype=float)
    simulation = Simulation(containers=1, timestamps=len(busy) + 1, churn=0.0, resets=0, accelerator=False, **more)
    document = recording(simulation)
    rng = np.random.default_rng(1)

    def counter(rate: Any) -> list[list[Any]]:
        total = np.concatenate([[0.0], np.cumsum(rate) * 3])
        return [[1_700_000_000 + 3 * at, f"{value:.3f}"] for at, value in enumerate(total)]

    rates = {"bpf_cpu_time_ms": busy * 32000, "cpu_cycles": busy * 96e9, "cpu_instructions": busy * 96e9}
    law = power_law(busy, np.zeros(len(busy)), 2)
    for metric, series in document.items():
        for one in series:
            name = metric.removeprefix("kepler_container_").removesuffix("_total")
            if metric.startswith("kepler_container_"):
                one["values"] = counter(rates.get(name, busy))
            elif metric.startswith("kepler_node_") and "joules" in metric:
                component = metric.split("_")[2]
                sockets = 1 if component == "platform" else 2
                one["values"] = counter(law[component] * (1 + 0.01 * rng.standard_normal(len(busy))) / sockets)
        if "joules" in metric:  # the law's watts once, not once as idle and once as dynamic energy
            document[metric] = [one for one in series if one["metric"]["mode"] == "dynamic"]
    return document
