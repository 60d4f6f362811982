"""The metrics of one node in a recording of Kepler 0.10 or later."""

from __future__ import annotations

import numpy as np

from kepler_core import kepler_names as names
from kepler_core.arrays import FloatArray
from kepler_core.errors import RecordingError
from kepler_core.pairs.increases import Labels, increases, selected
from kepler_core.recording.columns import Metric, Recording

NODE_LABELS = ("instance", "node_name")
"""Labels that name a node. None of them is required: outside of Kubernetes, Kepler up to 0.11.4 has an empty
node_name."""


class HostNode:
    """The metrics of one node in a recording."""

    def __init__(self, recording: Recording, labels: Labels) -> None:
        """Choose the node by the labels of any one of its series."""
        self.recording = recording
        self.labels = {name: labels[name] for name in NODE_LABELS if labels.get(name)}

    def metric(self, name: str) -> Metric | None:
        """Return the node's series of a metric; None if the node has no such series."""
        return selected(
            self.recording.metrics.get(name),
            lambda labels: all(labels.get(label, value) == value for label, value in self.labels.items()),
        )

    def cpus(self) -> int:
        """Return the number of the host's logical CPUs."""
        # kepler_node_cpu_info has no label node_name
        instance = self.labels.get("instance")
        info = selected(
            self.recording.metrics.get(names.CPU_INFO),
            lambda labels: instance is None or labels.get("instance", instance) == instance,
        )
        if info is None:
            raise self.missing(names.CPU_INFO)
        return len({info.labels[at].get("processor", "") for at in np.unique(info.series)})

    def energy(self) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return ascending timestamps, and for each component the node's joules between these timestamps.

        The sum of active and idle joules is preferred, because the raw counter falls back to 0 at its maximum.
        """
        active, idle = self.metric(names.NODE_ACTIVE_JOULES), self.metric(names.NODE_IDLE_JOULES)
        raw = self.metric(names.NODE_JOULES)
        parts = [active, idle] if active is not None and idle is not None else [raw]
        if parts[0] is None:
            raise self.missing(names.NODE_JOULES)
        grid = np.unique(parts[0].timestamps)
        energy: dict[str, FloatArray] = {}
        for part in parts:
            assert part is not None
            for zone, metric in by_component(part).items():
                values = increases(metric, grid)
                energy[zone] = energy[zone] + values if zone in energy else values
        return grid, energy

    def cpu_seconds(self, grid: FloatArray) -> FloatArray:
        """Return the CPU seconds of all processes between neighbouring timestamps, shape (timestamps − 1,)."""
        processes = self.metric(names.PROCESS_SECONDS)
        if processes is None:
            raise self.missing(names.PROCESS_SECONDS)
        return increases(processes, grid, new_from_zero=True, falls="reset")

    def missing(self, metric: str) -> RecordingError:
        """Return an error which says that the node lacks a metric."""
        present = [name for name in names.PAIR_METRICS if name in self.recording.metrics]
        return RecordingError(
            f"no {metric} of {' '.join(self.labels.values()) or 'the host'}; the recording has "
            f"{', '.join(present) or 'no metric of Kepler 0.10 or later'}",
            document=self.recording.name,
        )


def by_component(metric: Metric) -> dict[str, Metric]:
    """Return a metric's series by component. Zones that are not a component are left out."""
    zones = {}
    for zone, component in names.ZONE_COMPONENTS.items():
        part = selected(metric, lambda labels, zone=zone: labels.get("zone") == zone)  # type: ignore[misc]
        if part is not None:
            zones[component] = part
    return zones
