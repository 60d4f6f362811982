"""Select the metrics to query from a Prometheus server, and the label matchers that choose their series."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs

from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.plugins import registry
from kepler_core.recording.schemas import find_schema, map_metric
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

    def selector(self) -> str:
        """Return the selection as a PromQL instant vector selector."""
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
    """Return a selection for each metric in `names` that the pipeline `spec` needs.

    `names` are the metrics that a server has. Without a pipeline, every metric that the server's metric
    schema knows is selected. `instance` is a regular expression that must match the whole node label.
    `matchers` are PromQL label matchers to add to every selection. `metric_prefix` is the first word of the
    exporter's metric names, if it is not the one that the schema expects.
    """
    named_schema = find_schema(names, metric_prefix)
    if named_schema is None:
        return []
    schema = named_schema[1]
    of_node = [f"{schema.node_label}=~{promql_string(instance)}"] if instance is not None else []
    third_party = () if spec is None else spec.third_party
    mappings = {name: mapping for name in names if (mapping := map_metric(schema, name)) is not None}
    by_container = any(m.kind == "feature" and m.level == "container" for m in mappings.values())
    selections = []
    for name in sorted(set(names)):
        if name in mappings:
            own = [] if spec is None else _needed(spec, mappings[name], schema, by_container)
            if own is not None:
                selections.append(Selection(name, (*own, *of_node, *matchers)))
        elif name in third_party:
            # A third-party metric comes from another exporter, which has another port in its node label. So the
            # regular expression `instance` is not applied to this metric.
            selections.append(Selection(name, tuple(matchers)))
    return selections


def _needed(spec: PipelineSpec, mapping: MetricMapping, schema: MetricSchema, by_container: bool) -> list[str] | None:
    """Return label matchers for the series that a pipeline needs of a metric; None if the pipeline needs no series."""
    if mapping.kind != "feature":
        return _needed_power(spec, mapping, schema)
    if mapping.name not in _features(spec):
        return None
    if mapping.level == "node":
        return []
    if spec.use_vm_metrics:
        if mapping.level != "process":
            return None
        return [] if spec.vm_guests else ['job="vm"']
    return [] if mapping.level == ("container" if by_container else "process") else None


def _needed_power(spec: PipelineSpec, mapping: MetricMapping, schema: MetricSchema) -> list[str] | None:
    if mapping.level != ("vm" if spec.use_vm_metrics else "node"):
        return None
    if spec.energy_sources == "auto":
        return []
    source_labels = [label for name in spec.energy_sources for label in _source_labels(name, mapping.name)]
    if not source_labels:
        return None
    # An empty alternative in the regular expression matches series without a source label. Such series belong to
    # the energy source that the mapping names.
    words = [re.escape(label) for label in source_labels] + ([""] if mapping.source in source_labels else [])
    return [f"{schema.source_label}=~{promql_string('|'.join(words))}"]


def _source_labels(source: str, component: str) -> Collection[str]:
    """Return the source labels that an energy source reads; empty if the source does not measure the component."""
    plugin = registry.energy_sources.get(source)
    return plugin.reads if component in plugin.components else ()


def _features(spec: PipelineSpec) -> set[str]:
    groups = list(FEATURE_GROUPS) if spec.feature_groups == "auto" else spec.feature_groups
    return {feature for group in groups for feature in group_features(group, spec.third_party)}
