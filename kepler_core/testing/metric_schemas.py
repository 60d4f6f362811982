"""Checks of metric schemas."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kepler_core.contracts import MetricMapping
from kepler_core.errors import PluginError
from kepler_core.messages import one_line
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import create
from kepler_core.recording import observe, read_recording
from kepler_core.recording.schemas import map_metric
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require
from kepler_core.vocabulary import COMPONENTS, FEATURES

LEVELS = ("container", "process", "vm", "node")

WATTS = {"platform": 400.0, "package": 200.0, "core": 100.0, "uncore": 50.0, "dram": 100.0}
"""Power of each component in the generated recording, in watts. A machine can have these powers at the same time."""
OTHER_WATTS = 100.0
"""Power of a component that is not in `WATTS`."""
RATE_PER_SECOND = 50.0
"""Rate of each feature in the generated recording, per second; for a gauge, the value of the gauge."""
STEP_SECONDS = 5

MAX_MILLISECONDS = 5.0
"""Limit for the average duration of a call of `mapping`, in milliseconds of CPU time."""

_OTHER_METRICS = (
    "",
    "up",
    "node_cpu_seconds_total",
    "go_goroutines",
    "ALERTS",
    "a" * 500,
    "kepler_",
    "ünknown",
    "x\ny",
)


def _metrics(subject: Subject) -> dict[str, str]:
    """Return metric name -> the feature or component that the metric measures.

    The plugin's author can pass these metrics to the checks. By default, they are all metric names that the schema's
    method `spelling` returns.
    """
    extra: Mapping[str, str] | None = subject.extras.get("metrics")
    if extra is not None:
        return dict(extra)
    schema = subject.make()
    metrics: dict[str, str] = {}
    for word in (*FEATURES, *COMPONENTS):
        for level in LEVELS:
            metric = schema.spelling(level, word)
            if metric != word and metric not in metrics and schema.mapping(metric) is not None:
                metrics[metric] = word
    return metrics


def _mapping(schema: Any, metric: str) -> MetricMapping:
    result = schema.mapping(metric)
    require(
        isinstance(result, MetricMapping),
        f"mapping({metric!r}) is {result!r}; return a MetricMapping for a metric of this exporter",
    )
    mapping: MetricMapping = result
    return mapping


def knows_metrics(subject: Subject) -> None:
    """Check that there is at least one metric, and that `mapping` maps each metric to the expected name."""
    metrics = _metrics(subject)
    require(
        metrics,
        "maps no metric that spelling() returns; let spelling(level, word) return the metric of each word of our "
        "vocabulary that the exporter has, or pass metrics={name: word} to the checks",
    )
    schema = subject.make()
    for metric, word in metrics.items():
        mapping = _mapping(schema, metric)
        require(mapping.name == word, f"{metric} is mapped to {mapping.name!r}, but spelling() returns it for {word!r}")


def uses_known_words(subject: Subject) -> None:
    """Check that the kind, name and level of each mapping are known, and that its scale is positive.

    Mappings at other levels than "node" must also have unit labels.
    """
    schema = subject.make()
    for metric in _metrics(subject):
        mapping = _mapping(schema, metric)
        words = FEATURES if mapping.kind == "feature" else COMPONENTS
        require(mapping.kind in ("feature", "energy", "power"), f"{metric}: kind {mapping.kind!r} is unknown")
        require(mapping.name in words, f"{metric}: {mapping.name!r} is no {mapping.kind} of kepler_core.vocabulary")
        require(mapping.level in LEVELS, f"{metric}: level {mapping.level!r} is none of {', '.join(LEVELS)}")
        require(np.isfinite(mapping.scale) and mapping.scale > 0, f"{metric}: scale {mapping.scale} is not above 0")
        if mapping.level != "node":
            require(mapping.unit_labels, f"{metric}: unit_labels is empty; name the label of the {mapping.level}'s id")
        if mapping.kind == "energy":
            require(mapping.counter, f"{metric}: energy is a counter of joules; a gauge of watts has the kind power")


def ignores_other_metrics(subject: Subject) -> None:
    """Check that `mapping` returns None for metrics of other exporters, which recordings also contain."""
    schema = subject.make()
    for metric in _OTHER_METRICS:
        try:
            mapping = schema.mapping(metric)
        except Exception as error:
            raise CheckError(f"mapping({metric[:30]!r}) raises {one_line(error)}; return None") from error
        require(
            mapping is None, f"mapping({metric[:30]!r}) is {mapping!r}; return None for a metric of another exporter"
        )


def knows_no_other_schemas_metrics(subject: Subject) -> None:
    """Check that no other installed schema maps the same metrics.

    A recording is read with the schema that maps the largest number of the recording's metrics. If two schemas map
    the same metrics, the choice between these schemas is arbitrary.
    """
    for name, other in registry.metric_schemas.load_all()[0].items():
        if other is subject.plugin:
            continue
        try:
            schema = create(other, name, {})
        except PluginError:  # the other schema cannot be instantiated, so no recording is read with it
            continue
        shared = sorted(metric for metric in _metrics(subject) if map_metric(schema, metric) is not None)
        require(
            not shared,
            f"the schema {name} also maps {', '.join(shared[:3])}; both would claim the same recordings",
        )


def mapping_is_quick(subject: Subject) -> None:
    """Check that `mapping` is quick, because it is called for every metric of every recording."""
    schema = subject.make()
    names = [*_metrics(subject), *(f"some_metric_{number}" for number in range(200))]
    started = time.process_time()
    for metric in names:
        schema.mapping(metric)
    milliseconds = 1000 * (time.process_time() - started) / len(names)
    require(
        milliseconds < MAX_MILLISECONDS,
        f"mapping() takes {milliseconds:.1f} ms a metric; look names up, and do not read files there",
    )


def is_deterministic(subject: Subject) -> None:
    """Check that two instances of the schema return the same mapping for each metric."""
    schema, other = subject.make(), subject.make()
    for metric in _metrics(subject):
        require(schema.mapping(metric) == other.mapping(metric), f"mapping({metric!r}) changes from call to call")


def has_the_right_units(subject: Subject) -> None:
    """Check that scales and kinds of metrics are right: read a recording with known watts and rates.

    The recording is generated with the schema's metric names. Reading it must give the watts in `WATTS` for each
    component and 50 per second for each feature. The check passes without testing anything if the schema is not
    installed.
    """
    if all(other is not subject.plugin for other in registry.metric_schemas.load_all()[0].values()):
        return  # not installed: recordings are read with installed schemas only
    schema = subject.make()
    metrics = _metrics(subject)
    content: dict[str, list[dict[str, Any]]] = {}
    mappings: dict[str, MetricMapping] = {}
    levels = {_mapping(schema, metric).level for metric in metrics}
    used_levels = ("container", "node") if "container" in levels else ("process", "node")
    for metric, word in metrics.items():
        mapping = _mapping(schema, metric)
        if mapping.level in used_levels and word not in {m.name for m in mappings.values()}:
            mappings[metric] = mapping
            content[metric] = _series(schema, mapping)
    observations = observe([read_recording(content, name="of known power")])
    for metric, mapping in mappings.items():
        if mapping.kind == "feature":
            expected = RATE_PER_SECOND * (1 if mapping.counter else mapping.scale)
            _compare(metric, observations.node_features.get(mapping.name), expected)
            continue
        sources = [source for source, component in observations.power if component == mapping.name]
        require(
            sources,
            f"{metric}: a recording with it has no power; set source=… to an energy source (known: "
            f"{', '.join(registry.energy_sources.names())}) where series have no label {schema.source_label!r}",
        )
        _compare(metric, observations.power[sources[0], mapping.name], WATTS.get(mapping.name, OTHER_WATTS))


def _series(schema: Any, mapping: MetricMapping) -> list[dict[str, Any]]:
    """Return a list with one series of a metric, as in a Prometheus range-query result."""
    labels = {schema.node_label: "machine-1"}
    for label in mapping.unit_labels:
        labels[label] = "some" if label != "mode" else "dynamic"
    if mapping.kind != "feature" and mapping.source is not None:
        source = registry.energy_sources.load_all()[0].get(mapping.source)
        require(source is not None, f"source {mapping.source!r} is no installed energy source")
    rate = RATE_PER_SECOND if mapping.kind == "feature" else WATTS.get(mapping.name, OTHER_WATTS)
    values = []
    for number in range(20):
        timestamp = 1_700_000_000 + STEP_SECONDS * number
        if mapping.counter:
            value = rate * STEP_SECONDS * number / mapping.scale
        else:
            value = rate if mapping.kind == "feature" else rate / mapping.scale
        values.append([timestamp, f"{value:.9g}"])
    return [{"metric": labels, "values": values}]


def _compare(metric: str, values: Any, expected: float) -> None:
    require(
        values is not None and np.isfinite(values).any(),
        f"{metric}: a recording with this metric has no value for it",
    )
    difference = np.nanmax(np.abs(np.asarray(values) - expected))
    require(
        difference <= 1e-3 * expected,
        f"{metric}: read as {np.nanmedian(values):.4g} instead of {expected:g}; check scale and counter",
    )


CHECKS: tuple[CheckFunction, ...] = (
    knows_metrics,
    uses_known_words,
    ignores_other_metrics,
    knows_no_other_schemas_metrics,
    mapping_is_quick,
    is_deterministic,
    has_the_right_units,
)
