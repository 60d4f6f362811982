"""Checks of metric schemas. The module `exporter_scrapes` has the checks that look at the exporter's own output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kepler_core.contracts import MachineMapping, MetricMapping, UnusedMetric
from kepler_core.errors import PluginError
from kepler_core.messages import one_line
from kepler_core.metric_mappings import MACHINE_ATTRIBUTES
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import create
from kepler_core.recording import observe, read_recording
from kepler_core.recording.schemas import mappings_of
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require
from kepler_core.testing.exporter_scrapes import (
    adds_no_overlapping_zones,
    counts_nothing_twice,
    drops_no_metric,
    scraped_families,
    uses_no_gauge_as_energy,
)
from kepler_core.vocabulary import COMPONENTS, FEATURES

LEVELS = ("container", "process", "vm", "node")
KINDS = ("feature", "energy", "power", "cpus")

WATTS = {"platform": 400.0, "package": 200.0, "core": 100.0, "uncore": 50.0, "dram": 100.0}
"""Power of each component in the generated recording, in watts. A machine can have these powers at the same time."""
OTHER_WATTS = 100.0
"""Power in the generated recording of a component that is not in `WATTS`, in watts."""
RATE_PER_SECOND = 50.0
"""Rate of each feature in the generated recording, per second; for a gauge, the value of the gauge."""
STEP_SECONDS = 5

MAX_MILLISECONDS = 5.0
"""Limit for the average duration of a call of `mappings`, in milliseconds of CPU time."""

_OTHER_METRICS = (
    "",
    "up",
    "process_cpu_seconds_total",
    "go_goroutines",
    "ALERTS",
    "a" * 500,
    "kepler_",
    "ünknown",
    "x\ny",
)


def _metrics(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Return the features or components that series of each metric measure. The keys are metric names.

    The plugin's author can pass these metrics to the checks. By default, they are all metric names that the schema's
    method `spelling` returns. A metric that occurs only in the exporter's output has an empty tuple.
    """
    metrics: dict[str, tuple[str, ...]] = {}
    extra: Mapping[str, str] | None = subject.extras.get("metrics")
    if extra is not None:
        metrics.update({metric: (word,) for metric, word in extra.items()})
    else:
        schema = subject.make()
        for word in (*FEATURES, *COMPONENTS):
            for level in LEVELS:
                metric = schema.spelling(level, word)
                if metric != word and word not in metrics.get(metric, ()):
                    metrics[metric] = (*metrics.get(metric, ()), word)
    for family in scraped_families(subject):
        if _mappings(subject.make(), family):
            metrics.setdefault(family, ())
    return metrics


def _mappings(schema: Any, metric: str) -> tuple[MetricMapping, ...]:
    """Return the mappings of a metric, without the entries of the class `UnusedMetric`."""
    result = schema.mappings(metric)
    is_valid = isinstance(result, (tuple, list)) and all(
        isinstance(entry, (MetricMapping, UnusedMetric)) for entry in result
    )
    require(is_valid, f"mappings({metric!r}) is {result!r}; return a tuple of MetricMapping and UnusedMetric")
    return tuple(entry for entry in result if isinstance(entry, MetricMapping))


def knows_metrics(subject: Subject) -> None:
    """Check that the schema maps at least one metric, and maps each metric to the expected features or components."""
    metrics = _metrics(subject)
    schema = subject.make()
    require(
        any(_mappings(schema, metric) for metric in metrics),
        "maps no metric that spelling() returns; let spelling(level, word) return the metric of each word of our "
        "vocabulary that the exporter has, or pass metrics={name: word} to the checks",
    )
    for metric, words in metrics.items():
        names = [mapping.name for mapping in _mappings(schema, metric)]
        for word in words:
            require(
                word in names,
                f"{metric} is mapped to {', '.join(map(repr, names)) or 'nothing'}, but spelling() returns it for "
                f"{word!r}",
            )


def uses_known_words(subject: Subject) -> None:
    """Check that Kepler Core knows the kind, name and level of each mapping, and that the scale is positive.

    A mapping whose level is not "node" must also name the labels that identify a unit, e.g. a container.
    """
    schema = subject.make()
    for metric in _metrics(subject):
        for mapping in _mappings(schema, metric):
            _check_words(metric, mapping)
    for metric in {*_metrics(subject), *scraped_families(subject)}:
        for entry in schema.machine_mappings(metric):
            _check_machine_words(metric, entry)


def _check_machine_words(metric: str, entry: Any) -> None:
    require(
        isinstance(entry, MachineMapping),
        f"machine_mappings({metric!r}) has {entry!r}; return a tuple of MachineMapping",
    )
    require(
        entry.attribute in MACHINE_ATTRIBUTES,
        f"{metric}: {entry.attribute!r} is no attribute of a machine; known are {', '.join(MACHINE_ATTRIBUTES)}",
    )
    require(
        not (entry.label and entry.counted_labels),
        f"{metric}: {entry.attribute} is the value of a label or a number of values; set label or counted_labels",
    )


def _check_words(metric: str, mapping: MetricMapping) -> None:
    words = {"feature": FEATURES, "cpus": ("cpus",)}.get(mapping.kind, COMPONENTS)
    require(mapping.kind in KINDS, f"{metric}: kind {mapping.kind!r} is unknown")
    require(mapping.name in words, f"{metric}: {mapping.name!r} is no {mapping.kind} of kepler_core.vocabulary")
    require(mapping.level in LEVELS, f"{metric}: level {mapping.level!r} is none of {', '.join(LEVELS)}")
    is_scale = np.isfinite(mapping.scale) and (mapping.scale > 0 or (mapping.scale < 0 and mapping.part != ""))
    require(is_scale, f"{metric}: scale {mapping.scale} is not above 0; only a part can be subtracted")
    if mapping.level != "node":
        require(mapping.unit_labels, f"{metric}: unit_labels is empty; name the label of the {mapping.level}'s id")
    if mapping.kind == "energy":
        require(mapping.counter, f"{metric}: energy is a counter of joules; a gauge of watts has the kind power")
    if mapping.wraps_at is not None:
        require(mapping.counter and mapping.wraps_at > 0, f"{metric}: wraps_at is for counters, and above 0")
    if mapping.share_of is not None:
        is_gauge = mapping.kind == "feature" and not mapping.counter
        require(is_gauge, f"{metric}: share_of is for features that are gauges")


def ignores_other_metrics(subject: Subject) -> None:
    """Check that `mappings` returns nothing for metrics of other exporters, which recordings also contain."""
    schema = subject.make()
    for metric in _OTHER_METRICS:
        try:
            result = schema.mappings(metric)
        except Exception as error:
            raise CheckError(f"mappings({metric[:30]!r}) raises {one_line(error)}; return ()") from error
        require(
            result in ((), []), f"mappings({metric[:30]!r}) is {result!r}; return () for a metric of another exporter"
        )


def knows_no_other_schemas_metrics(subject: Subject) -> None:
    """Check that no other installed schema maps the same metrics.

    If two schemas map the same metric, Kepler Core uses the schema that knows more metrics of a recording. So the
    choice would depend on the recording.
    """
    for name, other in registry.metric_schemas.load_all()[0].items():
        if other is subject.plugin:
            continue
        try:
            schema = create(other, name, {})
        except PluginError:  # the other schema cannot be instantiated, so no recording is read with it
            continue
        shared = sorted(metric for metric in _metrics(subject) if mappings_of(schema, metric))
        require(
            not shared,
            f"the schema {name} also maps {', '.join(shared[:3])}; both would claim the same recordings",
        )


def mapping_is_quick(subject: Subject) -> None:
    """Check that `mappings` is quick, because it is called for every metric of every recording."""
    schema = subject.make()
    names = [*_metrics(subject), *(f"some_metric_{number}" for number in range(200))]
    started = time.process_time()
    for metric in names:
        schema.mappings(metric)
    milliseconds = 1000 * (time.process_time() - started) / len(names)
    require(
        milliseconds < MAX_MILLISECONDS,
        f"mappings() takes {milliseconds:.1f} ms a metric; look names up, and do not read files there",
    )


def is_deterministic(subject: Subject) -> None:
    """Check that two instances of the schema return the same mappings for each metric."""
    schema, other = subject.make(), subject.make()
    for metric in _metrics(subject):
        require(schema.mappings(metric) == other.mappings(metric), f"mappings({metric!r}) changes from call to call")


def has_the_right_units(subject: Subject) -> None:
    """Check that scales and kinds of metrics are right: read a recording with known watts and rates.

    The recording is generated with the schema's metric names. Reading it must give the watts in `WATTS` for each
    component and 50 per second for each feature. The check passes without testing anything if the schema is not
    installed.
    """
    if all(other is not subject.plugin for other in registry.metric_schemas.load_all()[0].values()):
        return  # the schema is not installed, so no recording is read with it
    schema = subject.make()
    entries = _tested_mappings(schema, list(_metrics(subject)))
    cpus = [entry for entry in entries if entry[1].kind == "cpus"]
    for name in dict.fromkeys(mapping.name for _, mapping, _ in entries if mapping.kind != "cpus"):
        _check_units(schema, [entry for entry in entries if entry[1].name == name], cpus)


_Tested = tuple[str, MetricMapping, float]
"""Name of a metric, mapping of the metric, and the share of a feature or component that the metric measures."""


def _check_units(schema: Any, entries: Sequence[_Tested], cpus: Sequence[_Tested]) -> None:
    """Check that a recording of one feature or component, and of one CPU, is read in the units of the vocabulary."""
    content: dict[str, list[dict[str, Any]]] = {}
    for metric, mapping, share in (*entries, *cpus):
        # If a feature and the CPUs are read from the same metric, the series of the feature also shows the CPU.
        if mapping.kind != "cpus" or metric not in content:
            content.setdefault(metric, []).append(_series(schema, mapping, share))
    observations = observe([read_recording(content, name="of known power")])
    for metric, mapping, _ in entries:
        if mapping.kind == "feature":
            expected = RATE_PER_SECOND * (1 if mapping.counter or mapping.share_of else mapping.scale)
            _compare(metric, observations.node_features.get(mapping.name), expected)
        else:
            sources = [source for source, component in observations.power if component == mapping.name]
            require(
                sources,
                f"{metric}: a recording with it has no power; set source=… to an energy source (known: "
                f"{', '.join(registry.energy_sources.names())}) where series have no label {schema.source_label!r}",
            )
            _compare(metric, observations.power[sources[0], mapping.name], WATTS.get(mapping.name, OTHER_WATTS))


def _tested_mappings(schema: Any, metrics: Sequence[str]) -> list[_Tested]:
    """Return the mappings to test.

    For each feature and component, only the mappings with the lowest rank are tested. If several of them measure the
    same part, only the first of these is tested.
    """
    known = [(metric, mapping) for metric in metrics for mapping in _mappings(schema, metric)]
    levels = {mapping.level for _, mapping in known if mapping.kind == "feature"}
    used_levels = ("container", "node") if "container" in levels else ("process", "node")
    has_cpus = any(mapping.kind == "cpus" for _, mapping in known)
    known = [
        (m, mapping) for m, mapping in known if mapping.level in used_levels and (has_cpus or not mapping.share_of)
    ]
    tested: list[_Tested] = []
    for name in dict.fromkeys(mapping.name for _, mapping in known):
        # Sort the mappings of containers or processes first, because they are preferred to the mappings of nodes.
        of_name = sorted(((m, x) for m, x in known if x.name == name), key=lambda e: (e[1].level == "node", e[1].rank))
        first = of_name[0][1]
        parts: dict[str, tuple[str, MetricMapping]] = {}
        for metric, mapping in of_name:
            is_used = (mapping.level, mapping.rank, mapping.kind) == (first.level, first.rank, first.kind)
            if is_used and mapping.scale > 0:  # if the scale is negative, the part is 0 in the recording
                parts.setdefault(mapping.part, (metric, mapping))
        tested.extend((metric, mapping, 1 / len(parts)) for metric, mapping in parts.values())
    return tested


def _series(schema: Any, mapping: MetricMapping, share: float) -> dict[str, Any]:
    """Return a series in the form of a Prometheus range-query result. It has a share of the known rate or power."""
    labels = {schema.node_label: "machine-1"}
    for label in (*mapping.unit_labels, *mapping.summed_labels):
        labels[label] = "some" if label != "mode" else "dynamic"
    labels.update({label: values[0] for label, values in mapping.where.items() if values[0]})
    if mapping.kind in ("energy", "power") and mapping.source is not None:
        source = registry.energy_sources.load_all()[0].get(mapping.source)
        require(source is not None, f"source {mapping.source!r} is no installed energy source")
    is_power = mapping.kind in ("energy", "power")
    rate = share * (WATTS.get(mapping.name, OTHER_WATTS) if is_power else RATE_PER_SECOND)
    values = []
    for number in range(20):
        timestamp = 1_700_000_000 + STEP_SECONDS * number
        if mapping.counter:
            value = rate * STEP_SECONDS * number / mapping.scale
        elif mapping.share_of is not None:
            value = rate / (1000 * mapping.scale)  # the share of one CPU
        else:
            value = rate / mapping.scale if is_power else rate
        values.append([timestamp, f"{value:.9g}"])
    return {"metric": labels, "values": values}


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
    adds_no_overlapping_zones,
    uses_no_gauge_as_energy,
    counts_nothing_twice,
    drops_no_metric,
    has_the_right_units,
)
