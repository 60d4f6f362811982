"""Assign each metric to Kepler Core's vocabulary, and each of its series to a node, a unit and an exporter.

A unit is a part of a node, e.g. a container or a socket (see `SeriesCodes`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.messages import printable
from kepler_core.recording.columns import Metric, metric_from_columns, metric_of_series
from kepler_core.recording.counts import Counts
from kepler_core.recording.schemas import MetricUse

EXPORTER_LABELS = ("job", "instance", "pod", "namespace", "service", "endpoint", "container")
"""Labels that Prometheus adds to identify the scraped target. Together they distinguish exporters."""

UNIQUE_ID = re.compile(r"(?:[a-z-]+://)?[0-9a-f]{12,64}")
"""Container ids that a container runtime draws at random, so that no two nodes have the same id.

Units with other names, such as "system_processes", exist on every node.
"""
_FULL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""The whole id of a container, as in "containerd://<id>" and in the cgroup name "cri-containerd-<id>.scope"."""
_ID_CHARACTERS = 64


class Codes:
    """A numbering of strings in the order in which they first occur, starting at 0."""

    def __init__(self) -> None:
        self.by_word: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.by_word)

    def code(self, word: str) -> int:
        """Return the number of a string; a string that has no number yet gets the next free number."""
        return self.by_word.setdefault(word, len(self.by_word))

    @property
    def words(self) -> tuple[str, ...]:
        """All strings, in the order of their numbers."""
        return tuple(self.by_word)


@attrs.define(eq=False)
class SeriesCodes:
    """Numberings of the nodes, units and exporters that the series of a recording belong to.

    A *unit* is a container, virtual machine, process or socket of a node. The values of the units are added up to the
    value of the node.
    """

    nodes: Codes = attrs.field(factory=Codes)
    units: Codes = attrs.field(factory=Codes)
    exporters: Codes = attrs.field(factory=Codes)
    unit_names: dict[str, str] = attrs.field(factory=dict[str, str])
    """Readable name of each unit (e.g. a container), by the unit's id; "" for a unit without a name."""
    spellings: dict[str, str] = attrs.field(factory=dict[str, str])
    """The first spelling of each container id in the recording, with its prefix or suffix.

    The keys are whole ids: 64 hexadecimal digits without prefix and suffix.
    """

    def first_spelling(self, word: str) -> str:
        """Return the spelling with which the id of a container first occurred in the recording.

        An exporter may report a container as "<id>" and as "cri-containerd-<id>.scope" (cgroup versions 1 and 2).
        """
        if len(word) <= _ID_CHARACTERS:
            return self.spellings.setdefault(word, word) if len(word) == _ID_CHARACTERS else word
        match = _FULL_ID.search(word)
        return word if match is None else self.spellings.setdefault(match[0], word)


@attrs.define(eq=False)
class MappedMetric:
    """A metric, its mapping to the vocabulary, and the node, unit, exporter and energy source of each series."""

    metric: Metric
    """The series of the metric to which the mapping applies, with their samples."""
    mapping: MetricMapping
    schema: MetricSchema
    """The metric schema that the mapping comes from; for a third-party metric, the first schema of the recording."""
    node: IntArray
    """Index of each series' node in `SeriesCodes.nodes`, shape (series,)."""
    unit: IntArray
    """Index of each series' unit in `SeriesCodes.units`, shape (series,)."""
    exporter: IntArray
    """Index of each series' exporter in `SeriesCodes.exporters`, shape (series,)."""
    source: tuple[str | None, ...]
    """Value of each series' source label, or `mapping.source` for a series without that label."""
    share: IntArray
    """Code for each series, shape (series,). It stands for the series' values of the labels `summed_labels`.

    If several series of a container have different codes, their values are added up."""
    third_party: bool = False
    """Whether this is a metric that the user names as a feature although the metric schema does not know it."""
    ambiguous: BoolArray | None = None
    """Whether the values of a series are uncertain, shape (series,); None if no values are uncertain.

    There are two reasons. Another series of the same container or socket has other values, or the series itself has
    two values at many timestamps.
    """


def third_party_mapping(metric: Metric, schema: MetricSchema) -> MetricMapping:
    """Return the mapping of a third-party metric. No metric schema knows such a metric.

    The metric's values belong to containers if any of its series has a container label, else to the node.
    The metric is a counter if its name ends in "_total", as Prometheus' naming convention demands.
    """
    counter = metric.name.endswith("_total")
    if any(schema.container_labels[0] in labels for labels in metric.labels):
        return MetricMapping("feature", metric.name, "container", schema.container_labels, counter=counter)
    # Any label of an unknown metric may distinguish parts of a node. So all labels together identify a part.
    units = sorted({label for labels in metric.labels for label in labels} - {schema.node_label, "__name__"})
    aggregate: Literal["sum", "mean"] = "sum" if counter else "mean"
    return MetricMapping("feature", metric.name, "node", tuple(units), counter=counter, aggregate=aggregate)


def map_metric(metric: Metric, use: MetricUse, codes: SeriesCodes, counts: Counts) -> list[MappedMetric]:
    """Return a `MappedMetric` for each mapping of a metric that selects at least one of its series.

    Series that no mapping selects, and that the schema does not declare as unused, are counted.
    """
    if not use.mappings:
        return []
    mapped = []
    selected: BoolArray = np.zeros(metric.n_series, dtype=bool)
    for mapping in use.mappings:
        chosen: BoolArray = np.array([mapping.selects(labels) for labels in metric.labels], dtype=bool)
        selected |= chosen
        if chosen.any():
            mapped.append(map_series(metric_of_series(metric, chosen), mapping, use.schema, codes, counts))
    for at in np.flatnonzero(~selected & (metric.lengths > 0)).tolist():
        labels = metric.labels[at]
        if not any(entry.selects(labels) for entry in use.unused):
            names = sorted({label for mapping in use.mappings for label in (*mapping.where, *mapping.where_not)})
            words = ", ".join(f"{label}={labels.get(label, '')}" for label in names)
            counts.count("unmapped_series", metric.name, 1, printable(words, 100))
    count_irregular(metric, counts, has_values=any(mapping.kind != "cpus" for mapping in use.mappings))
    return mapped


def count_irregular(metric: Metric, counts: Counts, *, has_values: bool = True) -> None:
    """Count the samples of a metric that were left out while it was read, and its series with a single sample.

    A single sample is no irregularity of a metric without values, which only names the node's CPUs.
    """
    counts.not_finite.update({metric.name: metric.not_finite})
    counts.repeated_timestamps.update({metric.name: metric.repeated})
    if has_values:
        counts.one_sample_series.update({metric.name: int(np.count_nonzero(metric.lengths == 1))})


def map_series(
    metric: Metric,
    mapping: MetricMapping,
    schema: MetricSchema,
    codes: SeriesCodes,
    counts: Counts,
    *,
    third_party: bool = False,
) -> MappedMetric:
    """Return a metric with the node, unit, exporter and energy source of each of its series.

    New nodes, units and exporters get numbers in `codes`. Missing labels are added to `counts`.
    """
    n = metric.n_series
    node, unit, exporter, share = (np.zeros(n, dtype=np.int64) for _ in range(4))
    sources: list[str | None] = []
    shares = Codes()
    # Joining the values of labels takes longer than finding a tuple of them, and most series have known values.
    exporters: dict[tuple[str | None, ...], int] = {}
    for index, labels in enumerate(metric.labels):
        if schema.node_label not in labels:
            counts.missing_labels[f"{metric.name} {schema.node_label}"] += 1
        node[index] = codes.nodes.code(labels.get(schema.node_label, ""))
        word, missing = _unit(mapping, labels)
        if mapping.level == "container":
            word = codes.first_spelling(word)
        if missing:
            counts.missing_labels[f"{metric.name} {missing}"] += 1
        unit[index] = codes.units.code(word)
        if not codes.unit_names.get(word):
            codes.unit_names[word] = _unit_name(mapping, labels)
        words = tuple(map(labels.get, EXPORTER_LABELS))
        if words not in exporters:
            exporters[words] = codes.exporters.code("\0".join(word or "" for word in words))
        exporter[index] = exporters[words]
        if mapping.summed_labels:
            share[index] = shares.code("\0".join(labels.get(label, "") for label in mapping.summed_labels))
        sources.append(labels.get(schema.source_label, mapping.source))
    conflicting = metric.conflicting
    if conflicting is not None:
        example = codes.nodes.words[node[int(np.argmax(conflicting))]]
        counts.count("conflicting_times", metric.name, int(np.count_nonzero(conflicting)), example)
    return MappedMetric(metric, mapping, schema, node, unit, exporter, tuple(sources), share, third_party, conflicting)


def _unit(mapping: MetricMapping, labels: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the container, process or socket of a series, and a label.

    If the series lacks the label that should name its container, this label is returned, otherwise None.
    """
    if mapping.level in ("node", "vm"):
        return "/".join(labels.get(label, "") for label in mapping.unit_labels), None
    if not mapping.unit_labels:
        return "", None
    first, *others = mapping.unit_labels
    if labels.get(first):
        return labels[first], None
    if mapping.rest:
        return mapping.rest, None
    return "/".join(word for label in others if (word := labels.get(label, ""))), first


def _unit_name(mapping: MetricMapping, labels: Mapping[str, str]) -> str:
    """Return a readable name of the container or process of a series, e.g. "namespace/pod/container"."""
    return "/".join(word for label in mapping.unit_labels[1:] if (word := labels.get(label, "")))


def with_sorted_units(mapped: list[MappedMetric], codes: SeriesCodes) -> list[MappedMetric]:
    """Number the units (e.g. containers) again, in the order of their names.

    A sum of floating-point numbers depends on their order. In the order of the names, the sums over the units of a node
    do not depend on the series of other nodes.
    """
    words = codes.units.words
    codes.units.by_word = {word: at for at, word in enumerate(sorted(words))}
    number = np.array([codes.units.by_word[word] for word in words], dtype=np.int64)
    return [attrs.evolve(item, unit=number[item.unit]) for item in mapped]


def select_level(
    mapped: list[MappedMetric], use_vm_metrics: bool, *, any_job: bool = False, by_container: bool | None = None
) -> list[MappedMetric]:
    """Keep either the metrics of containers or those of processes, because both report the same work.

    With `use_vm_metrics`, features come from processes and power from virtual machines; the processes need the
    label `job="vm"`, unless `any_job` is true. Otherwise features come from containers, or from processes if no
    container has samples. If `mapped` is only a part of a recording, `by_container` states whether any container of
    the whole recording has samples.
    """
    if use_vm_metrics:
        kept = []
        for item in mapped:
            mapping = item.mapping
            if item.third_party or mapping.level == "vm" or (mapping.kind == "feature" and mapping.level == "node"):
                kept.append(item)
            elif mapping.level == "process":
                is_vm = np.array([any_job or labels.get("job") == "vm" for labels in item.metric.labels], dtype=bool)
                kept.append(keep_series(item, is_vm))
        return kept
    levels = {
        item.mapping.level
        for item in mapped
        if not item.third_party and item.mapping.kind == "feature" and item.metric.n_samples
    }
    by_container = "container" in levels if by_container is None else by_container
    unused = {"vm", "process"} if by_container else {"vm", "container"}
    return [item for item in mapped if item.third_party or item.mapping.level not in unused]


def keep_series(item: MappedMetric, kept: BoolArray) -> MappedMetric:
    """Return a metric that has only the samples of the series for which `kept` is true, shape (series,).

    The labels of the other series stay in the metric, so that the indices of the series do not change.
    """
    return item if kept.all() else keep_samples(item, kept[item.metric.series])


def keep_samples(item: MappedMetric, kept: BoolArray) -> MappedMetric:
    """Return a metric without the samples for which `kept` (shape (samples,)) is false."""
    if kept.all():
        return item
    metric = item.metric
    return attrs.evolve(
        item,
        metric=metric_from_columns(
            metric.name, metric.timestamps[kept], metric.values[kept], metric.series[kept], metric.labels
        ),
    )
