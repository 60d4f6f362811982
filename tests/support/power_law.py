"""Makes recordings of one node whose power is a known function of the CPU time, and measures errors of fitted lines.

The watts are package = 30 + 0.02 u, dram = 8 + 0.003 u and platform = 90 + 0.03 u, where u is the CPU time of all
containers in milliseconds per second. These formulas are called the law.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.frames import node_dataset
from kepler_core.recording import Observations, observe, read_recording

Document = dict[str, list[dict[str, Any]]]

LAW = {"package": (30.0, 0.02), "dram": (8.0, 0.003), "platform": (90.0, 0.03)}
START = 1_700_000_000.0
CPU_TIME = "kepler_container_bpf_cpu_time_ms_total"
_PER_MS = {CPU_TIME: 1.0, "kepler_container_cpu_cycles_total": 2.4e6, "kepler_container_cpu_instructions_total": 2.0e6}
_TARGET = {"instance": "node-1", "job": "kepler"}


def document(
    *, seed: int = 0, samples: int = 300, step: float = 3.0, containers: int = 4, packages: int = 1
) -> Document:
    """Return a recording without a fault. Tests can damage it with the function `change`."""
    random = np.random.default_rng(seed)
    times = START + step * np.arange(samples)
    load = np.abs(np.cumsum(random.normal(0.0, 60.0, (containers, samples)), axis=1)) + random.uniform(0, 200, samples)
    content: Document = {
        metric: [
            _series(metric, times, 500.0 + np.cumsum(factor * usage * step), container_id=f"{number:064x}")
            for number, usage in enumerate(load, start=10**15)
        ]
        for metric, factor in _PER_MS.items()
    }
    for component, (idle, slope) in LAW.items():
        metric = f"kepler_node_{component}_joules_total"
        n = packages if component != "platform" else 1
        source = "acpi" if component == "platform" else "rapl-sysfs"
        content[metric] = [
            _series(metric, times, 9000.0 + np.cumsum(watts * step / n), mode=mode, source=source, package=str(package))
            for package in range(n)
            for mode, watts in (("idle", np.full(samples, idle)), ("dynamic", slope * load.sum(axis=0)))
        ]
    return content


def _series(metric: str, times: FloatArray, values: FloatArray, **labels: str) -> dict[str, Any]:
    return {
        "metric": {"__name__": metric, **_TARGET, **labels},
        "values": [[time, repr(value)] for time, value in zip(times.tolist(), values.tolist(), strict=True)],
    }


def change(series: dict[str, Any], changed: Callable[[FloatArray], FloatArray]) -> None:
    """Replace the values of a series by the result of the function `changed` for these values."""
    values = changed(np.array([float(value) for _, value in series["values"]]))
    series["values"] = [[time, repr(value)] for (time, _), value in zip(series["values"], values.tolist(), strict=True)]


def observations_of(content: Document) -> Observations:
    return observe([read_recording(json.dumps(content).encode(), name="recording")])


def errors_of(observations: Observations) -> dict[str, float]:
    """Return for each component the largest relative difference between a fitted line and the true power.

    The line is fitted to the observed watts over the node's CPU time. It is compared with the true power at CPU times
    of 0, 1000 and 3000 milliseconds per second. Components with too few observations are left out.
    """
    errors = {}
    for source, components in observations.sources.items():
        for component in components:
            power = {component: observations.power[source, component]}
            frame = node_dataset(observations, observations.node_features, power, ["bpf_cpu_time_ms"], source).frame
            usage, watts = frame.to_numpy().T
            if len(usage) >= 20:
                line = np.polyfit(usage, watts, 1)
                at = np.array([0.0, 1000.0, 3000.0])
                idle, slope = LAW[component]
                errors[component] = float(np.max(np.abs(np.polyval(line, at) / (idle + slope * at) - 1)))
    return errors
