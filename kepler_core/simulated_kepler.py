"""The series of a simulated machine as Kepler 0.11.4 exports them, with all the peculiarities of this exporter.

Kepler measures energy in *windows*. A window ends every 5 s, and also at a scrape if Kepler's data is older than 0.5 s.
So the windows are irregular, and a scrape may show values that are up to 0.5 s old. Further properties of the releases
0.10.0 to 0.11.4, as read from their source:

- `kepler_node_cpu_joules_total` is the hardware's register: it starts at any value, and falls to 0 after its highest
  value. With several sockets it is the sum of the registers, and its path is "aggregated-<zone>".
- Active energy is the energy of a window times the busy part of the *previous* window; idle energy is the rest.
- Energy of workloads falls to 0 after a window in which no process had a tick of CPU time.
- Workloads that have ended are shown once more with state="terminated"; CPU seconds have no label `state`.
- CPU seconds have a resolution of 10 ms. They are 0 at the start of the process, not at a restart of Kepler.
- There is no label `node_name` unless the node's name was set when Kepler was started.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray

Series = tuple[str, dict[str, str], list[int], list[str]]
"""Metric name, labels, timestamps (Unix seconds) and values of one series."""

VERSION = "v0.11.4"
INTERVAL_SECONDS = 5.0
"""Kepler's default `monitor.interval`."""
STALENESS_SECONDS = 0.5
"""Kepler's default `monitor.staleness`: a scrape starts a new window if Kepler's data is older than this."""
REGISTER_JOULES = 262143.328850
"""Highest value of a socket's energy register, in joules."""
TICKS_PER_SECOND = 100.0
TERMINATED_JOULES = 10.0
"""Kepler shows an ended workload only if it used at least this energy (`monitor.minTerminatedEnergyThreshold`)."""
ZONES = ("package", "core", "dram", "uncore", "psys")
_PSYS = 1.05
"""Power of the zone psys, divided by the power of package and DRAM."""
_MOST_PROCESSES = 3


@attrs.frozen(eq=False)
class SimulatedMachine:
    """What a simulated machine does, before an exporter measures it."""

    name: str
    labels: dict[str, str]
    """Labels that Prometheus adds to all series."""
    times: IntArray
    """Unix seconds of the scrapes, shape (scrapes,)."""
    step: int
    """Seconds between two scrapes."""
    sockets: int
    n_cpus: int
    cpu_seconds: FloatArray
    """CPU seconds per second of each container in the step before each scrape, shape (containers, scrapes)."""
    alive: BoolArray
    """Whether each container exists at each scrape, shape (containers, scrapes)."""
    watts: dict[str, FloatArray]
    """Power of each component in the step before each scrape, shape (scrapes,)."""
    restarts: IntArray
    """Indices of the scrapes before which the exporter restarts."""


@attrs.frozen(eq=False)
class _Windows:
    """Kepler's windows: the times between its readings."""

    end: FloatArray
    """Unix seconds at which each window ends, shape (windows,)."""
    of_scrape: IntArray
    """Index of the window whose values Kepler shows at each scrape, shape (scrapes,)."""
    ratio: FloatArray
    """For each window, the busy fraction of the CPU time in the window before it, shape (windows,)."""
    restart: BoolArray
    """Whether Kepler was restarted just before each window, shape (windows,)."""

    def energy_of(self, joules: FloatArray) -> FloatArray:
        """Return a counter that adds up the `joules` of all windows since the last restart of Kepler.

        `joules` and the counter have shape (…, windows).
        """
        total = np.cumsum(joules, axis=-1)
        before = np.where(self.restart, total - joules, 0.0)
        counter: FloatArray = total - np.maximum.accumulate(before, axis=-1)
        return counter

    def seconds(self) -> FloatArray:
        """Return the length of each window, shape (windows,)."""
        lengths: FloatArray = np.diff(self.end, prepend=self.end[0] - INTERVAL_SECONDS)
        return lengths


def kepler_series(machine: SimulatedMachine, rng: np.random.Generator) -> Iterator[Series]:
    """Yield the series that Prometheus has after scraping Kepler on a machine."""
    processes = _processes(machine, rng)
    ends = _ends_of_windows(machine, float(rng.uniform(0, INTERVAL_SECONDS)))
    start = float(machine.times[0]) - machine.step
    at = np.concatenate([[start], machine.times.astype(np.float64)])

    def counted(rates: FloatArray) -> FloatArray:
        """Return what rates per second add up to between the start of the recording and the end of each window."""
        total = np.concatenate([[0.0], np.cumsum(rates * machine.step)])
        at_ends: FloatArray = np.interp(ends, at, total)
        return at_ends

    ticks = np.array([np.floor(counted(process.rates) * TICKS_PER_SECOND + 1e-6) for process in processes])
    used = np.diff(ticks, axis=1, prepend=0.0) / TICKS_PER_SECOND
    seconds = np.diff(ends, prepend=ends[0] - INTERVAL_SECONDS)
    busy = np.clip(used.sum(axis=0) / (machine.n_cpus * seconds), 0.0, 1.0)
    of_scrape = np.searchsorted(ends, machine.times, side="right") - 1
    restart = np.zeros(len(ends), dtype=bool)
    restart[of_scrape[machine.restarts[machine.restarts < len(of_scrape)]]] = True
    windows = _Windows(ends, of_scrape, np.concatenate([busy[:1], busy[:-1]]), restart)
    watts = {**machine.watts, "psys": _PSYS * (machine.watts["package"] + machine.watts["dram"])}
    energy = {zone: np.diff(counted(watts[zone]), prepend=0.0) for zone in ZONES}
    yield from _node_series(machine, windows, energy, rng)
    yield from _workload_series(machine, windows, energy, processes, used, ticks / TICKS_PER_SECOND)
    shown = machine.times.tolist()
    yield "kepler_platform_watts", {
        **machine.labels, "source": "redfish", "bmc_id": "bmc-1", "chassis_id": "1", "source_id": "0",
        "source_name": "Server Power Control", "source_type": "PowerControl",
    }, shown, [f"{value:.0f}" for value in machine.watts["platform"]]  # fmt: skip
    build = {**machine.labels, "arch": "amd64", "goversion": "go1.24.11", "version": VERSION}
    yield "kepler_build_info", build, shown, ["1"] * len(shown)


def _ends_of_windows(machine: SimulatedMachine, phase: float) -> FloatArray:
    """Return the times at which Kepler reads its meters: when its timer fires, and at scrapes that find old data."""
    first, last = float(machine.times[0]) - machine.step, float(machine.times[-1])
    timer = np.arange(first + phase, last, INTERVAL_SECONDS)
    before = np.searchsorted(timer, machine.times, side="right") - 1
    age = np.where(before >= 0, machine.times - timer[np.maximum(before, 0)], np.inf) if len(timer) else np.inf
    return np.union1d(timer, machine.times[age > STALENESS_SECONDS].astype(np.float64))


@attrs.frozen(eq=False)
class _Process:
    """A process with its labels, and the container that it belongs to."""

    container: int
    """Index of the process's container. If the machine has several containers, the last one is a virtual machine."""
    labels: dict[str, str]
    rates: FloatArray
    """CPU seconds per second, shape (scrapes,)."""


def _is_vm(machine: SimulatedMachine, container: int) -> bool:
    return 1 < len(machine.cpu_seconds) == container + 1


def container_id(machine: SimulatedMachine, container: int) -> str:
    """Return the id of a container."""
    return f"{machine.name}-{container:060x}"


def _vm_id(machine: SimulatedMachine) -> str:
    return f"{machine.name}-vm"


def _processes(machine: SimulatedMachine, rng: np.random.Generator) -> list[_Process]:
    """Return the processes: one for the virtual machine, and 1 to `_MOST_PROCESSES` for each container."""
    processes = []
    pid = 100
    for container, rates in enumerate(machine.cpu_seconds):
        if _is_vm(machine, container):
            labels = {"type": "vm", "vm_id": _vm_id(machine), "comm": "qemu-system-x86"}
            labels["exe"] = "/usr/bin/qemu-system-x86_64"
            shares: list[float] = [1.0]
        else:
            labels = {"type": "container", "container_id": container_id(machine, container)}
            labels.update(comm=f"app-{container % 10}", exe=f"/app/{container % 10}")
            shares = rng.dirichlet(np.ones(int(rng.integers(1, _MOST_PROCESSES + 1)))).tolist()
        for share in shares:
            pid += 1
            processes.append(_Process(container, {**labels, "pid": str(pid)}, rates * share))
    return processes


def _node_series(
    machine: SimulatedMachine, windows: _Windows, energy: dict[str, FloatArray], rng: np.random.Generator
) -> Iterator[Series]:
    """Yield the series of the node itself: energy and power of each zone, usage ratio of the CPUs, and CPU data."""
    times = machine.times.tolist()
    seconds = windows.seconds()
    for zone in ZONES:
        path = f"/sys/class/powercap/intel-rapl:0{'' if zone == 'package' else f':{ZONES.index(zone)}'}"
        labels = {**machine.labels, "zone": zone, "path": path if machine.sockets == 1 else f"aggregated-{zone}"}
        highest = REGISTER_JOULES * machine.sockets
        first = rng.uniform(0, highest)
        joules = energy[zone]
        active = windows.ratio * joules
        idle_start = np.where(windows.restart, np.cumsum(joules) + first, 0.0)
        idle_start = np.maximum.accumulate(np.where(np.arange(len(joules)) == 0, first, idle_start)) % highest
        counters = {
            "": (first + np.cumsum(joules)) % highest,
            "active_": windows.energy_of(active),
            "idle_": windows.energy_of(joules - active) + idle_start,
        }
        gauges = {"": joules / seconds, "active_": active / seconds, "idle_": (joules - active) / seconds}
        for part, values in counters.items():
            yield f"kepler_node_cpu_{part}joules_total", labels, times, _text(values[windows.of_scrape])
        for part, values in gauges.items():
            yield f"kepler_node_cpu_{part}watts", labels, times, _text(values[windows.of_scrape])
    ratio = windows.ratio[windows.of_scrape]
    yield "kepler_node_cpu_usage_ratio", dict(machine.labels), times, _text(ratio)
    per_socket = machine.n_cpus // machine.sockets
    for cpu in range(machine.n_cpus):
        about = {"processor": str(cpu), "physical_id": str(cpu // per_socket), "core_id": str(cpu % per_socket)}
        about.update(vendor_id="GenuineIntel", model_name="Simulated CPU @ 3.00GHz")
        yield "kepler_node_cpu_info", {**machine.labels, **about}, times, ["1"] * len(times)


def _workload_series(
    machine: SimulatedMachine,
    windows: _Windows,
    energy: dict[str, FloatArray],
    processes: list[_Process],
    used: FloatArray,
    cpu_seconds: FloatArray,
) -> Iterator[Series]:
    """Yield the series of processes, containers, pods and the virtual machine.

    `used` are the CPU seconds of each process in each window, `cpu_seconds` their totals, shape (processes, windows).
    """
    total = used.sum(axis=0)
    share = np.divide(used, total, out=np.zeros_like(used), where=total > 0)
    of_container = np.array([process.container for process in processes])
    for number, process in enumerate(processes):
        labels = {**machine.labels, **process.labels}
        alive = machine.alive[process.container]
        shown = np.flatnonzero(alive | _just_ended(alive))
        values = cpu_seconds[number][windows.of_scrape[shown]]
        yield "kepler_process_cpu_seconds_total", labels, machine.times[shown].tolist(), [f"{v:.2f}" for v in values]
        yield from _energy_series("process", labels, machine, windows, energy, share[number], alive)
    for container in range(len(machine.cpu_seconds)):
        of_workload = share[of_container == container].sum(axis=0)
        alive = machine.alive[container]
        if _is_vm(machine, container):
            vm = {**machine.labels, "vm_id": _vm_id(machine), "vm_name": "guest", "hypervisor": "kvm"}
            yield from _energy_series("vm", vm, machine, windows, energy, of_workload, alive)
            continue
        pod = {"pod_id": f"{machine.name}-pod-{container}"}
        labels = {**machine.labels, **pod, "container_id": container_id(machine, container), "runtime": "containerd"}
        labels["container_name"] = f"app-{container % 10}"
        yield from _energy_series("container", labels, machine, windows, energy, of_workload, alive)
        labels = {**machine.labels, **pod, "pod_name": f"pod-{container}", "pod_namespace": "default"}
        yield from _energy_series("pod", labels, machine, windows, energy, of_workload, alive)


def _just_ended(alive: BoolArray) -> BoolArray:
    """Return which scrapes show a workload as terminated, shape (scrapes,): only the first scrape after its end."""
    return np.concatenate([[False], alive[:-1] & ~alive[1:]])


def _energy_series(
    level: str,
    labels: dict[str, str],
    machine: SimulatedMachine,
    windows: _Windows,
    energy: dict[str, FloatArray],
    share: FloatArray,
    alive: BoolArray,
) -> Iterator[Series]:
    """Yield the energy and the power of a workload in each zone. `share` is the workload's part of all CPU time."""
    total = _with_falls(windows, windows.ratio * energy["package"] * share, windows.ratio > 0)
    for state, shown in (("running", alive), ("terminated", _just_ended(alive))):
        at = np.flatnonzero(shown)
        if state == "terminated":
            at = at[total[windows.of_scrape[at - 1]] > TERMINATED_JOULES]
        window = windows.of_scrape[at if state == "running" else at - 1]
        for zone in ZONES if len(at) else ():
            joules = windows.ratio * energy[zone] * share
            counter = _with_falls(windows, joules, windows.ratio > 0)
            own = {**labels, "zone": zone, "state": state}
            times = machine.times[at].tolist()
            yield f"kepler_{level}_cpu_joules_total", own, times, _text(counter[window])
            yield f"kepler_{level}_cpu_watts", own, times, _text((joules / windows.seconds())[window])


def _with_falls(windows: _Windows, joules: FloatArray, has_energy: BoolArray) -> FloatArray:
    """Return a workload's energy counter. It falls to 0 after each window in which the workload used no energy."""
    lost = attrs.evolve(windows, restart=windows.restart | ~has_energy)
    return lost.energy_of(joules)


def _text(values: FloatArray) -> list[str]:
    """Return values as the exporter writes them: whole microjoules or microwatts."""
    return [f"{value:.6f}" for value in values]
