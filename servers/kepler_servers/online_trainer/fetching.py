"""What is new at the Prometheus server, as observations."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import attrs

from kepler_core.errors import RecordingError
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.prometheus import PrometheusClient, Query, answers, plan_queries, select_metrics
from kepler_core.prometheus.joining import recording_bytes
from kepler_core.recording import Observations, observe, read_recording

SLICE_SECONDS = 1800.0
"""A long gap is caught up with in parts of this length: each is kept before the next is asked for."""


@attrs.frozen
class Source:
    """What to ask a server for."""

    client: PrometheusClient
    spec: PipelineSpec
    step: float | None
    instance: str | None
    matchers: tuple[str, ...]
    jobs: int = 4

    def fetch(self, since: float, until: float, stop: threading.Event) -> Observations | None:
        """All between two times; None where there is nothing. `PrometheusError` if any of the queries
        fails: half of a time is never taken."""
        names = self.client.metric_names(since, until, self.matchers)
        selections = select_metrics(names, spec=self.spec, instance=self.instance, matchers=self.matchers)
        if not selections:
            return None
        found: dict[str, list[tuple[Query, list[bytes]]]] = {}
        queries = plan_queries(selections, self._aligned(since), until, self.step)
        for query, results in answers(self.client, queries, jobs=self.jobs, stop=stop):
            found.setdefault(query.metric, []).append((query, results))
        in_order = {
            metric: [result for _, results in sorted(parts, key=lambda part: part[0].start) for result in results]
            for metric, parts in sorted(found.items())
        }
        content = {metric: results for metric, results in in_order.items() if any(r != b"[]" for r in results)}
        if not content:
            return None
        recording = read_recording(recording_bytes(content), name=self.client.location)
        try:
            return observe([recording], use_vm_metrics=self.spec.use_vm_metrics, third_party=self.spec.third_party)
        except RecordingError:
            # only metrics of others, or only names without a sample
            if any(metric.n_samples for metric in recording.metrics.values()):
                raise
            return None

    def _aligned(self, since: float) -> float:
        # or the same time would have other timestamps the next time
        return since if self.step is None else since // self.step * self.step


def slices(since: float, until: float, overlap: float) -> Iterator[tuple[float, float]]:
    """A time in parts, each beginning so long before the end of the last one that its rates are known."""
    start = since
    while until - start > SLICE_SECONDS + overlap:
        yield start, start + SLICE_SECONDS + overlap
        start += SLICE_SECONDS
    yield start, until
