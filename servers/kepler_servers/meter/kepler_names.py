"""Kepler's metrics of a node, for dashboards on machines without Kepler.

The metrics have the names and meanings of Kepler 0.10 to 0.11. Kepler divides the power of a zone into an active part
(usage ratio of the CPUs × power) and an idle part (the rest). So the idle part is not the power of an idle machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kepler_core.metering import Reading
from kepler_core.vocabulary import ZONE_OF_COMPONENT

_ZONE_LABELS = ("zone", "path", "node_name")
_INFO_LABELS = ("processor", "vendor_id", "model_name", "physical_id", "core_id")
_MAX_CPUINFO_BYTES = 2**24


class NodeEnergy:
    """Active and idle energy of each zone in joules, since the start of the meter."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self.active: dict[str, float] = {}
        self.idle: dict[str, float] = {}

    def add(self, joules: Mapping[str, float], usage_ratio: float) -> None:
        """Divide the energy that each zone has used since the last call into active and idle energy. Add both to the
        sums of the zone.

        `joules` maps zones to the values of their counters. The sums of a new zone start at 0.
        """
        for zone, total in joules.items():
            increase = max(total - self._last.get(zone, total), 0.0)
            self.active[zone] = self.active.get(zone, 0.0) + usage_ratio * increase
            self.idle[zone] = self.idle.get(zone, 0.0) + (1 - usage_ratio) * increase
        self._last = dict(joules)


def usage_ratio(reading: Reading) -> float | None:
    """Return the fraction of the CPU time in which CPUs were not idle; None if it is not known.

    Steal time counts as busy time, as in Kepler.
    """
    observation = reading.observation
    if observation is None or observation.load is None:
        return None
    return min(observation.load + (observation.steal or 0.0), 1.0)


def node_metrics(reading: Reading, energy: NodeEnergy, node: str) -> Iterator[Metric]:
    """Yield Kepler's metrics of a node."""
    ratio = usage_ratio(reading)
    path = reading.provenance.slug
    labels = {component: (ZONE_OF_COMPONENT.get(component, component), path, node) for component in reading.power}
    watts = GaugeMetricFamily("kepler_node_cpu_watts", "Power of a zone.", labels=_ZONE_LABELS)
    total = CounterMetricFamily("kepler_node_cpu_joules", "Energy of a zone.", labels=_ZONE_LABELS)
    for component, values in labels.items():
        watts.add_metric(values, reading.power[component].watts)
        total.add_metric(values, energy.active.get(component, 0.0) + energy.idle.get(component, 0.0))
    yield from (watts, total)
    if ratio is None:
        return
    usage = GaugeMetricFamily("kepler_node_cpu_usage_ratio", "Fraction of busy CPU time.", labels=("node_name",))
    usage.add_metric((node,), ratio)
    yield usage
    for part, share, joules in (("active", ratio, energy.active), ("idle", 1 - ratio, energy.idle)):
        part_watts = GaugeMetricFamily(
            f"kepler_node_cpu_{part}_watts", f"The {part} part of a zone's power.", labels=_ZONE_LABELS
        )
        part_joules = CounterMetricFamily(
            f"kepler_node_cpu_{part}_joules", f"The {part} part of a zone's energy.", labels=_ZONE_LABELS
        )
        for component, values in labels.items():
            part_watts.add_metric(values, share * reading.power[component].watts)
            part_joules.add_metric(values, joules.get(component, 0.0))
        yield from (part_watts, part_joules)


def cpu_info(cpus: Iterable[Mapping[str, str]]) -> Metric:
    """Return Kepler's metric with the model of each CPU."""
    family = GaugeMetricFamily("kepler_node_cpu_info", "Model of each CPU.", labels=_INFO_LABELS)
    for cpu in cpus:
        family.add_metric([cpu.get(label, "") for label in _INFO_LABELS], 1)
    return family


def read_cpus(root: str) -> list[dict[str, str]]:
    """Return the keys and values of each CPU in `proc/cpuinfo`; an empty list if the file cannot be read."""
    try:
        with (Path(root) / "proc" / "cpuinfo").open("rb") as file:
            text = file.read(_MAX_CPUINFO_BYTES).decode(errors="replace")
    except OSError:
        return []
    cpus: list[dict[str, str]] = []
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if not separator:
            continue
        key = key.strip().replace(" ", "_")
        if key == "processor":
            cpus.append({})
        if cpus:
            cpus[-1][key] = value.strip()
    return cpus
