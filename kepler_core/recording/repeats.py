"""Leave out what a recording reports twice: nodes, units and scrapes. Repetitions are never added up."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import MetricSchema
from kepler_core.grouping import sum_by
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric, keep_samples, keep_series

_UNIQUE_ID = re.compile(r"(?:[a-z-]+://)?[0-9a-f]{12,64}")
"""Ids that a container runtime draws at random. Other units ("system_processes") are on every node."""


def node_aliases(recording: Recording, schema: MetricSchema) -> dict[str, set[str]]:
    """Return the node labels under which each machine name appears."""
    aliases: dict[str, set[str]] = {}
    for metric in recording.metrics.values():
        for labels in metric.labels:
            for label in schema.node_alias_labels:
                if labels.get(label):
                    aliases.setdefault(labels[label], set()).add(labels.get(schema.node_label, ""))
    return aliases


def without_duplicate_nodes(
    mapped: list[MappedMetric], nodes: Codes, units: Codes, aliases: dict[str, set[str]], counts: Counts
) -> list[MappedMetric]:
    """Return the metrics without nodes that are another node under a second label at the same time.

    Two labels are one machine if exporters give both the same machine name (`aliases`), or if both report
    the same container. Of the labels of one machine, the one with most samples stays.
    """
    n = len(nodes)
    if n < 2:
        return mapped
    n_samples = np.zeros(n, dtype=np.int64)
    node_spans = _Spans()
    container_spans: dict[int, _Spans] = {}
    for item in mapped:
        if item.third_party:
            continue
        np.add.at(n_samples, item.node, item.metric.lengths)
        _add_spans(item, node_spans, container_spans)
    pairs: set[tuple[int, int]] = set()
    for unit, word in enumerate(units.words):
        if unit in container_spans and _UNIQUE_ID.fullmatch(word):
            pairs.update(container_spans[unit].overlapping(range(n)))
    for labels in aliases.values():
        pairs.update(node_spans.overlapping([nodes.by_word[label] for label in labels if label in nodes.by_word]))
    duplicates: list[int] = []
    for machine in _connected(pairs):
        kept = max(machine, key=lambda node: (n_samples[node], -node))
        for node in sorted(machine - {kept}):
            duplicates.append(node)
            counts.duplicate_nodes.append(f"{nodes.words[node]!r} is the machine {nodes.words[kept]!r} again")
    if not duplicates:
        return mapped
    return [keep_series(item, ~np.isin(item.node, duplicates)) for item in mapped]


def _add_spans(item: MappedMetric, node_spans: _Spans, container_spans: dict[int, _Spans]) -> None:
    """Add the time spans of a metric's series, by node and by container and node."""
    metric = item.metric
    ends = np.cumsum(metric.lengths)
    for index in np.flatnonzero(metric.lengths):
        node = int(item.node[index])
        start = float(metric.timestamps[ends[index] - metric.lengths[index]])
        end = float(metric.timestamps[ends[index] - 1])
        node_spans.add(node, start, end)
        if item.mapping.level == "container":
            container_spans.setdefault(int(item.unit[index]), _Spans()).add(node, start, end)


class _Spans:
    """The time span in which each node reports something: first and last time."""

    def __init__(self) -> None:
        self._of_node: dict[int, tuple[float, float]] = {}

    def add(self, node: int, start: float, end: float) -> None:
        """Extend a node's span to include another one."""
        first, last = self._of_node.get(node, (start, end))
        self._of_node[node] = min(first, start), max(last, end)

    def overlapping(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        """Return the pairs of these nodes whose spans overlap."""
        spans = {node: self._of_node[node] for node in sorted(nodes) if node in self._of_node}
        return [
            (a, b)
            for a, (a_start, a_end) in spans.items()
            for b, (b_start, b_end) in spans.items()
            if a < b and a_start <= b_end and b_start <= a_end
        ]


def _connected(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """Return the connected components of a graph with these edges."""
    groups: list[set[int]] = []
    for a, b in sorted(pairs):
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched]
        groups.append({a, b}.union(*touched))
    return groups


def without_duplicates(item: MappedMetric, counts: Counts) -> MappedMetric:
    """Return a metric with one sample per node, unit, source and time: that of the exporter with most samples."""
    metric = item.metric
    reported = list(zip(item.node.tolist(), item.unit.tolist(), item.source, strict=True))
    if len(set(reported)) == metric.n_series:
        return item
    codes: dict[tuple[int, int, str | None], int] = {}
    thing = np.array([codes.setdefault(key, len(codes)) for key in reported])
    by_exporter = sum_by(metric.lengths.astype(np.float64), item.exporter, int(item.exporter.max()) + 1)
    # rank: exporters by samples, then series by samples, so that one exporter is preferred throughout
    order = np.lexsort((-metric.lengths, item.exporter, -by_exporter[item.exporter]))
    rank = np.empty(metric.n_series, dtype=np.int64)
    rank[order] = np.arange(metric.n_series)
    by_thing = np.lexsort((rank[metric.series], metric.timestamps, thing[metric.series]))
    sorted_thing, sorted_time = thing[metric.series][by_thing], metric.timestamps[by_thing]
    repeated = np.zeros(metric.n_samples, dtype=bool)
    repeated[by_thing[1:]] = (sorted_thing[1:] == sorted_thing[:-1]) & (sorted_time[1:] == sorted_time[:-1])
    n_repeated = int(np.count_nonzero(repeated))
    if n_repeated:
        counts.duplicates[metric.name] += n_repeated
    return keep_samples(item, ~repeated)


def without_repeated_scrapes(mapped: list[MappedMetric], n_nodes: int, counts: Counts) -> list[MappedMetric]:
    """Return the metrics without the times at which none of a node's energy counters had moved.

    A range query whose step is shorter than the scrape interval repeats the last scrape. That would give
    0 W, which nothing measured, and then twice the true power. A running machine always uses energy.
    """
    stale_times: dict[int, FloatArray] = {}
    for node in range(n_nodes):
        times = _times_without_energy(mapped, node)
        if len(times):
            stale_times[node] = times
    if not stale_times:
        return mapped
    counts.repeated_scrapes += sum(len(times) for times in stale_times.values())
    kept = []
    for item in mapped:
        stale = np.zeros(item.metric.n_samples, dtype=bool)
        node_of_sample: IntArray = item.node[item.metric.series]
        for node, times in stale_times.items():
            stale |= (node_of_sample == node) & np.isin(item.metric.timestamps, times)
        kept.append(keep_samples(item, ~stale))
    return kept


def _times_without_energy(mapped: list[MappedMetric], node: int) -> FloatArray:
    """Return the times at which no energy counter of a node had moved; empty if none ever moves."""
    times: list[FloatArray] = []
    moved: list[BoolArray] = []
    for item in mapped:
        if item.mapping.kind != "energy":
            continue
        metric = item.metric
        of_node = item.node[metric.series] == node
        change = np.ones(metric.n_samples, dtype=bool)
        if metric.n_samples > 1:
            change[1:] = (metric.values[1:] != metric.values[:-1]) | (metric.series[1:] != metric.series[:-1])
        times.append(metric.timestamps[of_node])
        moved.append(change[of_node])
    if not times:
        return np.empty(0)
    all_times, position = np.unique(np.concatenate(times), return_inverse=True)
    any_moved = np.zeros(len(all_times), dtype=bool)
    np.logical_or.at(any_moved, position, np.concatenate(moved))
    if np.count_nonzero(any_moved) <= 1:  # the first sample counts as a move
        return np.empty(0)
    return all_times[~any_moved]
