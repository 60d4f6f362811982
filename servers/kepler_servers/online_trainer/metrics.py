"""The Prometheus metrics of an online trainer."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_servers.online_trainer.drift import limit
from kepler_servers.online_trainer.rounds import Rounds

PREFIX = "kepler_online_trainer"
_MODEL_LABELS = ("source", "feature_group", "model")
_COMPONENT_LABELS = (*_MODEL_LABELS, "component")


class RoundsCollector(Collector):
    """A Prometheus collector that reads the status of an online trainer at each scrape."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def describe(self) -> Iterable[Metric]:
        """Return no metrics. The registry then does not call `collect` before the first scrape."""
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
            ("instants", "Number of fetched samples, by the sample store's action.", "what", status.samples),
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
        running, limits, drift, coverage, half_width = (
            GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=_COMPONENT_LABELS)
            for name, text in (
                ("running_error_watts", "Mean absolute error of a served model on live measurements."),
                ("running_error_limit_watts", "Running error above which a served model has drifted."),
                ("model_drift", "1 if the running error of the served model exceeds its limit."),
                ("interval_coverage_ratio", "Fraction of the live measurements within a served model's interval."),
                ("interval_half_width_watts", "Mean half-width of a served model's interval on live measurements."),
            )
        )
        outside, disagreements = (
            GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=_MODEL_LABELS)
            for name, text in (
                ("samples_outside_ratio", "Fraction of the live samples that are outside the range of the training."),
                ("disagreements_ratio", "Fraction of the live samples in which a served model and its twin disagree."),
            )
        )
        for watched in self._rounds.drift.watched:
            labels = (watched.entry.source, watched.entry.feature_group, watched.entry.name)
            for component, window in watched.known_windows().items():
                error, highest = window.running_error, limit(watched.validated[component])
                for family, value in (
                    (running, error),
                    (limits, highest),
                    (drift, float(error > highest)),
                    (coverage, window.coverage),
                    (half_width, window.mean_half_width),
                ):
                    if value is not None:
                        family.add_metric((*labels, component), value)
            for family, value in ((outside, watched.outside_ratio()), (disagreements, watched.disagreement_ratio())):
                if value is not None:
                    family.add_metric(labels, value)
        yield from (running, limits, drift, coverage, half_width, outside, disagreements)
