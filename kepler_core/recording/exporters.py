"""Join the metrics of several exporters on one machine, e.g. of Kepler and of node_exporter.

Each exporter has a node label of its own, such as "10.0.0.5:28282" and "10.0.0.5:9100". Two exporters are on one
machine if their node labels have the same host, or if one of their labels names the same machine
(`MetricSchema.node_alias_labels`). If a quantity comes from several exporters, one of them is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import numpy as np

from kepler_core.contracts import MetricSchema
from kepler_core.messages import printable
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric, keep_series

_NAMED_NODES = 3
"""Maximum number of nodes that a message names."""


def join_exporters(
    mapped: Sequence[MappedMetric], schemas: Sequence[MetricSchema], nodes: Codes, counts: Counts
) -> list[MappedMetric]:
    """Give each machine one node, even if it has several exporters, and return the metrics with these nodes.

    The node is the machine's node in the first of `schemas` that knows a metric of the machine.

    Third-party metrics are joined last. If an exporter's node matches several nodes of earlier exporters, the node
    stays separate and is counted.
    """
    joined: list[MappedMetric] = []
    names_of_node: dict[int, set[str]] = {}
    for own in (*([item for item in mapped if item.schema is s and not item.third_party] for s in schemas),
                [item for item in mapped if item.third_party]):  # fmt: skip
        names = _names_of_nodes(own, nodes)
        moved = _moved(names, names_of_node, nodes, counts)
        for node, of_node in names.items():
            names_of_node.setdefault(moved.get(node, node), set()).update(of_node)
        if moved:
            number = np.arange(len(nodes))
            number[list(moved)] = list(moved.values())
            own = [attrs.evolve(item, node=number[item.node]) for item in own]
        joined.extend(own)
    return joined


def _names_of_nodes(items: Iterable[MappedMetric], nodes: Codes) -> dict[int, set[str]]:
    """Return the names of each node: the host in its node label, and the values of other labels that name it."""
    words = nodes.words
    names: dict[int, set[str]] = {}
    for item in items:
        for node, labels in zip(item.node.tolist(), item.metric.labels, strict=True):
            if node not in names:
                names[node] = {host_of(words[node])}
            if not item.third_party:
                names[node].update(labels[label] for label in item.schema.node_alias_labels if labels.get(label))
    return names


def host_of(node: str) -> str:
    """Return a node label without its port. Words in parentheses that tell two nodes apart are kept."""
    label, space, words = node.partition(" ")
    host, colon, port = label.rpartition(":")
    return (host if colon and port.isdecimal() else label) + space + words


def _moved(names: dict[int, set[str]], before: dict[int, set[str]], nodes: Codes, counts: Counts) -> dict[int, int]:
    """Map each node of an exporter to the node of an earlier exporter that it matches. Leave out all other nodes.

    `names` has the names of the exporter's nodes, `before` the names of the nodes of all earlier exporters.
    """
    of_name: dict[str, set[int]] = {}
    for node, of_node in before.items():
        for name in of_node:
            of_name.setdefault(name, set()).add(node)
    moved = {}
    words = nodes.words
    for node, of_node in names.items():
        candidates = set().union(*(of_name.get(name, set()) for name in of_node))
        if node in before or not candidates:
            continue
        if len(candidates) == 1:
            moved[node] = candidates.pop()
            continue
        shown = ", ".join(printable(words[candidate], 80) for candidate in sorted(candidates)[:_NAMED_NODES])
        counts.count("ambiguous_hosts", words[node], 1, f"it may be any of {shown}")
    return moved


def one_exporter_each(
    mapped: Sequence[MappedMetric], schemas: Sequence[MetricSchema], counts: Counts
) -> list[MappedMetric]:
    """On each node, leave out the features and components that another exporter reports, too.

    An exporter that reports a feature by container is preferred to an exporter that reports the feature for the whole
    node. Otherwise, the exporter of the first of `schemas` is preferred.
    """
    if len(schemas) < 2:
        return list(mapped)
    number = {id(schema): at for at, schema in enumerate(schemas)}
    best: dict[tuple[int, object], tuple[bool, int]] = {}

    def place(item: MappedMetric) -> tuple[bool, int]:
        return item.mapping.level == "node", number[id(item.schema)]

    def key(item: MappedMetric, series: int) -> tuple[int, object]:
        mapping = item.mapping
        if mapping.kind == "feature":
            return int(item.node[series]), mapping.name
        return int(item.node[series]), (mapping.level, item.source[series], mapping.name)

    for item in mapped:
        for series in np.flatnonzero(item.metric.lengths > 0).tolist() if not item.third_party else ():
            best[key(item, series)] = min(best.get(key(item, series), place(item)), place(item))
    kept = []
    for item in mapped:
        if not item.third_party:
            is_best = np.array(
                [best.get(key(item, at), place(item)) == place(item) for at in range(item.metric.n_series)]
            )
            counts.count(
                "other_exporters", item.metric.name, int(np.count_nonzero(~is_best & (item.metric.lengths > 0)))
            )
            item = keep_series(item, is_best)
        kept.append(item)
    return kept
