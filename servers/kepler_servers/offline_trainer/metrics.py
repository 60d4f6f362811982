"""`GET /metrics`: the server's own counters, and its jobs."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_servers.http.metrics import RequestMetrics
from kepler_servers.offline_trainer.jobs import Jobs

_SECONDS = (1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)


class TrainerMetrics(RequestMetrics):
    """Counters of the HTTP process."""

    def __init__(self, jobs: Jobs) -> None:
        self._registry = CollectorRegistry()
        super().__init__("kepler_offline_trainer", self._registry)
        self.received = Counter(
            "kepler_offline_trainer_received_bytes",
            "Bytes of requests for a training, unpacked.",
            registry=self._registry,
        )
        self.ended = Counter(
            "kepler_offline_trainer_jobs_ended",
            "Trainings that ended, by how: done, failed, cancelled, or lost (begun again).",
            ("how",),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "kepler_offline_trainer_job_seconds",
            "Seconds of a training, from its begin to its end.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.models = Counter(
            "kepler_offline_trainer_models",
            "Models, by whether they could be trained.",
            ("outcome",),
            registry=self._registry,
        )
        self._registry.register(_JobsCollector(jobs))

    def exposition(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)


class _JobsCollector(Collector):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would collect everything once to learn the names

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("kepler_offline_trainer_jobs", "Jobs that are kept, by state.", labels=("state",))
        for state, count in self._jobs.counts.items():
            jobs.add_metric((state,), count)
        yield jobs
