"""Metrics with what they mean in our vocabulary, and whose they are: node, unit, exporter."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.plugins.entries import PluginEntry
from kepler_core.recording.columns import Metric, metric_from_columns
from kepler_core.recording.counts import Counts

_EXPORTER_LABELS = ("job", "instance", "pod", "namespace", "service", "endpoint", "container")


log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _made(entries: tuple[PluginEntry, ...]) -> tuple[tuple[str, MetricSchema], ...]:
    made = []
    for name, plugin in sorted(registry.metric_schemas.load_all()[0].items()):
        try:
            made.append((name, registry.create(plugin, name, {})))
        except PluginError as error:
            log.warning("metric schema %s is not used: %s", name, error)
    return tuple(made)


def _schemas() -> tuple[tuple[str, MetricSchema], ...]:
    """The installed schemas that can be made, by name."""
    return _made(registry.metric_schemas.entries)


def meaning_of(schema: MetricSchema, metric: str) -> MetricMapping | None:
    """What a schema says of a metric. One that raises does not know it, and costs nobody a recording."""
    try:
        found = schema.meaning(metric)
        if found is not None and not isinstance(found, MetricMapping):
            raise TypeError(f"{found!r} is no MetricMapping")
    except Exception as error:  # somebody else's code
        if type(schema) not in _said:
            _said.add(type(schema))
            name = registry.metric_schemas.full_name(type(schema))
            log.warning("metric schema %s: meaning(%.40r) failed: %s", name, metric, registry.one_line(error))
        return None
    return found


_said: set[type[MetricSchema]] = set()


def find_schema(metrics: Iterable[str]) -> tuple[str, MetricSchema] | None:
    """The installed metric schema that knows most of these metric names; None if none knows any."""
    names = list(metrics)
    best: tuple[int, str, MetricSchema] | None = None
    for name, schema in _schemas():
        known = sum(meaning_of(schema, metric) is not None for metric in names)
        if known and (best is None or known > best[0]):
            best = known, name, schema
    return None if best is None else best[1:]


def is_known_metric(metric: str) -> bool:
    """Whether any installed metric schema knows the metric: the samples of others are not needed."""
    return any(meaning_of(schema, metric) is not None for _, schema in _schemas())


@attrs.define(eq=False)
class Measured:
    """A metric with its meaning, and per series which node, unit and exporter it belongs to."""

    metric: Metric
    meaning: MetricMapping
    node: IntArray
    unit: IntArray
    exporter: IntArray
    source: tuple[str | None, ...]
    third_party: bool = False
    """Named by the user, not known to the schema."""


class Codes:
    """Strings to small whole numbers, in order of appearance."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.called: dict[str, str] = {}
        """What people call some of them."""

    def code(self, word: str) -> int:
        return self.of.setdefault(word, len(self.of))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.of)


def third_party_meaning(metric: Metric, schema: MetricSchema) -> MetricMapping:
    """A metric that the user names: a container's where its series name containers, else the node's;
    a counter if its name ends as Prometheus' conventions have it."""
    counter = metric.name.endswith("_total")
    if any(schema.container_labels[0] in labels for labels in metric.labels):
        return MetricMapping("feature", metric.name, "container", schema.container_labels, counter=counter)
    # every series of a node is a unit of its own: what tells them apart is not known here
    units = sorted({label for labels in metric.labels for label in labels} - {schema.node_label, "__name__"})
    aggregate: Literal["sum", "mean"] = "sum" if counter else "mean"
    return MetricMapping("feature", metric.name, "node", tuple(units), counter=counter, aggregate=aggregate)


def map_series(
    metric: Metric,
    meaning: MetricMapping,
    schema: MetricSchema,
    nodes: Codes,
    units: Codes,
    exporters: Codes,
    counts: Counts,
    *,
    third_party: bool = False,
) -> Measured:
    n = metric.n_series
    node, unit, exporter = (np.zeros(n, dtype=np.int64) for _ in range(3))
    sources: list[str | None] = []
    known_nodes = nodes.words
    for index, labels in enumerate(metric.labels):
        if schema.node_label not in labels:
            counts.missing_labels[f"{metric.name} {schema.node_label}"] += 1
        label = labels.get(schema.node_label, "")
        node[index] = nodes.code(_same_host(label, known_nodes) if third_party else label)
        word, missing = _unit(meaning, labels)
        if missing:
            counts.missing_labels[f"{metric.name} {missing}"] += 1
        unit[index] = units.code(word)
        if word not in units.called:
            units.called[word] = _called(meaning, labels)
        exporter[index] = exporters.code("\0".join(labels.get(label, "") for label in _EXPORTER_LABELS))
        sources.append(labels.get(schema.source_label, meaning.source))
    counts.not_finite.update({metric.name: metric.not_finite})
    counts.repeated_timestamps.update({metric.name: metric.repeated})
    counts.one_sample_series.update({metric.name: int(np.count_nonzero(metric.lengths == 1))})
    return Measured(metric, meaning, node, unit, exporter, tuple(sources), third_party)


def _same_host(label: str, known: Sequence[str]) -> str:
    """The node label of Kepler's exporter on the machine of another exporter: they differ in the port.
    The label as it is if there is not exactly one."""
    if label in known:
        return label
    host = label.rpartition(":")[0] or label
    found = [other for other in known if host in (other, other.rpartition(":")[0])]
    return found[0] if len(found) == 1 else label


def _unit(meaning: MetricMapping, labels: Mapping[str, str]) -> tuple[str, str | None]:
    """The name of what a series counts (a container, a socket), and the label that it should have."""
    if meaning.level in ("node", "vm"):
        return "/".join(labels.get(label, "") for label in meaning.unit_labels), None
    if not meaning.unit_labels:
        return "", None
    first, *others = meaning.unit_labels
    if labels.get(first):
        return labels[first], None
    return "/".join(word for label in others if (word := labels.get(label, ""))), first


def _called(meaning: MetricMapping, labels: Mapping[str, str]) -> str:
    """What people call a unit that has an id: for a container, namespace/pod/container."""
    return "/".join(word for label in meaning.unit_labels[1:] if (word := labels.get(label, "")))


def select_level(measured: list[Measured], use_vm_metrics: bool) -> list[Measured]:
    """Containers and processes count the same work: only one level is used."""
    if use_vm_metrics:
        kept = []
        for item in measured:
            meaning = item.meaning
            if item.third_party or meaning.level == "vm" or (meaning.kind == "feature" and meaning.level == "node"):
                kept.append(item)
            elif meaning.level == "process":
                is_vm = np.array([labels.get("job") == "vm" for labels in item.metric.labels], dtype=bool)
                kept.append(keep_series(item, is_vm))
        return kept
    own = [item for item in measured if not item.third_party]
    levels = {i.meaning.level for i in own if i.meaning.kind == "feature" and i.metric.n_samples}
    drop = {"vm", "process"} if "container" in levels else {"vm", "container"}
    return [item for item in measured if item.third_party or item.meaning.level not in drop]


def keep_series(item: Measured, kept: BoolArray) -> Measured:
    """Only the samples of some series (the series stay, without samples)."""
    return item if kept.all() else keep_samples(item, kept[item.metric.series])


def keep_samples(item: Measured, kept: BoolArray) -> Measured:
    if kept.all():
        return item
    metric = item.metric
    return attrs.evolve(
        item,
        metric=metric_from_columns(
            metric.name, metric.timestamps[kept], metric.values[kept], metric.series[kept], metric.labels
        ),
    )
