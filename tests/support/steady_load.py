"""Simulated recordings of a machine with a load that the test sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from kepler_core.simulate import Simulation, recording, true_power

Document = dict[str, list[dict[str, Any]]]
"""A recording as decoded JSON: an object with a list of series for each metric name."""


def steady(busy: Any, **options: Any) -> Document:
    """Simulate a node with one container, and return the recording.

    `busy` has the busy fraction of the node's CPUs for each interval of 3 s. The formula of the simulation gives the
    power for each value of `busy`.
    """
    busy = np.asarray(busy, dtype=float)
    simulation = Simulation(containers=1, timestamps=len(busy) + 1, churn=0.0, resets=0, accelerator=False, **options)
    document = recording(simulation)
    rng = np.random.default_rng(1)

    def counter(rate: Any) -> list[list[Any]]:
        total = np.concatenate([[0.0], np.cumsum(rate) * 3])
        return [[1_700_000_000 + 3 * at, f"{value:.3f}"] for at, value in enumerate(total)]

    rates = {"bpf_cpu_time_ms": busy * 32000, "cpu_cycles": busy * 96e9, "cpu_instructions": busy * 96e9}
    watts = true_power(busy, np.zeros(len(busy)), 2)
    for metric, series in document.items():
        for item in series:
            name = metric.removeprefix("kepler_container_").removesuffix("_total")
            if metric.startswith("kepler_container_"):
                item["values"] = counter(rates.get(name, busy))
            elif metric.startswith("kepler_node_") and "joules" in metric:
                component = metric.split("_")[2]
                sockets = 1 if component == "platform" else 2
                item["values"] = counter(watts[component] * (1 + 0.01 * rng.standard_normal(len(busy))) / sockets)
        # Each dynamic series now contains the whole power, including idle power. So remove the idle series.
        if "joules" in metric:
            document[metric] = [item for item in series if item["metric"]["mode"] == "dynamic"]
    return document
