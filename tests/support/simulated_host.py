"""A simulated host with one virtual machine, and the metrics of Kepler 0.10 or later on this host.

The simulation divides power like Kepler: the part of a process in the energy of a window is the host's CPU usage times
the process's fraction of the CPU time of all processes.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kepler_core import kepler_names as names
from kepler_core.arrays import FloatArray

VM_ID = "11111111-2222-3333-4444-555555555555"
CPUS = 8
GUEST_CPUS = 4
IDLE_WATTS = {"package": 20.0, "core": 6.0}
WATTS_PER_CPU = {"package": 5.0, "core": 4.0}
START = 1_757_512_960.0
"""Unix seconds of the first reading."""


@attrs.frozen
class SimulatedHost:
    """A host whose load comes from a virtual machine, and from one other process, which is called the neighbour."""

    seconds: int = 240
    window: float = 2.0
    """Seconds between two refreshes of Kepler's values, and between two readings."""
    offset: float = 0.0
    """Seconds by which the guest's clock is behind the host's clock."""
    lag: bool = False
    """Whether the CPU usage ratio is one time window too late, as in Kepler 0.10.0 to 0.11.4."""
    repeat: int = 1
    """Each reading is recorded at this number of consecutive timestamps."""
    seed: int = 0
    wrap: float = 1e9
    """Number of joules at which the raw counter of the node falls back to 0."""
    idle_seconds: float = 0.0
    """Number of seconds at the beginning during which the machine is nearly idle."""
    period: float | None = None
    """Period of the load in seconds: the load is a sine wave. None gives a random load."""

    def vm_cpus(self) -> FloatArray:
        """Return the number of CPUs that the virtual machine uses in each tenth of a second of the host's clock."""
        random = np.random.default_rng(self.seed)
        n = self.seconds * 10 + 1000
        if self.period is not None:
            return 2.0 + 1.5 * np.sin(2 * np.pi * np.arange(n) / 10 / self.period)
        return self._after_idle(np.repeat(random.uniform(0.1, GUEST_CPUS, n // 37 + 1), 37)[:n])

    def neighbour_cpus(self) -> FloatArray:
        """Return the number of CPUs that the host's other process uses in each tenth of a second."""
        random = np.random.default_rng(self.seed + 1)
        n = self.seconds * 10 + 1000
        return self._after_idle(np.repeat(random.uniform(0.5, 1.0, n // 120 + 1), 120)[:n])

    def _after_idle(self, cpus: FloatArray) -> FloatArray:
        return np.where(np.arange(len(cpus)) < 10 * self.idle_seconds, 0.01, cpus)

    def windows(self) -> dict[str, FloatArray]:
        """Return the start, end, CPU seconds and joules of each window. The first window starts at 0 s."""
        ends = np.arange(1, int(self.seconds / self.window)) * self.window
        starts = ends - self.window
        edges = np.round(np.concatenate([starts[:1], ends]) * 10).astype(int)
        vm = np.add.reduceat(self.vm_cpus(), edges)[:-1] / 10
        other = np.add.reduceat(self.neighbour_cpus(), edges)[:-1] / 10
        joules = {zone: IDLE_WATTS[zone] * self.window + WATTS_PER_CPU[zone] * (vm + other) for zone in WATTS_PER_CPU}
        return {"start": starts, "end": ends, "vm": vm, "other": other, **joules}

    def kepler_watts(self, zone: str = "package") -> FloatArray:
        """Return the virtual machine's true watts in each window, by Kepler's rule for dividing the host's power."""
        values = self.windows()
        total = values["vm"] + values["other"]
        usage = total / (CPUS * self.window)
        return usage * values[zone] * values["vm"] / total / self.window

    def recording(self) -> dict[str, list[dict[str, Any]]]:
        """Return the recording of a Prometheus server that scrapes Kepler on the host."""
        values = self.windows()
        total = values["vm"] + values["other"]
        usage = total / (CPUS * self.window)
        if self.lag:
            usage = np.concatenate([[usage[0]], usage[:-1]])
        vm_labels = {"vm_id": VM_ID, "vm_name": "vm-a", "hypervisor": "kvm", "state": "running"}
        content: dict[str, list[dict[str, Any]]] = {
            names.BUILD_INFO: [self._series({"version": "v0.11.4" if self.lag else ""}, 1 + 0 * usage)],
            names.CPU_INFO: [self._series({"processor": str(cpu)}, 1 + 0 * usage) for cpu in range(CPUS)],
            names.USAGE_RATIO: [self._series({"node_name": "host-1"}, usage)],
            names.PROCESS_SECONDS: [
                self._series(
                    {"pid": "100", "comm": "qemu-system-x86", "type": "vm", "vm_id": VM_ID}, _sum(values["vm"])
                ),
                self._series({"pid": "200", "comm": "stress", "type": "regular", "vm_id": ""}, _sum(values["other"])),
            ],
        }
        for zone in WATTS_PER_CPU:
            joules = values[zone]
            node = {"node_name": "host-1", "zone": zone, "path": f"/sys/class/powercap/{zone}"}
            for metric, series in (
                (names.NODE_JOULES, _sum(joules) % self.wrap),
                (names.NODE_ACTIVE_JOULES, _sum(usage * joules)),
                (names.NODE_IDLE_JOULES, 77.0 + _sum((1 - usage) * joules)),
            ):
                content.setdefault(metric, []).append(self._series(node, series))
            watts = usage * joules * values["vm"] / total
            content.setdefault(names.VM_JOULES, []).append(self._series({**vm_labels, "zone": zone}, _sum(watts)))
            content.setdefault(names.NODE_WATTS, []).append(self._series(node, joules / self.window))
            gauge = self._series({**vm_labels, "zone": zone}, watts / self.window)
            content.setdefault(names.VM_WATTS, []).append(gauge)
        return content

    def guest_csv(self, step: float = 1.0) -> str:
        """Return a CSV table of the guest's features, by the guest's clock. Hardware counters are always 0."""
        per_step = round(step * 10)
        cpus = self.vm_cpus()
        starts = np.arange(0, self.seconds * 10, per_step)
        load = np.add.reduceat(cpus, np.append(starts, self.seconds * 10))[:-1] / per_step
        times = START + (starts + per_step) / 10 - self.offset
        lines = ["timestamp,node,bpf_cpu_time_ms,cpu_cycles,cpu_instructions,cache_miss"]
        lines += [f"{time:.3f},guest-1,{1000 * value:.3f},0,0,0" for time, value in zip(times, load, strict=True)]
        return "\n".join(lines) + "\n"

    def _series(self, labels: dict[str, str], values: FloatArray) -> dict[str, Any]:
        ends = self.windows()["end"]
        pairs = [
            [START + float(end) + part * self.window / self.repeat, f"{value:.6f}"]
            for end, value in zip(ends, values, strict=True)
            for part in range(self.repeat)
        ]
        return {"metric": {"instance": "host-1:28282", **labels}, "values": pairs}


def _sum(values: FloatArray) -> FloatArray:
    return np.cumsum(values)
