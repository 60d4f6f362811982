"""Select the metrics to query from a Prometheus server, and the label matchers that choose their series."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.plugins import registry
from kepler_core.recording.schemas import SchemaUse, find_schemas, is_machine_metric
from kepler_core.vocabulary import FEATURE_GROUPS, group_features

if TYPE_CHECKING:
    from kepler_core.pipeline.spec import PipelineSpec

_PLAIN_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@attrs.frozen
class Selection:
    """The series of one metric whose labels satisfy all matchers."""

    metric: str
    matchers: tuple[str, ...] = ()
    """Label matchers in PromQL, e.g. `source=~"rapl"`."""
    node_label: str = "instance"
    """Label that names the exporter of a series."""

    def selector(self) -> str:
        """Return the metric with its label matchers as a PromQL instant vector selector."""
        if _PLAIN_NAME.fullmatch(self.metric):
            return self.metric + ("{" + ",".join(self.matchers) + "}" if self.matchers else "")
        return "{" + ",".join([f"__name__={promql_string(self.metric)}", *self.matchers]) + "}"


def promql_string(text: str) -> str:
    """Return a text as a PromQL string literal, quoted and escaped."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def select_metrics(
    names: Sequence[str],
    *,
    spec: PipelineSpec | None = None,
    instance: str | None = None,
    matchers: Sequence[str] = (),
    metric_prefix: str | None = None,
) -> list[Selection]:
    """Choose the metrics to query from a Prometheus server. Return one `Selection` for each chosen metric.

    `names` are all metrics of the server. The metrics that the pipeline `spec` needs are chosen. Without `spec`, every
    metric that a metric schema uses is chosen. If several exporters report the same feature or component, the metrics
    of only one of these exporters are chosen. `instance` is a regular expression that must match the whole node label.
    It is applied only to metrics of the exporter that has the most metrics. `matchers` are PromQL label matchers that
    are added to every selection. `metric_prefix` is the first word of the exporter's metric names, if it is not the
    word that the schema expects.
    """
    uses = find_schemas(names, metric_prefix)
    third_party = () if spec is None else spec.third_party
    features = {m.level for use in uses.metrics.values() for m in use.mappings if m.kind == "feature"}
    level = "container" if "container" in features else "process"
    needed = _from_one_exporter(
        {
            name: [m for m in use.mappings if spec is None or _is_needed(spec, m, level)]
            for name, use in uses.metrics.items()
        },
        uses,
    )
    selections = []
    for name in sorted(set(names)):
        if name in third_party and not needed.get(name):
            # A third-party metric comes from another exporter, which has another port in its node label. So the
            # regular expression `instance` is not applied to this metric.
            selections.append(Selection(name, tuple(matchers)))
        elif mappings := needed.get(name, []):
            schema = uses.metrics[name].schema
            own = [*_where(mappings), *([] if spec is None else _matchers(spec, mappings, schema))]
            selections.append(_selection(name, uses, own, instance, matchers))
    return selections


def select_machine_metrics(
    names: Sequence[str],
    others: Sequence[Selection],
    *,
    instance: str | None = None,
    matchers: Sequence[str] = (),
    metric_prefix: str | None = None,
) -> list[Selection]:
    """Return a selection for each metric in `names` that describes machines and that `others` lacks.

    `instance`, `matchers` and `metric_prefix` are those of `select_metrics`.

    A counter is left out: with few samples of it, readers of the recording would calculate wrong rates. A gauge that is
    a part of a feature comes with the other parts of the feature.
    """
    uses = find_schemas(names, metric_prefix)
    selected = {selection.metric for selection in others}
    chosen: set[str] = set()
    for name in set(names) - selected:
        mappings = [mapping for mapping in uses.mappings(name) if mapping.kind != "cpus"]
        if is_machine_metric(name, metric_prefix) and not any(mapping.counter for mapping in mappings):
            chosen.add(name)
            parts = {mapping.name for mapping in mappings if mapping.part}
            chosen |= {
                other
                for other, use in uses.metrics.items()
                if other not in selected and any(m.name in parts and not m.counter for m in use.mappings)
            }
    return [
        _selection(name, uses, [], instance, matchers) if name in uses.metrics else Selection(name, tuple(matchers))
        for name in sorted(chosen)
    ]


def _selection(
    metric: str, uses: SchemaUse, own: Sequence[str], instance: str | None, matchers: Sequence[str]
) -> Selection:
    """Return the selection of a metric that a metric schema uses. `own` are label matchers for this metric alone.

    The regular expression `instance` is applied only to metrics of the exporter that has the most metrics.
    """
    schema = uses.metrics[metric].schema
    if instance is not None and schema is uses.schemas[0][1]:
        own = [*own, f"{schema.node_label}=~{promql_string(instance)}"]
    return Selection(metric, (*own, *matchers), schema.node_label)


def _from_one_exporter(
    mappings: Mapping[str, Sequence[MetricMapping]], uses: SchemaUse
) -> dict[str, list[MetricMapping]]:
    """Leave out mappings of features and components for which another exporter is preferred. Return the rest by metric.

    `kepler_core.recording.exporters.one_exporter_each` prefers the same exporters. The number of CPUs is needed only
    for metrics that are shares of the CPUs.
    """
    number = {name: at for at, name in enumerate(uses.names)}
    best: dict[tuple[str, ...], tuple[bool, int]] = {}

    def place(metric: str, mapping: MetricMapping) -> tuple[bool, int]:
        return mapping.level == "node", number[uses.metrics[metric].schema_name]

    def key(mapping: MetricMapping) -> tuple[str, ...]:
        return (mapping.name,) if mapping.kind == "feature" else (mapping.name, mapping.level, mapping.source or "")

    for metric, of_metric in mappings.items():
        for mapping in of_metric:
            best[key(mapping)] = min(best.get(key(mapping), place(metric, mapping)), place(metric, mapping))
    shares = any(mapping.share_of is not None for of_metric in mappings.values() for mapping in of_metric)
    return {
        metric: [m for m in of_metric if (shares if m.kind == "cpus" else best[key(m)] == place(metric, m))]
        for metric, of_metric in mappings.items()
    }


def _where(mappings: Sequence[MetricMapping]) -> list[str]:
    """Return label matchers that the series of all mappings fulfil.

    A label gets a matcher if every mapping allows only some of its values. The matcher has the values of all mappings.
    """
    labels = set(mappings[0].where).intersection(*(mapping.where for mapping in mappings))
    values = {label: sorted({value for mapping in mappings for value in mapping.where[label]}) for label in labels}
    return [
        f"{label}=~{promql_string('|'.join(re.escape(value) for value in of_label))}"
        for label, of_label in sorted(values.items())
    ]


def _is_needed(spec: PipelineSpec, mapping: MetricMapping, level: str) -> bool:
    """Return whether a pipeline needs the series of a mapping.

    `level` tells whether features of containers ("container") or of processes ("process") are used.
    """
    if mapping.kind == "cpus":
        return True
    if mapping.kind != "feature":
        return mapping.level == ("vm" if spec.use_vm_metrics else "node") and _reads(spec, mapping) is not None
    return mapping.name in _features(spec) and mapping.level in (
        "node",
        "process" if spec.use_vm_metrics else level,
    )


def _matchers(spec: PipelineSpec, mappings: Sequence[MetricMapping], schema: MetricSchema) -> list[str]:
    """Return the label matchers of a metric that depend on the pipeline. `_where` returns all others."""
    if any(mapping.kind in ("feature", "cpus") for mapping in mappings):
        is_guest = spec.use_vm_metrics and not spec.vm_guests and any(m.level == "process" for m in mappings)
        return ['job="vm"'] if is_guest else []
    values: set[str] = set()
    for mapping in mappings:
        labels = _reads(spec, mapping)
        if labels is None or not labels:
            return []
        values.update(labels)
    words = [re.escape(value) for value in sorted(values - {""})] + [""] * ("" in values)
    return [f"{schema.source_label}=~{promql_string('|'.join(words))}"]


def _reads(spec: PipelineSpec, mapping: MetricMapping) -> list[str] | None:
    """Return the values of the source label whose series a pipeline reads for a component.

    Return None if the pipeline reads no series, and an empty list if it reads all series.

    The value "" stands for series without a source label, if they belong to one of the pipeline's energy sources.
    """
    if spec.energy_sources == "auto":
        return []
    labels = [label for name in spec.energy_sources for label in _source_labels(name, mapping.name)]
    if not labels:
        return None
    return [*labels, *([""] if mapping.source in labels else [])]


def _source_labels(source: str, component: str) -> Collection[str]:
    """Return the source labels that an energy source reads; empty if the source does not measure the component."""
    plugin = registry.energy_sources.get(source)
    return plugin.reads if component in plugin.components else ()


def _features(spec: PipelineSpec) -> set[str]:
    groups = list(FEATURE_GROUPS) if spec.feature_groups == "auto" else spec.feature_groups
    return {feature for group in groups for feature in group_features(group, spec.third_party)}
