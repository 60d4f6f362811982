"""Metrics with their mapping to Kepler Core's vocabulary, and the node, unit and exporter of each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.recording.columns import Metric, metric_from_columns
from kepler_core.recording.counts import Counts

_EXPORTER_LABELS = ("job", "instance", "pod", "namespace", "service", "endpoint", "container")
"""Labels that Prometheus adds for the scraped target: together they tell exporters apart."""


class Codes:
    """Numbers for strings, in order of appearance."""

    def __init__(self) -> None:
        self.by_word: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.by_word)

    def code(self, word: str) -> int:
        """Return the number of a string; a new string gets the next number."""
        return self.by_word.setdefault(word, len(self.by_word))

    @property
    def words(self) -> tuple[str, ...]:
        """The strings in the order of their numbers."""
        return tuple(self.by_word)


@attrs.define(eq=False)
class SeriesCodes:
    """Numbers for the nodes, units and exporters that the series of a recording belong to.

    A *unit* is one of the things that are added up to a node's value: a container, a process, a socket.
    """

    nodes: Codes = attrs.field(factory=Codes)
    units: Codes = attrs.field(factory=Codes)
    exporters: Codes = attrs.field(factory=Codes)
    unit_names: dict[str, str] = attrs.field(factory=dict[str, str])
    """Unit -> its readable name; empty where it has none."""


@attrs.define(eq=False)
class MappedMetric:
    """A metric, its mapping, and what each of its series belongs to."""

    metric: Metric
    mapping: MetricMapping
    node: IntArray
    """Number of each series' node, shape (series,)."""
    unit: IntArray
    """Number of each series' unit, shape (series,)."""
    exporter: IntArray
    """Number of each series' exporter, shape (series,)."""
    source: tuple[str | None, ...]
    """Value of each series' source label; the mapping's source where there is no label."""
    third_party: bool = False
    """Whether the user names the metric as a feature and the schema does not know it."""


def third_party_mapping(metric: Metric, schema: MetricSchema) -> MetricMapping:
    """Return the mapping of a metric that only the user names.

    Its values belong to containers if any of its series names a container, else to the node. It is a
    counter if its name ends in "_total", Prometheus' convention.
    """
    counter = metric.name.endswith("_total")
    if any(schema.container_labels[0] in labels for labels in metric.labels):
        return MetricMapping("feature", metric.name, "container", schema.container_labels, counter=counter)
    # which labels tell units apart is not known, so every series of a node is a unit of its own
    units = sorted({label for labels in metric.labels for label in labels} - {schema.node_label, "__name__"})
    aggregate: Literal["sum", "mean"] = "sum" if counter else "mean"
    return MetricMapping("feature", metric.name, "node", tuple(units), counter=counter, aggregate=aggregate)


def map_series(
    metric: Metric,
    mapping: MetricMapping,
    schema: MetricSchema,
    codes: SeriesCodes,
    counts: Counts,
    *,
    third_party: bool = False,
) -> MappedMetric:
    """Return a metric with the node, unit, exporter and energy source of each series.

    New nodes, units and exporters are added to `codes`, irregular samples and labels to `counts`.
    """
    n = metric.n_series
    node, unit, exporter = (np.zeros(n, dtype=np.int64) for _ in range(3))
    sources: list[str | None] = []
    earlier_nodes = codes.nodes.words
    for index, labels in enumerate(metric.labels):
        if schema.node_label not in labels:
            counts.missing_labels[f"{metric.name} {schema.node_label}"] += 1
        label = labels.get(schema.node_label, "")
        node[index] = codes.nodes.code(_same_host(label, earlier_nodes) if third_party else label)
        word, missing = _unit(mapping, labels)
        if missing:
            counts.missing_labels[f"{metric.name} {missing}"] += 1
        unit[index] = codes.units.code(word)
        if word not in codes.unit_names:
            codes.unit_names[word] = _unit_name(mapping, labels)
        exporter[index] = codes.exporters.code("\0".join(labels.get(label, "") for label in _EXPORTER_LABELS))
        sources.append(labels.get(schema.source_label, mapping.source))
    counts.not_finite.update({metric.name: metric.not_finite})
    counts.repeated_timestamps.update({metric.name: metric.repeated})
    counts.one_sample_series.update({metric.name: int(np.count_nonzero(metric.lengths == 1))})
    return MappedMetric(metric, mapping, node, unit, exporter, tuple(sources), third_party)


def _same_host(label: str, nodes: Sequence[str]) -> str:
    """Return the node label that Kepler's exporter has on the machine of another exporter.

    Labels of one machine differ in the port. The label itself is returned unless exactly one node matches.
    """
    if label in nodes:
        return label
    host = label.rpartition(":")[0] or label
    matches = [node for node in nodes if host in (node, node.rpartition(":")[0])]
    return matches[0] if len(matches) == 1 else label


def _unit(mapping: MetricMapping, labels: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the unit of a series, and the label that should name it but is missing."""
    if mapping.level in ("node", "vm"):
        return "/".join(labels.get(label, "") for label in mapping.unit_labels), None
    if not mapping.unit_labels:
        return "", None
    first, *others = mapping.unit_labels
    if labels.get(first):
        return labels[first], None
    return "/".join(word for label in others if (word := labels.get(label, ""))), first


def _unit_name(mapping: MetricMapping, labels: Mapping[str, str]) -> str:
    """Return the readable name of a unit that has an id: for a container, namespace/pod/container."""
    return "/".join(word for label in mapping.unit_labels[1:] if (word := labels.get(label, "")))


def select_level(mapped: list[MappedMetric], use_vm_metrics: bool) -> list[MappedMetric]:
    """Return the metrics of one level only: containers and processes report the same work.

    With `use_vm_metrics`, features come from processes with the label `job="vm"` and power from virtual
    machines. Otherwise features come from containers, or from processes if no container has samples.
    """
    if use_vm_metrics:
        kept = []
        for item in mapped:
            mapping = item.mapping
            if item.third_party or mapping.level == "vm" or (mapping.kind == "feature" and mapping.level == "node"):
                kept.append(item)
            elif mapping.level == "process":
                is_vm = np.array([labels.get("job") == "vm" for labels in item.metric.labels], dtype=bool)
                kept.append(keep_series(item, is_vm))
        return kept
    levels = {
        item.mapping.level
        for item in mapped
        if not item.third_party and item.mapping.kind == "feature" and item.metric.n_samples
    }
    unused = {"vm", "process"} if "container" in levels else {"vm", "container"}
    return [item for item in mapped if item.third_party or item.mapping.level not in unused]


def keep_series(item: MappedMetric, kept: BoolArray) -> MappedMetric:
    """Return a metric with the samples of some series only; `kept` has shape (series,).

    The labels of the other series stay, so that the numbers of series do not change.
    """
    return item if kept.all() else keep_samples(item, kept[item.metric.series])


def keep_samples(item: MappedMetric, kept: BoolArray) -> MappedMetric:
    """Return a metric with some of its samples only; `kept` has shape (samples,)."""
    if kept.all():
        return item
    metric = item.metric
    return attrs.evolve(
        item,
        metric=metric_from_columns(
            metric.name, metric.timestamps[kept], metric.values[kept], metric.series[kept], metric.labels
        ),
    )
