"""Leave out nodes, containers, sockets and scrapes that a recording reports twice, so that they are not added up."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.messages import printable
from kepler_core.recording.columns import Metric
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import UNIQUE_ID, Codes, MappedMetric, keep_samples, keep_series

_FEWEST_COMMON = 3
"""Two counters are compared only if they have values at this number of common times or more."""
_WINDOWS = 20
"""Number of periods of time. In each period, the increases of two counters are compared."""
_RISE_TOLERANCE = 0.1
"""Largest difference between the increases of a counter and of its copy, as a fraction of the larger increase."""


def node_aliases(mapped: Iterable[MappedMetric], nodes: Codes) -> dict[str, set[str]]:
    """Return the node labels that belong to each machine, by the machine's name.

    The name is the value of one of the labels in `MetricSchema.node_alias_labels`.
    """
    aliases: dict[str, set[str]] = {}
    words = nodes.words
    for item in mapped:
        names = item.schema.node_alias_labels
        for node, labels in zip(item.node.tolist(), item.metric.labels, strict=True) if names else ():
            for label in names:
                if labels.get(label):
                    aliases.setdefault(labels[label], set()).add(words[node])
    return aliases


def without_duplicate_nodes(
    mapped: list[MappedMetric], nodes: Codes, units: Codes, aliases: dict[str, set[str]], counts: Counts
) -> list[MappedMetric]:
    """Return the metrics with only one node label for each machine.

    Two node labels belong to one machine if they overlap in time and have the same machine name
    (`aliases`), or report the same container. The label of the machine that has the most samples is kept.
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
        if unit in container_spans and UNIQUE_ID.fullmatch(word):
            pairs.update(container_spans[unit].overlapping())
    for labels in aliases.values():
        pairs.update(node_spans.overlapping({nodes.by_word[label] for label in labels if label in nodes.by_word}))
    duplicates: list[int] = []
    words = nodes.words
    for machine in _connected(pairs):
        kept = max(machine, key=lambda node: (n_samples[node], -node))
        for node in sorted(machine - {kept}):
            duplicates.append(node)
            counts.count("duplicate_nodes", words[node], 1, f"the same machine as {words[kept]!r}")
    if not duplicates:
        return mapped
    return [keep_series(item, ~np.isin(item.node, duplicates)) for item in mapped]


def _add_spans(item: MappedMetric, node_spans: _Spans, container_spans: dict[int, _Spans]) -> None:
    """Extend the time spans of nodes, and of containers on each node, by the time spans of a metric's series."""
    for index, start, end in item.metric.time_spans():
        node = int(item.node[index])
        node_spans.add(node, start, end)
        if item.mapping.level == "container":
            container_spans.setdefault(int(item.unit[index]), _Spans()).add(node, start, end)


class _Spans:
    """The time span in which each node has samples: from the first to the last timestamp of these samples."""

    def __init__(self) -> None:
        self._of_node: dict[int, tuple[float, float]] = {}

    def add(self, node: int, start: float, end: float) -> None:
        """Extend the span of a node to include the times from `start` to `end`."""
        first, last = self._of_node.get(node, (start, end))
        self._of_node[node] = min(first, start), max(last, end)

    def overlapping(self, nodes: Collection[int] | None = None) -> list[tuple[int, int]]:
        """Return pairs of nodes with overlapping spans. The pairs connect all nodes of each group.

        `nodes` are the nodes to compare; None means all nodes. If node a overlaps b, and b overlaps c, then
        a, b and c are one group. For a group of n nodes, only n - 1 pairs are returned. Thousands of nodes may
        report the same container, so that a list of all overlapping pairs would be too long.
        """
        spans = sorted((*span, node) for node, span in self._of_node.items() if nodes is None or node in nodes)
        pairs = []
        last_end, last_node = -np.inf, -1
        for start, end, node in spans:
            if start <= last_end:
                pairs.append((last_node, node))
            if end > last_end:
                last_end, last_node = end, node
        return pairs


def _connected(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """Return the connected components of a graph, whose edges are `pairs` of node numbers."""
    group_of: dict[int, set[int]] = {}
    for a, b in pairs:
        first, second = (group_of.setdefault(node, {node}) for node in (a, b))
        if first is second:
            continue
        larger, smaller = (first, second) if len(first) >= len(second) else (second, first)
        larger |= smaller
        group_of.update(dict.fromkeys(smaller, larger))
    return sorted({id(group): group for group in group_of.values()}.values(), key=min)


def without_duplicates(item: MappedMetric, counts: Counts) -> MappedMetric:
    """Return a metric with at most one sample of each container or socket, energy source and time.

    Of several samples, the sample from the exporter with the most samples is kept. But one exporter may report several
    counters of the same socket with different increases. These counters are not copies of each other. For example, they
    may count different dies of a socket, if the metric schema does not know the label that tells the dies apart. Their
    series are marked as ambiguous, so that no sum contains them.
    """
    metric = item.metric
    reported = list(zip(item.node.tolist(), item.unit.tolist(), item.share.tolist(), item.source, strict=True))
    if len(set(reported)) == metric.n_series:
        return item
    codes: dict[tuple[int, int, int, str | None], int] = {}
    thing = np.array([codes.setdefault(key, len(codes)) for key in reported])
    by_exporter = sum_by(metric.lengths.astype(np.float64), item.exporter, int(item.exporter.max()) + 1)
    # The series of the exporter with the most samples come first. Within an exporter, the series with the most samples
    # come first. So all samples that are kept come from a single exporter where possible.
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
        masks = [mask for mask in (item.ambiguous, _ambiguous_series(item, thing, counts)) if mask is not None]
        item = attrs.evolve(item, ambiguous=np.logical_or.reduce(masks) if masks else None)
    return keep_samples(item, ~repeated)


def _ambiguous_series(item: MappedMetric, thing: IntArray, counts: Counts) -> BoolArray | None:
    """Return which series contradict another series, shape (series,); None if no series does.

    Two series contradict each other if one exporter reports both for the same container or socket, and if they increase
    differently. `thing` has a number for each series, shape (series,). Series of the same node, container (or socket)
    and energy source have the same number.
    """
    if not item.mapping.counter:
        return None
    metric = item.metric
    series_of: dict[tuple[int, int], list[int]] = {}
    for series in np.flatnonzero(metric.lengths >= _FEWEST_COMMON).tolist():
        series_of.setdefault((int(thing[series]), int(item.exporter[series])), []).append(series)
    ambiguous = np.zeros(metric.n_series, dtype=bool)
    for (number, _), (first, *others) in series_of.items():
        different = [other for other in others if not _rise_alike(metric, first, other)]
        if different:
            ambiguous |= thing == number
            labels = metric.labels[first].items() ^ metric.labels[different[0]].items()
            words = " and ".join(sorted(f"{name}={value}" for name, value in labels))
            counts.count("ambiguous_series", metric.name, 1 + len(different), printable(words, 100))
    return ambiguous if ambiguous.any() else None


def _rise_alike(metric: Metric, first: int, second: int) -> bool:
    """Return whether two counters rise by nearly the same amount in most periods of time in which both have samples.

    Two servers scrape one counter at different times, so the increases in single intervals differ. Therefore the
    increases over several intervals are compared.
    """
    spans = metric.span(first), metric.span(second)
    times, others = (metric.timestamps[span] for span in spans)
    _, *common = np.intersect1d(times, others, return_indices=True)
    if len(common[0]) < _FEWEST_COMMON:
        return True
    edges = np.arange(0, len(common[0]) - 1, max(len(common[0]) // _WINDOWS, 1))
    one, other = (
        np.add.reduceat(np.maximum(np.diff(metric.values[span][at]), 0), edges)
        for span, at in zip(spans, common, strict=True)
    )
    return bool(np.median(np.abs(one - other) - _RISE_TOLERANCE * np.maximum(one, other)) <= 0)


def without_repeated_scrapes(
    mapped: list[MappedMetric], nodes: Codes, counts: Counts
) -> tuple[list[MappedMetric], dict[int, FloatArray]]:
    """Leave out the samples of each node at times at which none of the node's energy counters has changed.

    Return the remaining metrics, and the times that were left out, by node number (Unix seconds, shape (times,)).

    A range query repeats the last scrape if its step is shorter than the scrape interval. The repeated
    samples would give a power of 0 W, and the next new sample twice the true power. A running machine always
    uses energy, so unchanged counters show that the scrape is repeated.
    """
    node, time = _times_without_energy(mapped, len(nodes))
    if not len(node):
        return mapped, {}
    words = nodes.words
    for number, n_times in enumerate(np.bincount(node).tolist()):
        counts.count("repeated_scrapes", words[number], n_times)
    times, position = np.unique(time, return_inverse=True)
    stale_keys = node * len(times) + position
    kept = []
    for item in mapped:
        metric = item.metric
        at = np.minimum(np.searchsorted(times, metric.timestamps), len(times) - 1)
        keys = item.node[metric.series] * len(times) + at
        stale = (times[at] == metric.timestamps) & np.isin(keys, stale_keys)
        kept.append(keep_samples(item, ~stale))
    numbers, starts = np.unique(node, return_index=True)  # `node` is ascending
    return kept, dict(zip(numbers.tolist(), np.split(time, starts[1:]), strict=True))


def _times_without_energy(mapped: list[MappedMetric], n_nodes: int) -> tuple[IntArray, FloatArray]:
    """Return the nodes and times at which no energy counter of the node has changed since the node's previous time.

    The result is an array of nodes and an array of times. It leaves out nodes whose energy counters never change.
    """
    nodes: list[IntArray] = []
    times: list[FloatArray] = []
    moved: list[BoolArray] = []
    for item in mapped:
        if item.mapping.kind != "energy":
            continue
        metric = item.metric
        change = np.ones(metric.n_samples, dtype=bool)
        if metric.n_samples > 1:
            change[1:] = (metric.values[1:] != metric.values[:-1]) | (metric.series[1:] != metric.series[:-1])
        nodes.append(item.node[metric.series])
        times.append(metric.timestamps)
        moved.append(change)
    if not nodes:
        return np.empty(0, dtype=np.int64), np.empty(0)
    # On most nodes, every energy counter changes between all timestamps. The result has no times of these nodes.
    # So leave out the samples of these nodes before the samples are sorted by node and time.
    stands_still = np.zeros(n_nodes, dtype=bool)
    for of_item, has_moved in zip(nodes, moved, strict=True):
        stands_still[of_item[~has_moved]] = True
    chosen = [stands_still[of_item] for of_item in nodes]
    node, time, any_moved = _by_node_and_time(
        *(np.concatenate([part[at] for part, at in zip(parts, chosen, strict=True)]) for parts in (nodes, times, moved))
    )
    n_moves = np.bincount(node, weights=any_moved, minlength=n_nodes)
    stale = ~any_moved & (n_moves[node] > 1)  # a node's first sample always counts as a change
    return node[stale], time[stale]


def _by_node_and_time(node: IntArray, time: FloatArray, moved: BoolArray) -> tuple[IntArray, FloatArray, BoolArray]:
    """Return each pair of node and time once, and whether any energy counter of the node has changed at this time."""
    if not len(node):
        return node, time, moved
    order = np.lexsort((time, node))
    node, time, moved = node[order], time[order], moved[order]
    begins = np.ones(len(node), dtype=bool)
    begins[1:] = (node[1:] != node[:-1]) | (time[1:] != time[:-1])
    starts = np.flatnonzero(begins)
    return node[starts], time[starts], np.logical_or.reduceat(moved, starts)
