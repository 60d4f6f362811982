"""The idle power of each zone of a node, estimated from the quiet times of a recording: the times of low load.

Kepler's own "idle" power is only the unused part of the energy between two measurements, (1 − usage) · energy: it falls
to 0 as the machine gets busy. The idle power of a machine is what it draws while it does nothing.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kepler_core import kepler_names as names
from kepler_core.arrays import FloatArray
from kepler_core.doctor.examination import nodes_of
from kepler_core.errors import RecordingError
from kepler_core.pairs.host_node import HostNode, by_component
from kepler_core.pairs.increases import increases, on_grid
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.observations import Observations, Stream
from kepler_core.recording.quiet import FEWEST_IDLE_SAMPLES, IDLE_PART, QuietTimes, quiet_times

_SOURCE = "kepler"
_LOAD = "bpf_cpu_time_ms"
"""Feature that shows when a node is quiet: CPU milliseconds per second."""


@attrs.frozen
class ZoneIdle:
    """The idle power of one zone of a node."""

    node: str
    zone: str
    watts: float | None
    """Median power while the node was idle; None if it was not idle for long enough."""
    kepler_watts: float | None
    """Mean of Kepler's "idle" power over the whole recording; None if the recording does not have it."""
    load: float
    """Load in the quietest times, from 0 to 1. The load 1 means that all CPUs are busy or, if their number is unknown,
    that the load is the highest of the recording."""
    readings: int
    """Number of readings while the node was idle."""

    @property
    def reason(self) -> str:
        """Why the idle power is not known; "" if it is known."""
        if self.watts is not None:
            return ""
        if self.load > IDLE_PART:
            return f"never idle: the load was {100 * self.load:.0f} % in the quietest times"
        return f"only {self.readings} readings while idle; {FEWEST_IDLE_SAMPLES} are needed"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in the form that `kepler-model doctor --json` prints."""
        return {**attrs.asdict(self), "reason": self.reason}


def idle_power(recording: Recording) -> list[ZoneIdle]:
    """Return the idle power of each zone of each node. A node whose load or energy is not known is left out."""
    return [zone for node in nodes_of(recording) for zone in _of_node(node)]


def _of_node(node: HostNode) -> list[ZoneIdle]:
    try:
        grid, energy = node.energy()
    except RecordingError:
        return []
    cpus = node.cpus() if node.metric(names.CPU_INFO) is not None else None
    load = _load(node, grid, cpus)
    if load is None or len(grid) < 3:
        return []
    power = {zone: joules / np.diff(grid) for zone, joules in energy.items()}
    quiet = _quiet(node, grid, load, power, cpus)
    kepler = {} if (metric := node.metric(names.NODE_IDLE_JOULES)) is None else by_component(metric)
    zones = []
    for zone, watts in power.items():
        idle = watts[quiet.samples & np.isfinite(watts)]
        enough = quiet.idle and len(idle) >= FEWEST_IDLE_SAMPLES
        zones.append(
            ZoneIdle(
                node.labels.get("instance", ""),
                zone,
                float(np.median(idle)) if enough else None,
                _mean(increases(kepler[zone], grid), grid) if zone in kepler else None,
                float(quiet.part),
                len(idle),
            )
        )
    return zones


def _load(node: HostNode, grid: FloatArray, cpus: int | None) -> FloatArray | None:
    """Return the CPU milliseconds per second between timestamps of `grid`; None if the load is not known."""
    if node.metric(names.PROCESS_SECONDS) is not None:
        return 1000.0 * node.cpu_seconds(grid) / np.diff(grid)
    ratio = node.metric(names.USAGE_RATIO)
    return None if ratio is None or cpus is None else 1000.0 * cpus * on_grid(ratio, grid)[1:]


def _quiet(
    node: HostNode, grid: FloatArray, load: FloatArray, power: dict[str, FloatArray], cpus: int | None
) -> QuietTimes:
    n = len(load)
    empty = np.empty(0, dtype=np.int64)
    observations = Observations(
        streams=(Stream(node.recording.name, node.labels.get("instance", "")),),
        sample_stream=np.zeros(n, dtype=np.int64),
        sample_time=grid[1:],
        containers=(),
        container_names=(),
        row_sample=empty,
        row_container=empty,
        container_features={},
        node_features={_LOAD: load},
        node_gauges=frozenset(),
        power={(_SOURCE, zone): watts for zone, watts in power.items()},
        step=float(np.median(np.diff(grid))),
        counts=Counts(),
        schemas=(),
        digest=node.recording.digest,
    )
    return quiet_times(observations, {} if cpus is None else {"cores": cpus})


def _mean(joules: FloatArray, grid: FloatArray) -> float | None:
    known = np.isfinite(joules)
    return float(joules[known].sum() / np.diff(grid)[known].sum()) if known.any() else None
