"""Prometheus metrics of the offline trainer (`GET /metrics`): requests, jobs and models."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kepler_servers.http.metrics import RequestMetrics
from kepler_servers.offline_trainer.jobs import Jobs

_JOB_SECONDS_BUCKETS = (1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)


class TrainerMetrics(RequestMetrics):
    """All Prometheus metrics of the offline trainer, including the number of jobs by state."""

    def __init__(self, jobs: Jobs) -> None:
        self._registry = CollectorRegistry()
        super().__init__("kepler_offline_trainer", self._registry)
        self.received = Counter(
            "kepler_offline_trainer_received_bytes",
            "Size of the received training requests, in bytes of unpacked JSON.",
            registry=self._registry,
        )
        self.ended = Counter(
            "kepler_offline_trainer_jobs_ended",
            "Number of trainings that ended, by outcome: done, failed, cancelled, or lost (its job is queued again).",
            ("how",),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "kepler_offline_trainer_job_seconds",
            "Duration of a training in seconds.",
            buckets=_JOB_SECONDS_BUCKETS,
            registry=self._registry,
        )
        self.models = Counter(
            "kepler_offline_trainer_models",
            "Number of models, by outcome: trained or failed. A data set that could not be prepared counts as failed.",
            ("outcome",),
            registry=self._registry,
        )
        self._registry.register(_JobsCollector(jobs))

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _JobsCollector(Collector):
    """Collector of prometheus_client for the number of jobs by state. It reads the queue at each scrape."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def describe(self) -> Iterable[Metric]:
        # Without this method, prometheus_client would call `collect` at registration, to get the metrics' names.
        return ()

    def collect(self) -> Iterable[Metric]:
        help_text = "Number of jobs in the queue's database, by state."
        gauge = GaugeMetricFamily("kepler_offline_trainer_jobs", help_text, labels=("state",))
        for state, count in self._jobs.counts.items():
            gauge.add_metric((state,), count)
        yield gauge
