"""Simulated recordings: containers on nodes whose power follows a known formula.

The formula, for a node with `sockets` sockets and 16 · sockets logical CPUs at 3 GHz:

    u        = busy fraction of the node's CPUs, 0 … 1 (sum over containers)
    m        = cache misses per second / 1e9
    package  = 18·sockets + 65·sockets · u^0.8 + 4·m                       W
    core     = 0.7 · (package − 14·sockets)                                W
    uncore   = 6·sockets + 3·m                                             W
    dram     = 9·sockets + 7·m                                             W
    platform = 60 + 1.08 · (package + dram)                                W

Normally distributed noise of 1.5 % is added to the power of each component in each sample. u^0.8 grows more
slowly at high load, as on a processor that lowers its clock under load; the reported frequency falls by a
fifth from idle to full load, with noise. Containers start and end during the recording, and their load alternates
between idle, steady and bursts. Counters start again at 0 when the exporter restarts. Metric names and labels are those
of Kepler 0.7, or those of Kepler 0.10 and later (module `simulated_kepler`).

Three attributes of `Simulation` add changes. With `shift_at`, the formula's power is multiplied by a factor from
some time on, as after an update of the kernel. With `workloads`, different workloads follow each other. With
`node_spread`, each node has a random factor, by which the formula's power is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.atomic_files import whole_file
from kepler_core.errors import UsageError, close_matches
from kepler_core.faults import check_faults, scrape_seconds, with_faults
from kepler_core.gzip_files import compressed_by_name
from kepler_core.simulated_counter import Counter
from kepler_core.simulated_kepler import Series, SimulatedMachine, kepler_series

CORES_PER_SOCKET = 16
HERTZ = 3.0e9
START = 1_700_000_000
"""Unix seconds of the first sample."""
MAX_NODE_SPREAD = 0.3
"""Maximum of `Simulation.node_spread`. A wider spread would often give factors near 0."""
MIN_NODE_FACTOR = 0.1
"""Lowest factor by which a node's power is multiplied. A lower random factor is replaced by it."""

EXPORTERS = ("kepler-0.7", "kepler-0.10")
"""The exporters whose metrics a simulated recording can have: Kepler up to 0.9, and Kepler since 0.10."""


@attrs.frozen
class Simulation:
    """Parameters of a simulated recording. Raises `UsageError` if a parameter is out of its range."""

    containers: int = 20
    """Containers per node."""
    timestamps: int = 200
    """Number of samples of each node."""
    step: int = 3
    """Seconds between samples."""
    sockets: int = 2
    """Number of processor sockets per node."""
    nodes: int = 1
    churn: float = 0.3
    """Fraction of the containers that start late or end early."""
    resets: int = 1
    """Number of restarts of the exporter on each node; each restart resets the counters."""
    noise: float = 0.015
    """Standard deviation of the noise in the power, as a fraction of the power."""
    accelerator: bool = True
    """Whether each node has a counter of an accelerator (Intel QAT)."""
    seed: int = 0
    """Seed of all random numbers."""
    workloads: int = 0
    """Number of different workloads. Each workload runs in a phase of its own, and the sequence of phases runs twice.
    If it is 0, there are no phases, and each container has an instruction mix of its own."""
    shift_at: float | None = None
    """Fraction of the simulated time (0 … 1) after which the formula's power is multiplied by `shift_gain`. If it is
    None, the power is never multiplied."""
    shift_gain: float = 1.15
    node_spread: float = 0.0
    """Standard deviation of the nodes' random factors, whose mean is 1. A node's power is the power of the formula,
    multiplied by the node's factor: machines of one type differ in this way. If it is 0, all factors are 1."""
    faults: tuple[str, ...] = ()
    """Names of the faults that each node has (keys of `kepler_core.faults.FAULTS`)."""
    severity: int = 1
    """Severity of the faults: 1, 2 or 3."""
    exporter: str = "kepler-0.7"
    """The exporter (one of `EXPORTERS`) that measures the nodes. Equal seeds give equal nodes, whichever exporter
    measures them."""

    def __attrs_post_init__(self) -> None:
        for name, least in (
            ("containers", 1), ("timestamps", 2), ("step", 1), ("sockets", 1), ("nodes", 1), ("resets", 0), ("seed", 0),
            ("workloads", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.churn <= 1:
            raise UsageError(f"churn must be between 0 and 1, not {self.churn}")
        if self.shift_at is not None and not 0 <= self.shift_at <= 1:
            raise UsageError(f"shift_at must be between 0 and 1, not {self.shift_at}")
        if not 0 < self.shift_gain < 100:
            raise UsageError(f"shift_gain must be above 0 and below 100, not {self.shift_gain}")
        if not 0 <= self.node_spread <= MAX_NODE_SPREAD:
            raise UsageError(f"node_spread must be between 0 and {MAX_NODE_SPREAD}, not {self.node_spread}")
        if self.exporter not in EXPORTERS:
            raise UsageError(f"unknown exporter {self.exporter!r}; {close_matches(self.exporter, EXPORTERS)}")
        if self.faults and self.exporter != "kepler-0.7":
            raise UsageError(f"faults are those of kepler-0.7; the exporter {self.exporter} cannot have them")
        check_faults(self.faults, self.severity)


def true_power(u: FloatArray, misses: FloatArray, sockets: int) -> dict[str, FloatArray]:
    """Return watts by component, calculated with the formula in the module docstring.

    `u` is the busy fraction of the node's CPUs, `misses` the cache misses per second.
    """
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
    """Return the simulated recording as a JSON object in the form that `read_recording` reads."""
    result: dict[str, list[dict[str, Any]]] = {}
    for metric, labels, times, values in _all_series(simulation):
        result.setdefault(metric, []).append(
            {"metric": {"__name__": metric, **labels}, "values": list(zip(times, values, strict=True))}
        )
    return result


def write(simulation: Simulation, path: str) -> None:
    """Write the simulated recording to a JSON file, gzipped if the name ends in .gz.

    Equal simulations give equal bytes. Raises `UsageError` if the file cannot be written.
    """
    series_of: dict[str, list[bytes]] = {}
    for metric, labels, times, values in _all_series(simulation):
        content = {"metric": {"__name__": metric, **labels}, "values": list(zip(times, values, strict=True))}
        series_of.setdefault(metric, []).append(msgspec.json.encode(content))
    try:
        with whole_file(Path(path)) as raw, compressed_by_name(raw, path) as file:
            for at, (metric, series) in enumerate(series_of.items()):
                file.write((b"{\n" if at == 0 else b",\n") + msgspec.json.encode(metric) + b":[\n")
                file.write(b",\n".join(series) + b"]")
            file.write(b"\n}\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _all_series(simulation: Simulation) -> Iterator[Series]:
    # All nodes share one random generator. A change in the order of its calls would change the recording of each seed.
    rng = np.random.default_rng(simulation.seed)
    seconds = scrape_seconds(simulation.faults, simulation.severity, simulation.step)
    simulation = attrs.evolve(simulation, step=seconds)
    for node, factor in enumerate(node_factors(simulation).tolist()):
        series = _node(simulation, node, factor, rng)
        if simulation.faults:
            series = _with_faults(simulation, series, node)
        yield from series


def _with_faults(simulation: Simulation, series: Iterator[Series], node: int) -> Iterator[Series]:
    """Apply the faults of the simulation to the series of a node, and yield the changed series."""
    counters = [
        Counter(metric, labels, np.array(times), np.array(values, dtype=np.float64), 3 if "." in values[0] else 0)
        for metric, labels, times, values in series
        if values
    ]
    for one in with_faults(counters, simulation.faults, simulation.severity, simulation.seed + node):
        yield one.metric, one.labels, one.times.tolist(), [f"{value:.{one.decimals}f}" for value in one.values]


def node_factors(simulation: Simulation) -> FloatArray:
    """Return the factor of each node's power, shape (nodes,); see `Simulation.node_spread`."""
    # The nodes' factors have a random generator of their own. So they do not change any other random number.
    rng = np.random.default_rng([simulation.seed, 1])
    return np.maximum(1 + simulation.node_spread * rng.standard_normal(simulation.nodes), MIN_NODE_FACTOR)


def _node(simulation: Simulation, number: int, factor: float, rng: np.random.Generator) -> Iterator[Series]:
    node = f"node-{number}"
    n_times = simulation.timestamps
    busy, alive = _load(simulation, rng)
    rates = _container_rates(simulation, busy, rng)
    n_restarts = min(simulation.resets, n_times - 1)
    restarts = np.sort(rng.choice(np.arange(1, n_times), size=n_restarts, replace=False))
    times = START + simulation.step * np.arange(n_times)
    exporter = {"instance": node, "job": "kepler-exporter", "namespace": "kepler", "endpoint": "http"}
    u = np.minimum(busy.sum(axis=0), 1.0)
    power = true_power(u, rates["cache_miss"].sum(axis=0), simulation.sockets)
    if simulation.shift_at is not None:
        power = {name: watts * _gain(simulation) for name, watts in power.items()}
    if simulation.node_spread:
        power = {name: watts * factor for name, watts in power.items()}
    noisy = {
        name: np.maximum(watts * (1 + simulation.noise * rng.standard_normal(n_times)), 0.0)
        for name, watts in power.items()
    }
    if simulation.exporter == "kepler-0.10":
        machine = SimulatedMachine(
            node, exporter, times, simulation.step, simulation.sockets, CORES_PER_SOCKET * simulation.sockets,
            rates["bpf_cpu_time_ms"] / 1e3, alive, noisy, restarts,
        )  # fmt: skip
        # This exporter has a random generator of its own, so that equal seeds give equal nodes for all exporters.
        yield from kepler_series(machine, np.random.default_rng([simulation.seed, 2, number]))
        for _ in _system_series(simulation, exporter, u, times, restarts, rng):
            pass  # only to draw the same random numbers as for the exporter kepler-0.7
        return
    yield from _container_series(simulation, node, exporter, rates, alive, times, restarts)
    yield from _power_series(simulation, exporter, power, noisy, times, restarts)
    yield from _system_series(simulation, exporter, u, times, restarts, rng)


def _container_rates(simulation: Simulation, busy: FloatArray, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Return the containers' rates per second by feature, each of shape (containers, timestamps)."""
    n = simulation.containers
    # each container has an instruction mix of its own
    per_cycle = rng.uniform(0.5, 2.0, n)
    misses_per_cycle = rng.uniform(0.0005, 0.004, n)
    irqs = rng.uniform(5, 200, (3, n))
    if simulation.workloads:
        workload = np.arange(n) % simulation.workloads
        # each workload has more instructions per cycle, and fewer cache misses, than the workload before
        per_cycle = np.geomspace(0.5, 2.0, simulation.workloads)[workload] * (1 + 0.05 * (per_cycle - 1.25))
        misses_per_cycle = np.geomspace(0.03, 0.0005, simulation.workloads)[workload] * (
            1 + 20 * (misses_per_cycle - 0.002)
        )
    cpu_seconds = busy * (CORES_PER_SOCKET * simulation.sockets)  # CPU seconds per second
    cycles = cpu_seconds * HERTZ
    misses = cycles * misses_per_cycle[:, None]
    return {
        "bpf_cpu_time_ms": cpu_seconds * 1e3,
        "bpf_page_cache_hit": misses * 1e-4,
        "cpu_cycles": cycles,
        "cpu_instructions": cycles * per_cycle[:, None],
        "cache_miss": misses,
        "bpf_block_irq": irqs[0][:, None] * (0.02 + busy * n),
        "bpf_net_rx_irq": irqs[1][:, None] * (0.05 + busy * n),
        "bpf_net_tx_irq": irqs[2][:, None] * (0.05 + busy * n),
    }


def _container_series(
    simulation: Simulation,
    node: str,
    exporter: dict[str, str],
    rates: dict[str, FloatArray],
    alive: BoolArray,
    times: IntArray,
    restarts: IntArray,
) -> Iterator[Series]:
    """Yield the counters of all containers. A container's series have samples only while the container exists."""
    for container in range(simulation.containers):
        exists = np.flatnonzero(alive[container])
        labels = {
            **exporter,
            "container_id": f"{node}-{container:060x}",
            "pod_name": f"pod-{container}",
            "container_name": f"app-{container % 10}",
            "container_namespace": "default",
        }
        for feature, rate in rates.items():
            counter = _counter(rate[container, exists], simulation.step, np.searchsorted(exists, restarts))
            yield f"kepler_container_{feature}_total", labels, times[exists].tolist(), [f"{v:.0f}" for v in counter]


def _power_series(
    simulation: Simulation,
    exporter: dict[str, str],
    power: dict[str, FloatArray],
    noisy_power: dict[str, FloatArray],
    times: IntArray,
    restarts: IntArray,
) -> Iterator[Series]:
    """Yield the energy counters of all components. Idle energy and dynamic energy are separate series.

    The energy is divided among the sockets, and each socket has series of its own. Only the platform's energy is not
    divided. `power` is the power of the formula, and `noisy_power` the power with noise.
    """
    for component, watts in power.items():
        source = "acpi" if component == "platform" else "rapl-sysfs"
        noisy = noisy_power[component]
        idle = np.full(len(times), float(watts.min()) * 0.9)
        packages = [""] if component == "platform" else [str(socket) for socket in range(simulation.sockets)]
        for package in packages:
            for mode, part in (("idle", np.minimum(idle, noisy)), ("dynamic", np.maximum(noisy - idle, 0.0))):
                joules = _counter(part / len(packages), simulation.step, restarts)
                labels = {**exporter, "source": source, "mode": mode, **({"package": package} if package else {})}
                metric = f"kepler_node_{component}_joules_total"
                yield metric, labels, times.tolist(), [f"{value:.3f}" for value in joules]


def _system_series(
    simulation: Simulation,
    exporter: dict[str, str],
    u: FloatArray,
    times: IntArray,
    restarts: IntArray,
    rng: np.random.Generator,
) -> Iterator[Series]:
    """Yield the accelerator's counter, the CPU frequencies and `node_info`. `u` is the node's busy fraction."""
    n_times = len(times)
    if simulation.accelerator:
        offloads = (50.0 + 2000.0 * u) * rng.uniform(0.5, 1.5, n_times)
        counter = _counter(offloads, simulation.step, restarts)
        labels = {**exporter, "type": "cpu0"}
        yield "kepler_node_accelerator_intel_qat", labels, times.tolist(), [f"{value:.0f}" for value in counter]
    hertz = HERTZ * (1.0 - 0.2 * u + 0.03 * rng.standard_normal(n_times))
    for cpu in range(simulation.sockets):
        labels = {**exporter, "cpu": str(cpu)}
        yield "kepler_node_cpu_scaling_frequency_hertz", labels, times.tolist(), [f"{value:.0f}" for value in hertz]
    labels = {**exporter, "cpu_architecture": "Simulated"}
    yield "kepler_node_node_info", labels, times.tolist(), ["1"] * n_times


def _load(simulation: Simulation, rng: np.random.Generator) -> tuple[FloatArray, BoolArray]:
    """Return the fraction of the node's CPUs that each container uses, and whether the container exists.

    Both arrays have shape (containers, timestamps).
    """
    n, n_times = simulation.containers, simulation.timestamps
    at = np.arange(n_times)
    # load level of the node: idle at first, then phases of 5 to 40 samples at changing levels
    level = np.zeros(n_times)
    start = min(max(n_times // 10, 1), n_times)
    while start < n_times:
        length = int(rng.integers(5, 41))
        level[start : start + length] = 0.0 if rng.random() < 0.15 else rng.uniform(0.05, 1.0)
        start += length
    # draw the activity of each container, so that a few containers do most of the work
    weight = rng.pareto(1.2, n) + 0.05
    phase, period = rng.uniform(0, 2 * np.pi, n), rng.uniform(10, 80, n)
    activity = weight[:, None] * (1.0 + 0.8 * np.sin(2 * np.pi * at / period[:, None] + phase[:, None]))
    alive = np.ones((n, n_times), dtype=bool)
    for container in np.flatnonzero(rng.random(n) < simulation.churn):
        first, end = np.sort(rng.integers(0, n_times + 1, 2))
        if end - first < min(3, n_times):
            first, end = 0, max(n_times // 2, 2)
        alive[container] = (at >= first) & (at < end)
    if simulation.workloads:
        n_phases = 2 * simulation.workloads
        workload_at = np.minimum(at * n_phases // n_times, n_phases - 1) % simulation.workloads
        active = (np.arange(n) % simulation.workloads)[:, None] == workload_at[None, :]
        activity = np.where(active, activity, 0.001 * activity)
    activity = np.where(alive, activity, 0.0)
    total = activity.sum(axis=0)
    busy = activity / np.where(total > 0, total, 1.0) * level
    jitter = 1 + 0.05 * rng.standard_normal((n, n_times))
    return np.clip(busy * jitter, 0.0, 1.0) + np.where(alive, 1e-5, 0.0), alive


def _gain(simulation: Simulation) -> FloatArray:
    """Return the factor by which the formula's power is multiplied at each timestamp, shape (timestamps,)."""
    assert simulation.shift_at is not None
    at = np.arange(simulation.timestamps)
    return np.where(at >= simulation.shift_at * simulation.timestamps, simulation.shift_gain, 1.0)


def _counter(rate: FloatArray, step: int, restarts: IntArray) -> FloatArray:
    """Return the counter that grows by a rate per second, and is reset at the indices `restarts`.

    `rate[i]` is the mean rate in the step that ends at index i. `step` is in seconds.
    """
    total = np.cumsum(rate * step)
    for restart in restarts:
        if 0 < restart < len(total):
            total[restart:] -= total[restart - 1]
    return np.maximum(total, 0.0)
