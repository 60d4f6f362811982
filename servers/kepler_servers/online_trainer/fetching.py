"""Fetch new samples from a Prometheus server as observations."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import attrs

from kepler_core.errors import RecordingError
from kepler_core.pipeline.observing import observe_for
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.prometheus import PrometheusClient, Query, answers, plan_queries, select_metrics
from kepler_core.prometheus.joining import recording_bytes
from kepler_core.recording import Observations, read_recording

SLICE_SECONDS = 1800.0
"""A long gap is fetched in slices of this length. Each slice is stored before the next is fetched."""


@attrs.frozen
class Fetcher:
    """A fetcher of the metrics that one pipeline needs, from one server."""

    client: PrometheusClient
    spec: PipelineSpec
    step: float | None
    """Seconds between fetched values; None: as they were scraped."""
    instance: str | None
    """The only node to fetch; None: all."""
    matchers: tuple[str, ...]
    """Label matchers that every series must fulfil."""
    jobs: int = 4
    """Queries at a time."""

    def fetch(self, since: float, until: float, stop: threading.Event) -> Observations | None:
        """Fetch a time range; None if the server has nothing in it.

        `PrometheusError` if any query fails: an incomplete range is never returned.
        """
        names = self.client.metric_names(since, until, self.matchers)
        selections = select_metrics(names, spec=self.spec, instance=self.instance, matchers=self.matchers)
        if not selections:
            return None
        by_metric: dict[str, list[tuple[Query, list[bytes]]]] = {}
        queries = plan_queries(selections, self._aligned(since), until, self.step)
        for query, results in answers(self.client, queries, jobs=self.jobs, stop=stop):
            by_metric.setdefault(query.metric, []).append((query, results))
        in_order = {
            metric: [result for _, results in sorted(parts, key=lambda part: part[0].start) for result in results]
            for metric, parts in sorted(by_metric.items())
        }
        content = {metric: results for metric, results in in_order.items() if any(r != b"[]" for r in results)}
        if not content:
            return None
        recording = read_recording(recording_bytes(content), name=self.client.location)
        try:
            return observe_for(self.spec, [recording])
        except RecordingError:
            # without values, there are only third-party metrics or metrics that have just begun
            if any(metric.n_samples for metric in recording.metrics.values()):
                raise
            return None

    def _aligned(self, since: float) -> float:
        # multiples of the step: otherwise the next fetch returns other timestamps for the same time range
        return since if self.step is None else since // self.step * self.step


def time_slices(since: float, until: float, overlap: float) -> Iterator[tuple[float, float]]:
    """Split a time range. Each slice starts `overlap` seconds before the previous one ends, so that rates
    are known from its beginning."""
    start = since
    while until - start > SLICE_SECONDS + overlap:
        yield start, start + SLICE_SECONDS + overlap
        start += SLICE_SECONDS
    yield start, until
