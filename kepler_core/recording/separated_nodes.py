"""Join the usage and the energy of a machine if the two have different node labels.

Kepler's energy metrics have a label `instance` of their own. With `honor_labels: true`, Prometheus keeps this
label. The metrics of containers have no such label: Prometheus sets their `instance` to the target's address.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric


def join_separated_nodes(
    mapped: Sequence[MappedMetric], nodes: Codes, counts: Counts, *, may_join: bool = True
) -> list[MappedMetric]:
    """Move the energy of a machine to the node that has the machine's usage, and return the metrics.

    A node with only usage and a node with only energy count as one machine under two conditions. They have samples at
    the same time, and the recording has no third node. Otherwise the nodes stay separate, and each of them is counted.
    `may_join` is false if `mapped` is a part of a recording that has other nodes.
    """
    usage, energy = _spans(mapped, "usage"), _spans(mapped, "energy")
    only_usage, only_energy = sorted(usage.keys() - energy.keys()), sorted(energy.keys() - usage.keys())
    if not only_usage or not only_energy:
        return list(mapped)
    words = nodes.words
    first, second = only_usage[0], only_energy[0]
    if may_join and len(usage.keys() | energy.keys()) == 2:
        overlap = min(usage[first][1], energy[second][1]) - max(usage[first][0], energy[second][0])
        if overlap > 0:
            counts.count("joined_nodes", words[second], 1, f"its usage is that of {words[first]!r}")
            return [attrs.evolve(item, node=np.where(item.node == second, first, item.node)) for item in mapped]
    for kind, lonely, others in (
        ("nodes_without_energy", only_usage, only_energy),
        ("nodes_without_usage", only_energy, only_usage),
    ):
        for node in lonely:
            counts.count(kind, words[node], 1, f"possibly the same machine as {words[others[0]]!r}")
    return list(mapped)


def _spans(mapped: Sequence[MappedMetric], kind: str) -> dict[int, tuple[float, float]]:
    """Return the first and last time of each node's usage (of containers or processes) or energy, by node."""
    spans: dict[int, tuple[float, float]] = {}
    for item in mapped:
        is_usage = item.mapping.kind == "feature" and item.mapping.level != "node"
        is_energy = item.mapping.kind != "feature"
        if item.third_party or not (is_usage if kind == "usage" else is_energy) or not item.metric.n_samples:
            continue
        for index, first, last in item.metric.time_spans():
            node = int(item.node[index])
            start, end = spans.get(node, (np.inf, -np.inf))
            spans[node] = min(start, first), max(end, last)
    return spans
