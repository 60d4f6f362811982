"""`/healthz` and `/metrics` of the online trainer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from kepler_core import __version__
from kepler_core.errors import UsageError
from kepler_servers.http.app import Answer, Endpoints, json_answer
from kepler_servers.http.metrics import CONTENT_TYPE, RequestMetrics
from kepler_servers.online_trainer.drift import limit
from kepler_servers.online_trainer.rounds import Rounds

LATE_ROUNDS = 3
"""Without a success for so many intervals the trainer is late."""


def health(rounds: Rounds) -> dict[str, Any]:
    """What `/healthz` answers."""
    status = rounds.status
    since = status.last_success or status.started
    late = time.time() - since > LATE_ROUNDS * rounds.pace.interval
    decision = status.last_decision
    return {
        "status": "degraded" if late or status.problem is not None else "ok",
        "version": __version__,
        "server": rounds.source.client.location,
        "pipeline": rounds.source.spec.name,
        "served_version": rounds.drift.version,
        "problem": status.problem,
        "last_success": status.last_success,
        "lag_seconds": status.lag,
        "memory": {
            "instants": sum(status.memory.values()),
            "bytes": status.memory_bytes,
            "nodes": status.memory,
            "damaged_files": status.damaged_files,
        },
        "nodes_gone": status.gone,
        "drift": rounds.drift.alarm,
        "last_decision": None
        if decision is None
        else {key: decision.get(key) for key in ("time", "trigger", "decision", "version", "reason")},
    }


class _RoundsCollector(Collector):
    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        status = self._rounds.status
        prefix = "kepler_online_trainer_"
        for name, text, label, counts in (
            ("rounds", "Rounds by outcome.", "outcome", status.rounds),
            ("problems", "What went wrong, by kind.", "kind", status.problems),
            ("instants", "Instants that were fetched, by what became of them.", "what", status.instants),
            ("decisions", "Decisions about new models.", "decision", status.decisions),
        ):
            counter = CounterMetricFamily(prefix + name, text, labels=(label,))
            for key, count in sorted(counts.items()):
                counter.add_metric((key,), count)
            yield counter
        yield CounterMetricFamily(prefix + "law_changes", "Changes of a power law that were found.", status.law_changes)
        for name, text, value in (
            ("last_success_timestamp_seconds", "When a round last had an answer.", status.last_success),
            ("lag_seconds", "From the newest data in the memory to the server's clock.", status.lag),
            ("memory_bytes", "The training memory on the disk.", status.memory_bytes),
            ("served_version", "The version that is served for our node type.", self._rounds.drift.version),
            ("drift_alarm", "1: a served model is beyond its validated error.", int(self._rounds.drift.alarm)),
            ("nodes_gone", "Nodes without new data while others have some.", len(status.gone)),
        ):
            if value is not None:
                yield GaugeMetricFamily(prefix + name, text, float(value))
        memory = GaugeMetricFamily(prefix + "memory_instants", "Instants in the training memory.", labels=("node",))
        for node, count in status.memory.items():
            memory.add_metric((node,), count)
        yield memory
        seconds = GaugeMetricFamily(prefix + "last_seconds", "What took how long the last time.", labels=("what",))
        for what, value in sorted(status.seconds.items()):
            seconds.add_metric((what,), value)
        yield seconds
        labels = ("source", "feature_group", "model", "component")
        running = GaugeMetricFamily(
            prefix + "running_error_watts", "Mean absolute error of a served model on live data.", labels=labels
        )
        allowed = GaugeMetricFamily(
            prefix + "running_error_limit_watts", "Above this its validated error is not true any more.", labels=labels
        )
        alarm = GaugeMetricFamily(prefix + "model_drift", "1: it is above.", labels=labels)
        for one in self._rounds.drift.watched:
            alarms = one.alarms()
            for component, error in sorted(one.running().items()):
                of = (one.entry.source, one.entry.feature_group, one.entry.name, component)
                running.add_metric(of, error)
                allowed.add_metric(of, limit(one.validated[component]))
                alarm.add_metric(of, float(alarms[component]))
        yield from (running, allowed, alarm)


class Exposition(Endpoints):
    """The endpoints."""

    where_paths_are = "there are /healthz and /metrics"

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._registry = CollectorRegistry()
        self._registry.register(_RoundsCollector(rounds))
        ProcessCollector(registry=self._registry)
        super().__init__("the online trainer", RequestMetrics("kepler_online_trainer", self._registry).observe)
        self.route("GET", "/healthz", "healthz", self.health)
        self.route("GET", "/metrics", "metrics", self.metrics)

    def health(self) -> Answer:
        return json_answer(health(self._rounds))

    def metrics(self) -> Answer:
        return Answer(generate_latest(self._registry), CONTENT_TYPE)


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody needs to know who asked."""


def serve(rounds: Rounds, host: str, port: int) -> int:
    """Serve in a thread; the port. `UsageError` if it cannot be used."""
    try:
        server = make_server(host, port, Exposition(rounds).app, ThreadingWSGIServer, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_port)
