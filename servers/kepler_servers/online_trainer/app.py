"""`/healthz` and `/metrics` of the online trainer."""

from __future__ import annotations

import time

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from kepler_core import __version__
from kepler_servers.http.answer import Answer
from kepler_servers.http.app import App
from kepler_servers.http.metrics import CONTENT_TYPE, RequestMetrics
from kepler_servers.http.route import Returns, Route
from kepler_servers.online_trainer.metrics import PREFIX, RoundsCollector
from kepler_servers.online_trainer.rounds import Rounds

LATE_INTERVALS = 3
"""The trainer is degraded after this number of intervals without a success."""


class StoredSamples(msgspec.Struct):
    """The sample store."""

    instants: int
    """Number of samples."""
    bytes: int
    """Size on disk."""
    nodes: dict[str, int]
    """Number of samples by node."""
    damaged_files: int


class DecisionSummary(msgspec.Struct):
    """A recorded decision in brief."""

    time: str | None
    trigger: str | None
    decision: str | None
    version: int | None
    reason: str | None


class Health(msgspec.Struct):
    """The state of the trainer."""

    status: str
    """"ok", or "degraded" if the last round failed or the last success is long ago."""
    version: str
    """The version of Kepler Core."""
    server: str
    """The Prometheus server."""
    pipeline: str
    served_version: int | None
    problem: str | None
    last_success: float | None
    """Unix seconds."""
    lag_seconds: float | None
    memory: StoredSamples
    nodes_gone: dict[str, float]
    """Node without new samples -> seconds that it is behind the others."""
    drift: bool
    last_decision: DecisionSummary | None


def health(rounds: Rounds) -> Health:
    """Return the state of the trainer."""
    status = rounds.status
    late_seconds = LATE_INTERVALS * rounds.schedule.interval
    is_late = time.time() - (status.last_success or status.started) > late_seconds
    decision = status.last_decision
    return Health(
        status="degraded" if is_late or status.problem is not None else "ok",
        version=__version__,
        server=rounds.fetcher.client.location,
        pipeline=rounds.fetcher.spec.name,
        served_version=rounds.drift.version,
        problem=status.problem,
        last_success=status.last_success,
        lag_seconds=status.lag,
        memory=StoredSamples(
            sum(status.stored_samples.values()), status.stored_bytes, status.stored_samples, status.damaged_files
        ),
        nodes_gone=status.gone,
        drift=rounds.drift.alarm,
        last_decision=None
        if decision is None
        else DecisionSummary(*(decision.get(key) for key in DecisionSummary.__struct_fields__)),
    )


def make_app(rounds: Rounds) -> App:
    """Return the endpoints of a trainer."""
    registry = CollectorRegistry()
    registry.register(RoundsCollector(rounds))
    ProcessCollector(registry=registry)

    def metrics() -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE}, generate_latest(registry))

    def healthz() -> Health:
        return health(rounds)

    routes = (
        Route("GET", "/healthz", "healthz", healthz, summary="Return the state of the trainer.", returns=Health),
        Route(
            "GET", "/metrics", "metrics", metrics, summary="Return Prometheus metrics.",
            returns=[Returns({"text/plain": str})],
        ),
    )  # fmt: skip
    return App("online trainer", routes, observe=RequestMetrics(PREFIX, registry).observe, openapi=False)
