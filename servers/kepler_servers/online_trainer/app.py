"""The HTTP endpoints `/healthz`, `/readyz` and `/metrics` of the online trainer."""

from __future__ import annotations

import time

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from kepler_core import __version__
from kepler_servers.http.answer import RETRY_LATER, Answer, json_answer
from kepler_servers.http.app import App
from kepler_servers.http.metrics import CONTENT_TYPE, RequestMetrics
from kepler_servers.http.route import Returns, Route
from kepler_servers.online_trainer.metrics import PREFIX, RoundsCollector
from kepler_servers.online_trainer.rounds import Rounds
from kepler_servers.online_trainer.watched_state import WatchedModelState, watched_state

LATE_INTERVALS = 3
"""`/healthz` reports "degraded" if no round has succeeded for this number of intervals between rounds."""


class StoredSamples(msgspec.Struct):
    """State of the sample store."""

    instants: int
    """Number of samples."""
    bytes: int
    """Size of the sample store on disk."""
    nodes: dict[str, int]
    """Number of samples of each node."""
    damaged_files: int


class DecisionSummary(msgspec.Struct):
    """The most important members of the decision that a retraining has recorded."""

    time: str | None
    trigger: str | None
    decision: str | None
    version: int | None
    reason: str | None


class Health(msgspec.Struct):
    """State of the online trainer, which `/healthz` returns as JSON."""

    status: str
    """Either "ok", or "degraded" if the latest round failed or the latest success is long ago (`LATE_INTERVALS`)."""
    version: str
    """The version of Kepler Core."""
    server: str
    """URL of the Prometheus server from which samples are fetched, without credentials."""
    pipeline: str
    served_version: int | None
    problem: str | None
    last_success: float | None
    """Time of the latest successful round, Unix seconds; null before the first success."""
    lag_seconds: float | None
    memory: StoredSamples
    nodes_gone: dict[str, float]
    """For each node without new samples: seconds by which its newest sample is older than the newest sample of all."""
    drift: bool
    models: list[WatchedModelState]
    """The served models that are compared with new samples."""
    last_decision: DecisionSummary | None


def health(rounds: Rounds) -> Health:
    """Return the current state of the online trainer."""
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
        models=[watched_state(watched) for watched in rounds.drift.watched],
        last_decision=None
        if decision is None
        else DecisionSummary(*(decision.get(key) for key in DecisionSummary.__struct_fields__)),
    )


def make_app(rounds: Rounds) -> App:
    """Return an HTTP application with the endpoints of an online trainer."""
    registry = CollectorRegistry()
    registry.register(RoundsCollector(rounds))
    ProcessCollector(registry=registry)

    def metrics() -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE}, generate_latest(registry))

    def healthz() -> Health:
        return health(rounds)

    def readyz() -> Answer:
        state = health(rounds)
        return json_answer(state) if state.last_success is not None else json_answer(state, 503, RETRY_LATER)

    not_ready = Returns({"application/json": Health}, status=503, description="No round has fetched samples yet.")
    routes = (
        Route("GET", "/healthz", "healthz", healthz, summary="Return the state of the online trainer.", returns=Health),
        Route(
            "GET", "/readyz", "readyz", readyz, summary="Report whether the online trainer has fetched samples.",
            returns=[Returns({"application/json": Health}), not_ready],
        ),
        Route(
            "GET", "/metrics", "metrics", metrics, summary="Return Prometheus metrics.",
            returns=[Returns({"text/plain": str})],
        ),
    )  # fmt: skip
    return App("online trainer", routes, observe=RequestMetrics(PREFIX, registry).observe, openapi=False)
