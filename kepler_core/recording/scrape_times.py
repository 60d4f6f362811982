"""Find out when a target was scraped, if the scrape interval is not a multiple of a range query's step.

In the answer to such a query, a scrape appears up to one step late. With scrapes every 5 s and a step of 3 s, new
values appear after 6, 6 and 3 s. Rates over these intervals would be wrong by a factor of 0.83 or 1.67.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.recording.columns import metric_from_columns
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric

FEWEST_SCRAPES = 10
"""Minimum number of scrapes from which the scrape interval is determined."""
RESOLUTION_SECONDS = 0.5
"""Scrape intervals are assumed to be multiples of half a second. Prometheus' documentation uses whole seconds."""
_LEAST_AGREEMENT = 0.95
"""Minimum fraction of the scrapes that must fit a regular scrape interval."""
_N_OFFSETS = 60
_LEAST_REPEATED = 0.1
"""Minimum number of repeated scrapes, as a fraction of the scrapes that are not repeated. Fewer
repeats come from failed scrapes. More repeats show that the recording's step is shorter than the scrape interval."""


def with_scrape_times(
    mapped: list[MappedMetric], stale: dict[int, FloatArray], nodes: Codes, counts: Counts
) -> list[MappedMetric]:
    """Return the metrics with the times of the scrapes instead of the times of the query's steps.

    A query's answer may show the values of one scrape at several times. `stale` maps a node's number to the times of
    these repetitions. `mapped` has no samples at these times.

    Only nodes whose scrapes appear at irregular intervals are changed.
    """
    changed: dict[int, tuple[FloatArray, FloatArray]] = {}
    seen_by_node = _energy_times(mapped, stale)
    for node, repeated in stale.items():
        seen = seen_by_node.get(node, np.empty(0))
        if len(repeated) < _LEAST_REPEATED * len(seen):
            continue  # if only a few scrapes are repeated, failed scrapes are the cause, not the step
        step = float(np.median(np.diff(np.union1d(seen, repeated))))
        times = scrape_times(seen, step)
        if times is not None:
            changed[node] = seen, times
            example = f"scraped every {times[1] - times[0]:g} s, queried with a step of {step:g} s"
            counts.count("corrected_times", nodes.words[node], len(times), example)
    return [_retimed(item, changed) for item in mapped] if changed else mapped


def scrape_times(seen: FloatArray, step: float) -> FloatArray | None:
    """Return the times of the scrapes whose values first appear in a query at the times `seen`, shape (scrapes,).

    A scrape at time s appears at the first multiple of the step after s. The returned times differ from the true times
    by an unknown offset of less than a step. The offset is equal for all times.

    Return None if the scrapes appear at regular intervals, so that `seen` needs no correction. Return None also
    if no scrape interval explains `seen`.
    """
    if len(seen) < FEWEST_SCRAPES:
        return None
    intervals = np.diff(seen)
    usual = float(np.median(intervals))
    if np.mean(np.abs(intervals - usual) < 0.5 * step) > _LEAST_AGREEMENT:
        return None
    without_gaps = intervals[intervals <= 1.5 * usual + step]
    interval = round(float(without_gaps.mean()) / RESOLUTION_SECONDS) * RESOLUTION_SECONDS
    if interval <= step or interval % step == 0:
        return None
    # Assume that scrape k was at k * interval - offset, and appears less than a step later. Test many offsets, one
    # in each row.
    late = seen - seen[0] + np.linspace(0.0, step, _N_OFFSETS, endpoint=False)[:, None]
    number = np.floor(late / interval)
    fits = (late - number * interval < step) & (np.diff(number, axis=1, prepend=-1) > 0)
    agreement = fits.mean(axis=1)
    best = int(np.argmax(agreement))
    times: FloatArray = seen[0] + number[best] * interval
    return times if agreement[best] >= _LEAST_AGREEMENT and (np.diff(times) > 0).all() else None


def _energy_times(mapped: list[MappedMetric], nodes: Iterable[int]) -> dict[int, FloatArray]:
    """Return the times at which energy counters of each node have samples, sorted, by node."""
    times: dict[int, list[FloatArray]] = {node: [] for node in nodes}
    for item in mapped:
        if item.mapping.kind == "energy":
            metric = item.metric
            for series in np.flatnonzero(metric.lengths).tolist():
                if (of_node := times.get(int(item.node[series]))) is not None:
                    of_node.append(metric.timestamps[metric.span(series)])
    return {node: np.unique(np.concatenate(of_node)) for node, of_node in times.items() if of_node}


def _retimed(item: MappedMetric, changed: dict[int, tuple[FloatArray, FloatArray]]) -> MappedMetric:
    """Return a metric with the times of the scrapes as timestamps; samples between two scrapes are left out."""
    metric = item.metric
    timestamps = metric.timestamps.copy()
    for series in np.flatnonzero(metric.lengths).tolist():
        times_of_node = changed.get(int(item.node[series]))
        if times_of_node is not None:
            seen, times = times_of_node
            span = metric.span(series)
            at = np.minimum(np.searchsorted(seen, timestamps[span]), len(seen) - 1)
            timestamps[span] = np.where(seen[at] == timestamps[span], times[at], np.nan)
    return attrs.evolve(
        item,
        metric=metric_from_columns(metric.name, timestamps, metric.values.copy(), metric.series.copy(), metric.labels),
    )
