"""The metrics of the output `prometheus`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_core.messages import printable
from kepler_core.metering import Reading
from kepler_core.vocabulary import ZONE_OF_COMPONENT
from kepler_servers.meter.kepler_names import NodeEnergy, cpu_info, node_metrics, read_cpus

if TYPE_CHECKING:
    from kepler_servers.http.side_port import WsgiApplication
    from kepler_servers.meter.status import MeterStatus

PREFIX = "kepler_meter"
MAX_PROBLEMS = 20
"""Maximum number of problems in the metrics, because Prometheus stores a separate series for each problem."""
MAX_EXTRAPOLATED_SECONDS = 10.0
"""If the meter publishes no new reading for this time, the counters in the metrics stop rising."""


@attrs.frozen
class Published:
    """The latest reading that the meter has published, with its energy counters."""

    reading: Reading
    joules: Mapping[str, float]
    since: float
    """Time of the publication, by `time.monotonic`."""


@attrs.define
class MeterState:
    """The values from which the metrics are made.

    The thread of the meter replaces the values. The threads that answer scrapes read them.
    """

    kepler_names: bool
    """Whether the output also serves Kepler's metrics of a node."""
    root: str
    node: str
    """Value of the label `node_name` in Kepler's metrics."""
    published: Published | None = None
    """The latest published reading; None while there is no estimate."""
    reason: str = "the meter has just started"
    """The reason why there is no estimate; only valid while `published` is None."""
    status: MeterStatus | None = None
    node_energy: NodeEnergy = attrs.field(factory=NodeEnergy)
    advise: Callable[[Reading], Sequence[str]] | None = None
    """Function that returns advice on how to make the interval of a reading narrower, as sentences; None if no such
    function was set."""


def metrics_application(state: MeterState) -> WsgiApplication:
    """Return a WSGI application that serves the metrics."""
    registry = CollectorRegistry()
    registry.register(_MeterCollector(state))
    application: WsgiApplication = make_wsgi_app(registry)
    return application


class _MeterCollector(Collector):
    """Collector of prometheus_client, which makes the metrics at each scrape."""

    def __init__(self, state: MeterState) -> None:
        self._state = state
        self._cpus = read_cpus(state.root) if state.kepler_names else []
        self._shown: dict[str, float] = {}
        """Highest value of each component's energy counter that was served so far."""
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        published = self._state.published
        estimate = GaugeMetricFamily(
            f"{PREFIX}_estimate", "1 if there is an estimate of the power, 0 if there is none."
        )
        estimate.add_metric((), float(published is not None))
        yield estimate
        if published is not None:
            yield from _power_metrics(published.reading)
            yield self._joules(published)
            yield from _source_metrics(published)
            yield from _observed_metrics(published.reading)
            if self._state.kepler_names:
                reading, energy = published.reading, self._state.node_energy
                yield from node_metrics(reading, energy, self._state.node)
        yield from self._process_metrics(published)
        if self._state.kepler_names:
            yield cpu_info(self._cpus)

    def _joules(self, published: Published) -> Metric:
        """Return the current values of the energy counters.

        A scrape may happen while the meter publishes a new power. Therefore a counter is never served with a lower
        value than at an earlier scrape: Prometheus would treat a lower value as a counter reset.
        """
        family = CounterMetricFamily(
            f"{PREFIX}_joules", "Energy of a component: the integral of its watts.", labels=("component",)
        )
        with self._lock:
            seconds = min(max(time.monotonic() - published.since, 0.0), MAX_EXTRAPOLATED_SECONDS)
            for component, power in published.reading.power.items():
                joules = published.joules[component] + power.watts * seconds
                joules = self._shown[component] = max(joules, self._shown.get(component, 0.0))
                family.add_metric((component,), joules)
        return family

    def _process_metrics(self, published: Published | None) -> Iterator[Metric]:
        status = self._state.status
        problems = [] if published is not None else [self._state.reason]
        if status is not None:
            problems += status.problems
            problems += [f"output {name}: {problem}" for name, problem in status.output_problems.items()]
            for name, text, value in (
                ("collect_seconds", "Duration of the latest collection of features.", status.collect_seconds),
                ("estimate_seconds", "Duration of the latest estimate.", status.estimate_seconds),
                (
                    "latest_delay_seconds",
                    "Longest delay of a publication since the start.",
                    status.latest_delay_seconds,
                ),
                ("interval_seconds", "Seconds between two readings.", status.interval),
            ):
                yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value)
            if published is not None and published.reading.provenance.kind != "measured":
                yield _by_zone(
                    published.reading,
                    "kepler_vm_model_inference_duration_seconds",
                    "Duration of the latest estimate, for all zones together.",
                    status.estimate_seconds,
                )
        yield GaugeMetricFamily(f"{PREFIX}_problems", "Number of problems.", len(problems))
        family = GaugeMetricFamily(
            f"{PREFIX}_problem_info", "1 for each problem; the label has the log's text.", labels=("problem",)
        )
        for problem in dict.fromkeys(printable(problem, 200) for problem in problems[:MAX_PROBLEMS]):
            family.add_metric((problem,), 1)
        yield family


def _by_zone(reading: Reading, name: str, text: str, value: float) -> Metric:
    """Return a metric that has the same value for each zone."""
    family = GaugeMetricFamily(name, text, labels=("zone",))
    for component in reading.power:
        family.add_metric((ZONE_OF_COMPONENT.get(component, component),), value)
    return family


def _power_metrics(reading: Reading) -> Iterator[Metric]:
    watts, lower, upper = (
        GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=("component",))
        for name, text in (
            ("watts", "Power of a component."),
            ("watts_lower", "Lower end of the 90 % interval of the power."),
            ("watts_upper", "Upper end of the 90 % interval of the power."),
        )
    )
    for component, power in reading.power.items():
        watts.add_metric((component,), power.watts)
        lower.add_metric((component,), power.lower)
        upper.add_metric((component,), power.upper)
    yield from (watts, lower, upper)
    for name, text, bound in (
        ("idle_watts", "Power of the machine if it does nothing.", reading.idle),
        ("full_watts", "Power of the machine if all CPUs are busy.", reading.full),
    ):
        if bound is not None:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, bound.watts)


def _source_metrics(published: Published) -> Iterator[Metric]:
    reading = published.reading
    provenance = reading.provenance
    info = GaugeMetricFamily(
        f"{PREFIX}_source_info",
        "1 for the power source in use, and the part of the host's idle power that the watts contain.",
        labels=("kind", "name", "version", "idle_share"),
    )
    labels = (provenance.kind, provenance.name, provenance.version, reading.idle_share)
    info.add_metric([printable(label) for label in labels], 1)
    yield info
    age = GaugeMetricFamily(f"{PREFIX}_reading_age_seconds", "Age of the latest reading.")
    age.add_metric((), time.monotonic() - published.since)
    yield age
    flags = GaugeMetricFamily(f"{PREFIX}_flag", "1 for each reason to doubt the watts.", labels=("flag",))
    for flag in reading.flags:
        flags.add_metric((flag,), 1)
    yield flags
    if provenance.kind != "measured":
        # The proposal "VM power modelling" of Kepler's community defines these metrics. The meter serves only the
        # metrics whose values it knows.
        version = GaugeMetricFamily(
            "kepler_vm_model_version", "1 for the version of the model of a zone.", labels=("zone", "version")
        )
        for component in reading.power:
            version.add_metric((ZONE_OF_COMPONENT.get(component, component), printable(provenance.version)), 1)
        yield version


def _observed_metrics(reading: Reading) -> Iterator[Metric]:
    observation = reading.observation
    if observation is None:
        return
    features = GaugeMetricFamily(
        f"{PREFIX}_feature", "Features that the collectors measured; counters as rates per second.", labels=("feature",)
    )
    for feature, value in observation.features.items():
        features.add_metric((feature,), value)
    yield features
    for name, text, ratio in (
        ("load_ratio", "Fraction of the CPU time in which CPUs were busy.", observation.load),
        ("steal_ratio", "Fraction of the CPU time that the host gave to other work.", observation.steal),
    ):
        if ratio is not None:
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, ratio)
