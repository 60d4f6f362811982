"""The estimator's Prometheus metrics, its health and its readiness, served on a TCP port."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_core import __version__
from kepler_core.client import EstimatorClient, EstimatorError
from kepler_core.errors import UsageError
from kepler_servers.estimator.request_handler import RequestHandler
from kepler_servers.http.side_port import start_side_port, with_health

_COUNTERS = {
    "rows": "Rows answered.",
    "invalid_rows": "Rows with impossible values, answered with 0 W.",
    "rows_outside": "Rows with a feature outside the range of the model's training, except rows for idle power.",
    "disagreements": "Rows answered by a model's twin, because the predictions of model and twin differed too much.",
    "replies_with_fewer_decimals": "Replies that had room for fewer than three decimals.",
    "replies_without_all_components": "Replies that had no room for all components.",
    "replies_too_long": "Replies longer than the limit, which Kepler cannot read.",
    "connections": "Connections accepted.",
}
_HEALTH_TIMEOUT_SECONDS = 2.0
"""Time limit for the answer of the estimator at its own socket. An estimator that takes longer is not healthy."""
_MODEL_LABELS = ("output_type", "source", "trainer", "filter", "model", "origin")


class _StatusCollector(Collector):
    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    def collect(self) -> Iterable[Metric]:
        status = self._handler.status()
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
        for name, documentation in _COUNTERS.items():
            yield CounterMetricFamily(f"kepler_estimator_{name}", documentation, value=status[name])
        dead = CounterMetricFamily(
            "kepler_estimator_requests_with_dead_features",
            "Requests in which some features are 0 in all rows although the CPUs run.",
            labels=("features",),
        )
        for features, count in status["dead_features"].items():
            dead.add_metric((features,), count)
        yield dead
        latency = GaugeMetricFamily(
            "kepler_estimator_latency_seconds", "Latency of the latest replies.", labels=("quantile",)
        )
        for key, quantile in (("p50", "0.5"), ("p99", "0.99")):
            if key in status["latency_ms"]:
                latency.add_metric((quantile,), status["latency_ms"][key] / 1e3)
        yield latency
        models = GaugeMetricFamily(
            "kepler_estimator_model_age_seconds",
            "Seconds since the model in use was loaded.",
            labels=_MODEL_LABELS,
        )
        for model in status["models"]:
            if "model" in model:
                models.add_metric([str(model[label]) for label in _MODEL_LABELS], model["age_seconds"])
        yield models
        widths = GaugeMetricFamily(
            "kepler_estimator_interval_half_width_watts",
            "Mean half-width of the intervals of the latest answer.",
            labels=(*_MODEL_LABELS, "component"),
        )
        for model in status["models"]:
            labels = [str(model.get(label)) for label in _MODEL_LABELS]
            for component, watts in model.get("mean_half_width", {}).items():
                widths.add_metric([*labels, component], watts)
        yield widths


def serve_metrics(host: str, port: int, handler: RequestHandler) -> None:
    """Serve the metrics, `/healthz` and `/readyz` at the address `host` and a TCP port, in threads of this process.

    Raises `UsageError` if the port cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(_StatusCollector(handler))
    checks = {"/healthz": lambda: _health(handler), "/readyz": lambda: _readiness(handler)}
    try:
        start_side_port(with_health(make_wsgi_app(registry), checks), host, port)
    except UsageError as error:
        raise UsageError(f"cannot serve metrics: {error.message}") from error


def _health(handler: RequestHandler) -> tuple[int, dict[str, Any]]:
    """Check whether the estimator answers at the socket to which Kepler connects.

    The socket is served by another thread than `/healthz`. So `/healthz` could answer although the other thread hangs.
    """
    socket = handler.status()["sockets"][0]
    try:
        EstimatorClient(socket, timeout=_HEALTH_TIMEOUT_SECONDS).status()
    except EstimatorError as error:
        return 503, {"status": "failed", "version": __version__, "problem": str(error)}
    return 200, {"status": "ok", "version": __version__, "problem": None}


def _readiness(handler: RequestHandler) -> tuple[int, dict[str, Any]]:
    """Check whether at least one model provider is configured."""
    status = handler.status()
    body = {key: status[key] for key in ("sockets", "origins")}
    body["not_ready"] = None if status["origins"] else "no model server, URL or store is configured"
    return (200 if status["origins"] else 503), body
