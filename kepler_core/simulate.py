"""A recording that nobody recorded: containers on nodes with a known power law.

The power law, per node with `sockets` sockets and `cores` = 16 · sockets logical CPUs at 3 GHz:

    u        = busy share of the node's CPUs, 0 … 1 (sum over containers)
    m        = cache misses per second / 1e9
    package  = 18·sockets + 65·sockets · u^0.8 + 4·m                       W
    core     = 0.7 · (package − 14·sockets)                                W
    uncore   = 6·sockets + 3·m                                             W
    dram     = 9·sockets + 7·m                                             W
    platform = 60 + 1.08 · (package + dram)                                W

each with noise of 1.5 % (normal, per sample). u^0.8 falls off like a processor that lowers its clock
under load; the frequency reported falls by a fifth from idle to full load, with noise. Containers
come and go, their load moves between idle, steady and bursts; counters are reset where the exporter
restarts. On request the law changes in the middle (a new kernel),
and kinds of work come one after another. Metric names and labels are Kepler 0.7's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import UsageError
from kepler_core.gzip_files import compressed_by_name

CORES_PER_SOCKET = 16
HERTZ = 3.0e9
START = 1_700_000_000
"""Unix seconds of the first sample."""


@attrs.frozen
class Simulation:
    """What to simulate; `recording` makes it."""

    containers: int = 20
    timestamps: int = 200
    step: int = 3
    """Seconds between samples."""
    sockets: int = 2
    nodes: int = 1
    churn: float = 0.3
    """Part of the containers that do not live from start to end."""
    resets: int = 1
    """Exporter restarts per node."""
    noise: float = 0.015
    accelerator: bool = True
    seed: int = 0
    workloads: int = 0
    """Kinds of work that come one after another, twice; 0: all at once, each container its own."""
    law_change: float | None = None
    """From this part of the time on (0 … 1) the machine needs `law_gain` times the power of the law."""
    law_gain: float = 1.15

    def __attrs_post_init__(self) -> None:
        for name, least in (
            ("containers", 1), ("timestamps", 2), ("step", 1), ("sockets", 1), ("nodes", 1), ("resets", 0), ("seed", 0),
            ("workloads", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.churn <= 1:
            raise UsageError(f"churn must be between 0 and 1, not {self.churn}")
        if self.law_change is not None and not 0 <= self.law_change <= 1:
            raise UsageError(f"law_change must be between 0 and 1, not {self.law_change}")
        if not 0 < self.law_gain < 100:
            raise UsageError(f"law_gain must be above 0 and below 100, not {self.law_gain}")


def power_law(u: FloatArray, misses: FloatArray, sockets: int) -> dict[str, FloatArray]:
    """Watts by component for a busy share and cache misses per second (see the module)."""
    m = misses / 1e9
    package = 18.0 * sockets + 65.0 * sockets * u**0.8 + 4.0 * m
    dram = 9.0 * sockets + 7.0 * m
    return {
        "package": package,
        "core": 0.7 * (package - 14.0 * sockets),
        "uncore": 6.0 * sockets + 3.0 * m,
        "dram": dram,
        "platform": 60.0 + 1.08 * (package + dram),
    }


def recording(simulation: Simulation) -> dict[str, list[dict[str, Any]]]:
    """The simulated recording, in the shape that `read_recording` takes."""
    result: dict[str, list[dict[str, Any]]] = {}
    rng = np.random.default_rng(simulation.seed)
    for node in range(simulation.nodes):
        for metric, labels, times, values in _node(simulation, f"node-{node}", rng):
            result.setdefault(metric, []).append(
                {"metric": {"__name__": metric, **labels}, "values": list(zip(times, values, strict=True))}
            )
    return result


def _node(
    simulation: Simulation, node: str, rng: np.random.Generator
) -> Iterator[tuple[str, dict[str, str], list[int], list[str]]]:
    n, t = simulation.containers, simulation.timestamps
    cpus = CORES_PER_SOCKET * simulation.sockets
    busy, alive = _load(simulation, rng)
    # an instruction mix of its own for every container
    per_cycle = rng.uniform(0.5, 2.0, n)
    misses_per_cycle = rng.uniform(0.0005, 0.004, n)
    irqs = rng.uniform(5, 200, (3, n))
    if simulation.workloads:
        kind = np.arange(n) % simulation.workloads
        # from one kind to the next: more instructions per cycle, and fewer misses
        per_cycle = np.geomspace(0.5, 2.0, simulation.workloads)[kind] * (1 + 0.05 * (per_cycle - 1.25))
        misses_per_cycle = np.geomspace(0.03, 0.0005, simulation.workloads)[kind] * (
            1 + 20 * (misses_per_cycle - 0.002)
        )
    times = START + simulation.step * np.arange(t)
    cpu_seconds = busy * cpus  # CPU seconds per second, shape (n, t)
    cycles = cpu_seconds * HERTZ
    misses = cycles * misses_per_cycle[:, None]
    rates = {
        "bpf_cpu_time_ms": cpu_seconds * 1e3,
        "bpf_page_cache_hit": misses * 1e-4,
        "cpu_cycles": cycles,
        "cpu_instructions": cycles * per_cycle[:, None],
        "cache_miss": misses,
        "bpf_block_irq": irqs[0][:, None] * (0.02 + busy * n),
        "bpf_net_rx_irq": irqs[1][:, None] * (0.05 + busy * n),
        "bpf_net_tx_irq": irqs[2][:, None] * (0.05 + busy * n),
    }
    restarts = np.sort(rng.choice(np.arange(1, t), size=min(simulation.resets, t - 1), replace=False))
    exporter = {"instance": node, "job": "kepler-exporter", "namespace": "kepler", "endpoint": "http"}
    for container in range(n):
        here = np.flatnonzero(alive[container])
        labels = {
            **exporter,
            "container_id": f"{node}-{container:060x}",
            "pod_name": f"pod-{container}",
            "container_name": f"app-{container % 10}",
            "container_namespace": "default",
        }
        for feature, rate in rates.items():
            counted = _counter(rate[container, here], simulation.step, np.searchsorted(here, restarts))
            yield f"kepler_container_{feature}_total", labels, times[here].tolist(), [f"{v:.0f}" for v in counted]
    share = np.minimum(busy.sum(axis=0), 1.0)
    watts = power_law(share, misses.sum(axis=0), simulation.sockets)
    if simulation.law_change is not None:
        watts = {name: law * _law_gain(simulation) for name, law in watts.items()}
    for component, law in watts.items():
        source = "acpi" if component == "platform" else "rapl-sysfs"
        noisy = np.maximum(law * (1 + simulation.noise * rng.standard_normal(t)), 0.0)
        idle = np.full(t, float(law.min()) * 0.9)
        packages = [""] if component == "platform" else [str(socket) for socket in range(simulation.sockets)]
        for package in packages:
            for mode, part in (("idle", np.minimum(idle, noisy)), ("dynamic", np.maximum(noisy - idle, 0.0))):
                joules = _counter(part / len(packages), simulation.step, restarts)
                labels = {**exporter, "source": source, "mode": mode, **({"package": package} if package else {})}
                metric = f"kepler_node_{component}_joules_total"
                yield metric, labels, times.tolist(), [f"{value:.3f}" for value in joules]
    if simulation.accelerator:
        offloads = (50.0 + 2000.0 * share) * rng.uniform(0.5, 1.5, t)
        qat = _counter(offloads, simulation.step, restarts)
        labels = {**exporter, "type": "cpu0"}
        yield "kepler_node_accelerator_intel_qat", labels, times.tolist(), [f"{value:.0f}" for value in qat]
    hertz = HERTZ * (1.0 - 0.2 * share + 0.03 * rng.standard_normal(t))
    for cpu in range(simulation.sockets):
        labels = {**exporter, "cpu": str(cpu)}
        yield "kepler_node_cpu_scaling_frequency_hertz", labels, times.tolist(), [f"{value:.0f}" for value in hertz]
    labels = {**exporter, "cpu_architecture": "Simulated"}
    yield "kepler_node_node_info", labels, times.tolist(), ["1"] * t


def _load(simulation: Simulation, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
    """Busy share of the node per container and time, and when each container exists."""
    n, t = simulation.containers, simulation.timestamps
    at = np.arange(t)
    # what the node as a whole does: idle, then phases of 5 to 40 samples at changing levels
    level = np.zeros(t)
    start = min(max(t // 10, 1), t)
    while start < t:
        length = int(rng.integers(5, 41))
        level[start : start + length] = 0.0 if rng.random() < 0.15 else rng.uniform(0.05, 1.0)
        start += length
    # who does it: a few do most
    weight = rng.pareto(1.2, n) + 0.05
    phase, period = rng.uniform(0, 2 * np.pi, n), rng.uniform(10, 80, n)
    activity = weight[:, None] * (1.0 + 0.8 * np.sin(2 * np.pi * at / period[:, None] + phase[:, None]))
    alive = np.ones((n, t), dtype=bool)
    for container in np.flatnonzero(rng.random(n) < simulation.churn):
        born, gone = np.sort(rng.integers(0, t + 1, 2))
        if gone - born < min(3, t):
            born, gone = 0, max(t // 2, 2)
        alive[container] = (at >= born) & (at < gone)
    if simulation.workloads:
        phase_of = np.minimum(at * 2 * simulation.workloads // t, 2 * simulation.workloads - 1)
        of_phase = (np.arange(n) % simulation.workloads)[:, None] == (phase_of % simulation.workloads)[None, :]
        activity = np.where(of_phase, activity, 0.001 * activity)
    activity = np.where(alive, activity, 0.0)
    total = activity.sum(axis=0)
    busy = activity / np.where(total > 0, total, 1.0) * level
    jitter = 1 + 0.05 * rng.standard_normal((n, t))
    return np.clip(busy * jitter, 0.0, 1.0) + np.where(alive, 1e-5, 0.0), alive


def _law_gain(simulation: Simulation) -> FloatArray:
    """Per sample, the factor of the power law."""
    assert simulation.law_change is not None
    at = np.arange(simulation.timestamps)
    return np.where(at >= simulation.law_change * simulation.timestamps, simulation.law_gain, 1.0)


def _counter(rate: FloatArray, step: int, restarts: IntArray) -> FloatArray:
    """The counter of a rate (whose value at i is over the step that ends at i), reset at restarts."""
    total = np.cumsum(rate * step)
    for restart in restarts:
        if 0 < restart < len(total):
            total[restart:] -= total[restart - 1]
    return np.maximum(total, 0.0)


def write(simulation: Simulation, path: str) -> None:
    """Write the simulated recording as JSON, gzipped if the name ends in .gz. The same simulation
    gives the same bytes."""
    series: dict[str, list[bytes]] = {}
    rng = np.random.default_rng(simulation.seed)
    for node in range(simulation.nodes):
        for metric, labels, times, values in _node(simulation, f"node-{node}", rng):
            content = {"metric": {"__name__": metric, **labels}, "values": list(zip(times, values, strict=True))}
            series.setdefault(metric, []).append(msgspec.json.encode(content))
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as raw, compressed_by_name(raw, path) as file:
            for at, (metric, items) in enumerate(series.items()):
                file.write((b"{\n" if at == 0 else b",\n") + msgspec.json.encode(metric) + b":[\n")
                file.write(b",\n".join(items) + b"]")
            file.write(b"\n}\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
