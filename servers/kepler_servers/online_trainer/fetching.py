"""Fetch samples from a Prometheus server and convert them to observations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from kepler_core.errors import RecordingError
from kepler_core.pipeline.observing import observe_for
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.prometheus import PrometheusClient, Query, Selection, answers, plan_queries, select_metrics
from kepler_core.prometheus.host_groups import host_groups
from kepler_core.prometheus.instances import Shard, shards_of
from kepler_core.prometheus.joining import recording_bytes
from kepler_core.prometheus.scrape_interval import rounded_step, scrape_interval
from kepler_core.recording import Observations, read_recording
from kepler_core.recording.observations import has_short_window

log = logging.getLogger(__name__)

SLICE_SECONDS = 1800.0
"""Maximum length of a time range that is fetched at once. A longer time range is fetched in slices of this length.

Each slice is stored before the next slice is fetched.
"""


@attrs.frozen
class Fetcher:
    """A fetcher that queries one Prometheus server for the metrics that one pipeline needs."""

    client: PrometheusClient
    spec: PipelineSpec
    step: float | None
    """Seconds between the values to fetch. None means that each scraped value is fetched.

    The fetcher rounds the step to a multiple of the scrape interval.
    """
    instance: str | None
    """Regular expression for the node labels to fetch; None fetches all nodes."""
    matchers: tuple[str, ...]
    """PromQL label matchers that every fetched series must satisfy."""
    jobs: int = 4
    """Number of parallel queries."""
    instances_per_query: int | None = None
    """Number of instances whose series a query fetches; None chooses the number by the size of the answers."""

    def fetch_groups(self, since: float, until: float, stop: threading.Event) -> Iterator[Observations]:
        """Fetch the samples from `since` to `until` (Unix seconds), and yield the observations of groups of nodes.

        Only one group is in memory at a time. Small fleets are one group. Raises `PrometheusError` if any query fails,
        and `RecordingError` if no group can be observed, for example because no node has energy.
        """
        selections = self._selections(since, until)
        if not selections:
            return
        groups = host_groups(self.client, selections, (since, until), self.step, jobs=self.jobs, stop=stop)
        step = self._step(selections, since, until, groups[0])
        error: RecordingError | None = None
        is_any_observed = False
        for group in groups:
            try:
                observations = self._fetch_group(selections, group, since, until, step, stop)
            except RecordingError as failed:
                error = error or failed
                continue
            if observations is not None and len(observations.sample_time):
                is_any_observed = True
                yield observations
        if error is not None and not is_any_observed:
            raise error

    def _selections(self, since: float, until: float) -> list[Selection]:
        names = self.client.metric_names(since, until, self.matchers)
        return select_metrics(names, spec=self.spec, instance=self.instance, matchers=self.matchers)

    def _fetch_group(
        self,
        selections: Sequence[Selection],
        group: Shard | None,
        since: float,
        until: float,
        step: float | None,
        stop: threading.Event,
    ) -> Observations | None:
        """Fetch the samples of a group of instances; None as group stands for all instances."""
        by_metric: dict[str, list[tuple[Query, list[bytes]]]] = {}
        shards: list[Shard | None] = [None] if group is None else [*shards_of(group, self.instances_per_query)]
        of_each = dict.fromkeys(selections, shards)
        queries = plan_queries(selections, _aligned(since, step), until, step, of_each)
        for query, results in answers(self.client, queries, jobs=self.jobs, stop=stop):
            by_metric.setdefault(query.metric, []).append((query, results))
        in_order = {
            metric: [result for _, results in sorted(parts, key=lambda part: part[0].start) for result in results]
            for metric, parts in sorted(by_metric.items())
        }
        del by_metric
        content = {metric: results for metric, results in in_order.items() if any(r != b"[]" for r in results)}
        if not content:
            return None
        recording = read_recording(recording_bytes(content), name=self.client.location)
        try:
            return without_long_windows(observe_for(self.spec, [recording]))
        except RecordingError:
            # It is not an error if the recording has no values at all. Perhaps all series have just begun, or there are
            # only third-party metrics.
            if any(metric.n_samples for metric in recording.metrics.values()):
                raise
            return None

    def _step(
        self, selections: Sequence[Selection], since: float, until: float, instances: Shard | None
    ) -> float | None:
        """Return the number of seconds between fetched values, rounded to a multiple of the scrape interval.

        `instances` are the instances whose scrape interval is looked at; None looks at all. Returns None if each
        scraped value is fetched.
        """
        if self.step is None:
            return None
        interval = scrape_interval(self.client, selections, since, until, instances=instances)
        step = self.step if interval is None else rounded_step(self.step, interval)
        if step != self.step:
            log.info("fetching with the step %g s instead of %g s: scrapes are %g s apart", step, self.step, interval)
        return step


def without_long_windows(observations: Observations) -> Observations:
    """Replace watts that are means over several samples by NaN, and return the observations.

    `Observations.windows` lists the samples that each mean covers. The sample store does not contain this list. Without
    the list, a mean would be compared only with the features of its last sample.
    """
    power = {
        (source, component): np.where(has_short_window(observations, source), watts, np.nan)
        for (source, component), watts in observations.power.items()
    }
    return attrs.evolve(observations, power=power, windows={})


def _aligned(since: float, step: float | None) -> float:
    # start at a multiple of the step, so that overlapping fetches have the same timestamps
    return since if step is None else since // step * step


def time_slices(since: float, until: float, overlap: float) -> Iterator[tuple[float, float]]:
    """Split a time range into slices and yield the start and end of each, in Unix seconds.

    Each slice starts `overlap` seconds before the end of the previous slice, so that no rate is missing between two
    slices.
    """
    start = since
    while until - start > SLICE_SECONDS + overlap:
        yield start, start + SLICE_SECONDS + overlap
        start += SLICE_SECONDS
    yield start, until
