"""Find the interval at which Prometheus scrapes a target, and round the step of queries to it.

With a step that is not a multiple of the scrape interval, some steps cover one scrape and others cover two.
The rates of a counter would then be too low and too high in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.fetching import answers
from kepler_core.prometheus.instances import Shard
from kepler_core.prometheus.queries import Query
from kepler_core.prometheus.replies import decode_series
from kepler_core.prometheus.selections import Selection
from kepler_core.recording.samples import decode_samples
from kepler_core.recording.schemas import find_schemas

_LOOK_SECONDS = 900.0
"""Length of a time range from which samples are queried. It holds several scrapes at every usual interval."""
_FEWEST_SAMPLES = 3
"""Minimum number of samples of a series whose interval is measured. Two samples give only one interval, which may be
too long because a scrape is missing."""
_TOLERANCE = 0.02
"""Maximum relative difference between the median of measured intervals and the configured interval.

If a scrape is late by up to 1 % of the interval, Prometheus (2.x) itself replaces its timestamp by the configured
time. Two late scrapes therefore differ by less than 2 %.
"""
_MAX_SELECTIONS = 3
"""Samples of at most this number of metrics are queried. If they do not show the interval, it counts as unknown."""
_LARGEST_MULTIPLE = 4
"""If targets are scraped at different intervals, the result is their least common multiple. If this multiple is longer
than `_LARGEST_MULTIPLE` times the longest interval, the result is the longest interval."""


def scrape_interval(
    client: PrometheusClient,
    selections: Sequence[Selection],
    since: float,
    until: float,
    metric_prefix: str | None = None,
    instances: Shard | None = None,
) -> float | None:
    """Return the interval in seconds at which the targets of some series are scraped; None if it is unknown.

    The interval is taken from the timestamps of a few samples between `since` and `until` (Unix seconds). If targets
    are scraped at different intervals, see `_LARGEST_MULTIPLE`. `metric_prefix` is the first word of the exporter's
    metric names, if it is not the word that the schema expects. `instances` are the instances to look at; None looks at
    all.
    """
    for selection in _energy_first(selections, metric_prefix)[:_MAX_SELECTIONS]:
        for start, end in _looks(since, until):
            query = Query(selection, round(start * 1000), round(end * 1000), None, instances)
            intervals = _intervals(result for _, results in answers(client, [query], jobs=1) for result in results)
            if intervals:
                common, longest = math.lcm(*intervals), max(intervals)
                return (common if common <= _LARGEST_MULTIPLE * longest else longest) / 1000
    return None


def _energy_first(selections: Sequence[Selection], metric_prefix: str | None) -> list[Selection]:
    """Return the selections, energy counters first: a node has few energy counters, so the answers are small."""
    uses = find_schemas((selection.metric for selection in selections), metric_prefix)

    def is_feature(selection: Selection) -> bool:
        return all(mapping.kind == "feature" for mapping in uses.mappings(selection.metric))

    return sorted(selections, key=is_feature)


def _looks(since: float, until: float) -> list[tuple[float, float]]:
    """Return the time ranges whose samples are queried: the end, the beginning and the middle of the whole range.

    If the whole range is not longer than `_LOOK_SECONDS`, return the whole range.
    """
    if until - since <= _LOOK_SECONDS:
        return [(since, until)]
    middle = (since + until) / 2
    return [
        (until - _LOOK_SECONDS, until),
        (since, since + _LOOK_SECONDS),
        (middle - _LOOK_SECONDS / 2, middle + _LOOK_SECONDS / 2),
    ]


def _intervals(results: Iterable[bytes]) -> set[int]:
    """Return the different scrape intervals, in milliseconds, that the timestamps of the series in `results` show."""
    timestamps: dict[frozenset[tuple[str, str]], list[FloatArray]] = {}
    for result in results:
        for series in decode_series(result):
            if bytes(series.values):
                timestamps.setdefault(frozenset(series.metric.items()), []).append(decode_samples(series.values)[0::2])
    of_series = [np.unique(np.concatenate(parts)) for parts in timestamps.values()]
    return {_configured(float(np.median(np.diff(times)))) for times in of_series if len(times) >= _FEWEST_SAMPLES}


def _configured(seconds: float) -> int:
    """Return the interval in milliseconds that was probably configured if scrapes are `seconds` apart."""
    for unit in (1000, 100, 10):
        rounded = round(seconds * 1000 / unit) * unit
        if rounded and abs(rounded - seconds * 1000) <= _TOLERANCE * seconds * 1000:
            return rounded
    return max(round(seconds * 1000), 1)


def rounded_step(step: float, interval: float) -> float:
    """Round a step to the nearest multiple of the scrape interval. The result is at least one interval."""
    multiples = max(round(step / interval), 1)
    nearest = multiples * interval
    return step if math.isclose(nearest, step, rel_tol=1e-6) else nearest
