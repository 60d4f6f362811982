"""The Prometheus metrics of an online trainer."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_servers.online_trainer.drift import limit
from kepler_servers.online_trainer.rounds import Rounds

PREFIX = "kepler_online_trainer"
_MODEL_LABELS = ("source", "feature_group", "model", "component")


class RoundsCollector(Collector):
    """A Prometheus collector that reads the status of an online trainer at each scrape."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that the registry does not call `collect` before the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        yield from self._counters()
        yield from self._gauges()
        yield from self._models()

    def _counters(self) -> Iterable[Metric]:
        status = self._rounds.status
        for name, text, label, counts in (
            ("rounds", "Number of rounds, by outcome.", "outcome", status.rounds),
            ("problems", "Number of problems, by kind.", "kind", status.problems),
            ("instants", "Number of fetched samples, by what the store did with them.", "what", status.samples),
            ("decisions", "Number of retrainings, by decision.", "decision", status.decisions),
        ):
            counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
            for key, count in sorted(counts.items()):
                counter.add_metric((key,), count)
            yield counter
        yield CounterMetricFamily(f"{PREFIX}_law_changes", "Number of power shifts found.", status.power_shifts)

    def _gauges(self) -> Iterable[Metric]:
        status, drift = self._rounds.status, self._rounds.drift
        for name, text, value in (
            ("last_success_timestamp_seconds", "Unix time of the latest round that fetched data.", status.last_success),
            (
                "lag_seconds",
                "Age of the newest data in the sample store, by the clock of the Prometheus server.",
                status.lag,
            ),
            ("memory_bytes", "Size of the sample store on disk.", status.stored_bytes),
            ("served_version", "Version of the pipeline that is served for the node type.", drift.version),
            ("drift_alarm", "1 if the running error of a served model exceeds its limit.", int(drift.alarm)),
            ("nodes_gone", "Number of nodes that have no new samples although other nodes have.", len(status.gone)),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"{PREFIX}_{name}", text, float(value))
        samples = GaugeMetricFamily(
            f"{PREFIX}_memory_instants", "Number of samples in the sample store, by node.", labels=("node",)
        )
        for node, count in status.stored_samples.items():
            samples.add_metric((node,), count)
        yield samples
        seconds = GaugeMetricFamily(
            f"{PREFIX}_last_seconds", "Duration of the latest round, fetch or retraining.", labels=("what",)
        )
        for what, value in sorted(status.seconds.items()):
            seconds.add_metric((what,), value)
        yield seconds

    def _models(self) -> Iterable[Metric]:
        running = GaugeMetricFamily(
            f"{PREFIX}_running_error_watts",
            "Mean absolute error of a served model on live measurements.",
            labels=_MODEL_LABELS,
        )
        limits = GaugeMetricFamily(
            f"{PREFIX}_running_error_limit_watts",
            "Running error above which a served model has drifted.",
            labels=_MODEL_LABELS,
        )
        drift = GaugeMetricFamily(
            f"{PREFIX}_model_drift",
            "1 if the running error of the served model exceeds its limit.",
            labels=_MODEL_LABELS,
        )
        for watched in self._rounds.drift.watched:
            alarms = watched.alarms()
            for component, error in sorted(watched.running().items()):
                labels = (watched.entry.source, watched.entry.feature_group, watched.entry.name, component)
                running.add_metric(labels, error)
                limits.add_metric(labels, limit(watched.validated[component]))
                drift.add_metric(labels, float(alarms[component]))
        yield from (running, limits, drift)
