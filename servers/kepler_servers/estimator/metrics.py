"""Prometheus metrics of the estimator, on a TCP port."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_core.errors import UsageError
from kepler_servers.estimator.answers import Answers

_COUNTERS = {
    "rows": "Rows that were answered.",
    "invalid_rows": "Rows that could not be right and got 0 W.",
    "replies_with_fewer_decimals": "Replies that had room for fewer than three decimals.",
    "replies_without_all_components": "Replies that had no room for all components.",
    "replies_too_long": "Replies longer than what Kepler reads.",
    "connections": "Connections that were accepted.",
}


class _StatusCollector(Collector):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def collect(self) -> Iterable[Metric]:
        status = self._answers.status()
        requests = CounterMetricFamily("kepler_estimator_requests", "Requests by outcome.", labels=("outcome",))
        for outcome, count in status["requests"].items():
            requests.add_metric((outcome,), count)
        yield requests
        dropped = CounterMetricFamily(
            "kepler_estimator_dropped_connections", "Connections closed without a reply.", labels=("reason",)
        )
        for reason, count in status["dropped_connections"].items():
            dropped.add_metric((reason,), count)
        yield dropped
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"kepler_estimator_{name}", text, value=status[name])
        latency = GaugeMetricFamily("kepler_estimator_latency_seconds", "Of the latest replies.", labels=("quantile",))
        for key, quantile in (("p50", "0.5"), ("p99", "0.99")):
            if key in status["latency_ms"]:
                latency.add_metric((quantile,), status["latency_ms"][key] / 1e3)
        yield latency
        models = GaugeMetricFamily(
            "kepler_estimator_model_age_seconds",
            "Seconds since the model in use was loaded.",
            labels=("output_type", "source", "trainer", "filter", "model", "origin"),
        )
        for found in status["models"]:
            if "model" in found:
                labels = [str(found[key]) for key in ("output_type", "source", "trainer", "filter", "model", "origin")]
                models.add_metric(labels, found["age_seconds"])
        yield models


def serve_metrics(port: int, answers: Answers) -> None:
    """Serve in a thread; `UsageError` if the port cannot be used."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(answers))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise UsageError(f"cannot serve metrics on port {port}: {error.strerror or error}") from error
