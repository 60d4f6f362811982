"""What a recording reports twice: nodes, containers, scrapes. It is left out, never added up."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.contracts import MetricSchema
from kepler_core.grouping import sum_by
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, Measured, keep_samples, keep_series

_UNIQUE_ID = re.compile(r"(?:[a-z-]+://)?[0-9a-f]{12,64}")
"""Ids that a container runtime draws at random; others ("system_processes") are on every node."""


def node_aliases(recording: Recording, schema: MetricSchema) -> dict[str, set[str]]:
    """Machine name -> the node labels under which it appears."""
    aliases: dict[str, set[str]] = {}
    for metric in recording.metrics.values():
        for labels in metric.labels:
            for label in schema.node_alias_labels:
                if labels.get(label):
                    aliases.setdefault(labels[label], set()).add(labels.get(schema.node_label, ""))
    return aliases


def without_duplicate_nodes(
    measured: list[Measured], nodes: Codes, units: Codes, aliases: dict[str, set[str]], counts: Counts
) -> list[Measured]:
    """Leave out nodes that are another node under a second label at the same time.

    Two labels are one machine if the exporters name the same machine, or if they report the same
    containers. Of the labels of one machine that with most samples stays.
    """
    n = len(nodes.of)
    if n < 2:
        return measured
    samples = np.zeros(n, dtype=np.int64)
    present = _Spans()
    holding: dict[int, _Spans] = {}
    for item in measured:
        if item.third_party:
            continue
        np.add.at(samples, item.node, item.metric.lengths)
        ends = np.cumsum(item.metric.lengths)
        for index in np.flatnonzero(item.metric.lengths):
            times = item.metric.timestamps
            node = int(item.node[index])
            start, end = float(times[ends[index] - item.metric.lengths[index]]), float(times[ends[index] - 1])
            present.add(node, start, end)
            if item.meaning.level == "container":
                holding.setdefault(int(item.unit[index]), _Spans()).add(node, start, end)
    same: set[tuple[int, int]] = set()
    for unit, word in enumerate(units.words):
        if unit in holding and _UNIQUE_ID.fullmatch(word):
            same.update(holding[unit].overlapping(range(n)))
    for labels in aliases.values():
        same.update(present.overlapping([nodes.of[label] for label in labels if label in nodes.of]))
    dropped: list[int] = []
    for machine in _connected(same):
        keep = max(machine, key=lambda node: (samples[node], -node))
        for node in sorted(machine - {keep}):
            dropped.append(node)
            counts.duplicate_nodes.append(f"{nodes.words[node]!r} is the machine {nodes.words[keep]!r} again")
    if not dropped:
        return measured
    return [keep_series(item, ~np.isin(item.node, dropped)) for item in measured]


class _Spans:
    """From when to when something was seen, by node."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[float, float]] = {}

    def add(self, node: int, start: float, end: float) -> None:
        old = self._of.get(node, (start, end))
        self._of[node] = min(old[0], start), max(old[1], end)

    def overlapping(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        """Pairs of these nodes that were seen at the same time."""
        there = sorted(node for node in nodes if node in self._of)
        of = self._of
        return [(a, b) for a in there for b in there if a < b and of[a][0] <= of[b][1] and of[b][0] <= of[a][1]]


def _connected(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The groups that pairs tie together."""
    groups: list[set[int]] = []
    for a, b in sorted(pairs):
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched]
        groups.append({a, b}.union(*touched))
    return groups


def without_duplicates(item: Measured, counts: Counts) -> Measured:
    """Of several samples of one unit at one time keep one: that of the exporter with most samples."""
    metric = item.metric
    if len(set(zip(item.node.tolist(), item.unit.tolist(), item.source, strict=True))) == metric.n_series:
        return item
    codes: dict[tuple[int, int, str | None], int] = {}
    thing = np.array(
        [
            codes.setdefault(key, len(codes))
            for key in zip(item.node.tolist(), item.unit.tolist(), item.source, strict=True)
        ]
    )
    by_exporter = sum_by(metric.lengths.astype(np.float64), item.exporter, int(item.exporter.max()) + 1)
    # rank: exporters by samples, then series by samples, so that one exporter wins throughout
    order = np.lexsort((-metric.lengths, item.exporter, -by_exporter[item.exporter]))
    rank = np.empty(metric.n_series, dtype=np.int64)
    rank[order] = np.arange(metric.n_series)
    by_thing = np.lexsort((rank[metric.series], metric.timestamps, thing[metric.series]))
    sorted_thing, sorted_time = thing[metric.series][by_thing], metric.timestamps[by_thing]
    again = np.zeros(metric.n_samples, dtype=bool)
    again[by_thing[1:]] = (sorted_thing[1:] == sorted_thing[:-1]) & (sorted_time[1:] == sorted_time[:-1])
    duplicates = int(np.count_nonzero(again))
    if duplicates:
        counts.duplicates[metric.name] += duplicates
    return keep_samples(item, ~again)


def without_repeated_scrapes(measured: list[Measured], n_nodes: int, counts: Counts) -> list[Measured]:
    """Leave out the times at which none of a node's energy counters had moved.

    A range query whose step is shorter than the scrape interval repeats the last scrape: 0 W that
    nobody measured, and twice the watts after it. A running machine always uses energy.
    """
    stale: list[tuple[int, float]] = []
    for node in range(n_nodes):
        times: list[FloatArray] = []
        moved: list[BoolArray] = []
        for item in measured:
            if item.meaning.kind != "energy":
                continue
            metric = item.metric
            mine = item.node[metric.series] == node
            change = np.ones(metric.n_samples, dtype=bool)
            if metric.n_samples > 1:
                change[1:] = (metric.values[1:] != metric.values[:-1]) | (metric.series[1:] != metric.series[:-1])
            times.append(metric.timestamps[mine])
            moved.append(change[mine])
        if not times:
            continue
        instants, where = np.unique(np.concatenate(times), return_inverse=True)
        any_moved = np.zeros(len(instants), dtype=bool)
        np.logical_or.at(any_moved, where, np.concatenate(moved))
        if np.count_nonzero(any_moved) > 1:  # else the counters never move: nothing to conclude
            stale += [(node, time) for time in instants[~any_moved]]
    if not stale:
        return measured
    counts.repeated_scrapes += len(stale)
    by_node: dict[int, list[float]] = {}
    for node, time in stale:
        by_node.setdefault(node, []).append(time)
    kept = []
    for item in measured:
        again = np.zeros(item.metric.n_samples, dtype=bool)
        node_of_sample = item.node[item.metric.series]
        for node, stale_times in by_node.items():
            again |= (node_of_sample == node) & np.isin(item.metric.timestamps, stale_times)
        kept.append(keep_samples(item, ~again))
    return kept
