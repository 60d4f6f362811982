"""Checks of metric schemas."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kepler_core.contracts import MetricMapping, MetricSchema
from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.recording.schemas import map_metric
from kepler_core.testing.checks import CheckError, Subject, check_of, require
from kepler_core.vocabulary import COMPONENTS, FEATURES

LEVELS = ("container", "process", "vm", "node")
WATTS = 100.0
RATE = 50.0
STEP = 5
_FOREIGN = ("", "up", "node_cpu_seconds_total", "go_goroutines", "ALERTS", "a" * 500, "kepler_", "ünknown", "x\ny")


def _known(subject: Subject) -> dict[str, str]:
    """Metric -> word of our vocabulary, as the author or `spelling` gives them."""
    given: Mapping[str, str] | None = subject.given.get("metrics")
    if given is not None:
        return dict(given)
    schema = subject.make()
    found: dict[str, str] = {}
    for word in (*FEATURES, *COMPONENTS):
        for level in LEVELS:
            metric = schema.spelling(level, word)
            if metric != word and metric not in found and schema.meaning(metric) is not None:
                found[metric] = word
    return found


def _meaning(schema: Any, metric: str) -> MetricMapping:
    found = schema.meaning(metric)
    require(
        isinstance(found, MetricMapping),
        f"meaning({metric!r}) is {found!r}; return a MetricMapping for a metric of this exporter",
    )
    meaning: MetricMapping = found
    return meaning


@check_of(MetricSchema)
def knows_metrics(subject: Subject) -> None:
    """At least one feature or power."""
    found = _known(subject)
    require(
        found,
        "knows no metric that spelling() names; let spelling(level, word) give the metric of each word of our "
        "vocabulary that the exporter has, or give metrics={name: word} to the checks",
    )
    schema = subject.make()
    for metric, word in found.items():
        meaning = _meaning(schema, metric)
        require(meaning.name == word, f"{metric} means {meaning.name!r}, but {word!r} is spelled so")


@check_of(MetricSchema)
def uses_our_words(subject: Subject) -> None:
    """Names, levels, units and labels that mean something here."""
    schema = subject.make()
    for metric in _known(subject):
        meaning = _meaning(schema, metric)
        words = FEATURES if meaning.kind == "feature" else COMPONENTS
        require(meaning.kind in ("feature", "energy", "power"), f"{metric}: kind {meaning.kind!r} is unknown")
        require(meaning.name in words, f"{metric}: {meaning.name!r} is no {meaning.kind} of kepler_core.vocabulary")
        require(meaning.level in LEVELS, f"{metric}: level {meaning.level!r} is none of {', '.join(LEVELS)}")
        require(np.isfinite(meaning.scale) and meaning.scale > 0, f"{metric}: scale {meaning.scale} is not above 0")
        if meaning.level != "node":
            require(meaning.unit_labels, f"{metric}: unit_labels is empty; name the label of the {meaning.level}'s id")
        if meaning.kind == "energy":
            require(
                meaning.counter, f"{metric}: energy is a counter of joules; watts that come as they are, are kind power"
            )


@check_of(MetricSchema)
def ignores_what_is_not_its_own(subject: Subject) -> None:
    """A recording holds metrics of all kinds."""
    schema = subject.make()
    for metric in _FOREIGN:
        try:
            found = schema.meaning(metric)
        except Exception as error:
            raise CheckError(f"meaning({metric[:30]!r}) raises {registry.one_line(error)}; return None") from error
        require(found is None, f"meaning({metric[:30]!r}) is {found!r}; return None for a metric of somebody else")


@check_of(MetricSchema)
def takes_nobodys_metrics(subject: Subject) -> None:
    """A recording belongs to the schema that knows most of its metrics."""
    for name, other in registry.metric_schemas.load_all()[0].items():
        if other is subject.plugin:
            continue
        try:
            schema = registry.create(other, name, {})
        except PluginError:  # nobody can use that one
            continue
        both = sorted(metric for metric in _known(subject) if map_metric(schema, metric) is not None)
        require(
            not both, f"{', '.join(both[:3])} is known to the schema {name}, too; they would claim the same recordings"
        )


@check_of(MetricSchema)
def answers_quickly(subject: Subject) -> None:
    """It is asked for every metric of every recording."""
    schema = subject.make()
    names = [*_known(subject), *(f"some_metric_{number}" for number in range(200))]
    started = time.process_time()
    for metric in names:
        schema.meaning(metric)
    milliseconds = 1000 * (time.process_time() - started) / len(names)
    require(
        milliseconds < 5, f"meaning() takes {milliseconds:.1f} ms a metric; look names up, and do not read files there"
    )


@check_of(MetricSchema)
def is_deterministic(subject: Subject) -> None:
    """A metric has one meaning."""
    schema, other = subject.make(), subject.make()
    for metric in _known(subject):
        require(schema.meaning(metric) == other.meaning(metric), f"meaning({metric!r}) is not the same each time")


@check_of(MetricSchema)
def has_the_right_units(subject: Subject) -> None:
    """A recording of 100 W, in its spelling, is read as 100 W; a counter of 50 a second as 50."""
    installed = [n for n, other in registry.metric_schemas.load_all()[0].items() if other is subject.plugin]
    if not installed:
        return  # given as a class that nothing names: recordings cannot know it
    schema = subject.make()
    known = _known(subject)
    content: dict[str, list[dict[str, Any]]] = {}
    used: dict[str, MetricMapping] = {}
    levels = {_meaning(schema, metric).level for metric in known}
    usual = ("container", "node") if "container" in levels else ("process", "node")
    for metric, word in known.items():
        meaning = _meaning(schema, metric)
        if meaning.level in usual and word not in {m.name for m in used.values()}:
            used[metric] = meaning
            content[metric] = _series(schema, meaning)
    seen = observe([read_recording(content, name="of known power")])
    for metric, meaning in used.items():
        if meaning.kind == "feature":
            _compare(metric, seen.node_features.get(meaning.name), RATE * (1 if meaning.counter else meaning.scale))
            continue
        sources = [source for source, component in seen.power if component == meaning.name]
        require(
            sources,
            f"{metric}: a recording with it has no power; set source=… to an energy source (known: "
            f"{', '.join(registry.energy_sources.names())}) where series have no label {schema.source_label!r}",
        )
        _compare(metric, seen.power[sources[0], meaning.name], WATTS)


def _series(schema: Any, meaning: MetricMapping) -> list[dict[str, Any]]:
    labels = {schema.node_label: "machine-1"}
    for label in meaning.unit_labels:
        labels[label] = "some" if label != "mode" else "dynamic"
    if meaning.kind != "feature" and meaning.source is not None:
        source = registry.energy_sources.load_all()[0].get(meaning.source)
        require(source is not None, f"source {meaning.source!r} is no installed energy source")
    wanted = RATE if meaning.kind == "feature" else WATTS
    values = []
    for number in range(20):
        at = 1_700_000_000 + STEP * number
        if meaning.counter:
            value = wanted * STEP * number / meaning.scale
        else:
            value = wanted if meaning.kind == "feature" else wanted / meaning.scale
        values.append([at, f"{value:.9g}"])
    return [{"metric": labels, "values": values}]


def _compare(metric: str, found: Any, wanted: float) -> None:
    require(
        found is not None and np.isfinite(found).any(), f"{metric}: nothing of it is known in a recording that has it"
    )
    off = np.nanmax(np.abs(np.asarray(found) - wanted))
    require(
        off <= 1e-3 * wanted,
        f"{metric}: read as {np.nanmedian(found):.4g} where it should be {wanted:g}; look at scale and counter",
    )
