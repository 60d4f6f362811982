"""Which metrics to ask a server for, and by which labels: only what a pipeline needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs

from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.plugins import registry
from kepler_core.recording.metric_mapping import find_schema
from kepler_core.vocabulary import FEATURE_GROUPS, group_features

if TYPE_CHECKING:
    from kepler_core.pipeline.spec import PipelineSpec

_PLAIN_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@attrs.frozen
class Selection:
    """One metric's series, with what their labels must be."""

    metric: str
    matchers: tuple[str, ...] = ()
    """PromQL label matchers, e.g. `source=~"rapl"`."""

    def selector(self) -> str:
        """In PromQL."""
        if _PLAIN_NAME.fullmatch(self.metric):
            return self.metric + ("{" + ",".join(self.matchers) + "}" if self.matchers else "")
        return "{" + ",".join([f"__name__={quoted(self.metric)}", *self.matchers]) + "}"


def quoted(text: str) -> str:
    """A PromQL string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def select_metrics(
    names: Sequence[str],
    *,
    spec: PipelineSpec | None = None,
    instance: str | None = None,
    matchers: Sequence[str] = (),
) -> list[Selection]:
    """Of the metrics that a server has, those that are needed: by a pipeline, or (without one) all that
    the installed metric schema knows. `instance` is a regular expression that a node's label matches
    as a whole; `matchers` go with every metric."""
    found = find_schema(names)
    if found is None:
        return []
    _, schema = found
    of_node = [f"{schema.node_label}=~{quoted(instance)}"] if instance is not None else []
    third_party = () if spec is None else spec.third_party
    meanings = {name: meaning for name in names if (meaning := schema.meaning(name)) is not None}
    by_container = any(m.kind == "feature" and m.level == "container" for m in meanings.values())
    selections = []
    for name in sorted(set(names)):
        if name in meanings:
            own = [] if spec is None else _needed(spec, meanings[name], schema, by_container)
            if own is not None:
                selections.append(Selection(name, (*own, *of_node, *matchers)))
        elif name in third_party:
            # another exporter's label differs in the port
            selections.append(Selection(name, tuple(matchers)))
    return selections


def _needed(spec: PipelineSpec, meaning: MetricMapping, schema: MetricSchema, by_container: bool) -> list[str] | None:
    """Label matchers of what the pipeline needs of a metric; None if it needs none of it."""
    if meaning.kind != "feature":
        if meaning.level != ("vm" if spec.use_vm_metrics else "node"):
            return None
        if spec.energy_sources == "auto":
            return []
        reads = [label for name in spec.energy_sources for label in _reads(name, meaning.name)]
        if not reads:
            return None
        # a series without the label is of the schema's own choice
        words = [re.escape(label) for label in reads] + ([""] if meaning.source in reads else [])
        return [f"{schema.source_label}=~{quoted('|'.join(words))}"]
    if meaning.name not in _features(spec):
        return None
    if meaning.level == "node":
        return []
    if spec.use_vm_metrics:
        return ['job="vm"'] if meaning.level == "process" else None
    return [] if meaning.level == ("container" if by_container else "process") else None


def _reads(source: str, component: str) -> Collection[str]:
    plugin = registry.energy_sources.get(source)
    return plugin.reads if component in plugin.components else ()


def _features(spec: PipelineSpec) -> set[str]:
    groups = list(FEATURE_GROUPS) if spec.feature_groups == "auto" else spec.feature_groups
    return {feature for group in groups for feature in group_features(group, spec.third_party)}
