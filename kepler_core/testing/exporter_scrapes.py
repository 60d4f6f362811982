"""Checks of metric schemas for mistakes that make power too high or too low.

Examples of such mistakes: zones that overlap are added up, a gauge is read as a counter, energy is counted twice.

The checks are most useful with the exporter's own output, which the plugin's author passes as `scrape`: the text of
its page /metrics. Without it, the checks use the metric names that the schema's method `spelling` returns, and
label values that such exporters usually have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import attrs

from kepler_core.contracts import MetricMapping
from kepler_core.recording.schemas import mappings_of
from kepler_core.testing.checks import Subject, require
from kepler_core.vocabulary import COMPONENTS, FEATURES

ZONES = ("package", "core", "dram", "uncore", "psys")
"""Names of the zones of RAPL, which overlap: core and uncore are parts of package, and psys contains package."""
ZONE_LABELS = ("zone", "domain", "rail", "component", "domain_name")
"""Labels that hold the name of a zone in usual exporters."""
_LEVELS = ("container", "process", "vm", "node")

_TYPE = re.compile(r"# TYPE (\S+) (\S+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_OF_POWER = ("joules", "watts", "energy", "power", "cpu", "microjoules", "microwatts", "milliwatts")


@attrs.frozen
class Family:
    """A metric in the exporter's output."""

    kind: str = "untyped"
    """"counter", "gauge" or "untyped"."""
    labels: tuple[Mapping[str, str], ...] = ()
    """Labels of each series; labels with an empty value are left out, as Prometheus does."""


def scraped_families(subject: Subject) -> dict[str, Family]:
    """Return the metrics in the exporter's output, by name; empty if the author did not pass the output."""
    kinds: dict[str, str] = {}
    labels: dict[str, list[dict[str, str]]] = {}
    for line in subject.extras.get("scrape", "").splitlines():
        if match := _TYPE.match(line):
            kinds[match[1]] = match[2]
        elif match := _SAMPLE.match(line):
            pairs = {name: value for name, value in _LABEL.findall(match[2] or "") if value}
            labels.setdefault(match[1], []).append(pairs)
    return {name: Family(kinds.get(name, "untyped"), tuple(series)) for name, series in labels.items()}


def _names(subject: Subject) -> list[str]:
    """Return all metric names: from the method `spelling`, from the plugin's author, and from the exporter's output."""
    schema = subject.make()
    spelled = [schema.spelling(level, word) for word in (*FEATURES, *COMPONENTS) for level in _LEVELS]
    return list(dict.fromkeys([*subject.extras.get("metrics", ()), *spelled, *scraped_families(subject)]))


def _mapped(subject: Subject) -> dict[str, tuple[MetricMapping, ...]]:
    schema = subject.make()
    return {
        name: tuple(entry for entry in mappings_of(schema, name) if isinstance(entry, MetricMapping))
        for name in _names(subject)
    }


def adds_no_overlapping_zones(subject: Subject) -> None:
    """Check that no component has the energy or power of several zones, e.g. of package and of core.

    One mapping per zone, with `where={"zone": …}`, is right. One mapping for all zones adds up overlapping zones.
    """
    families = scraped_families(subject)
    zones_of: dict[tuple[str, str, int], dict[str, str]] = {}
    for name, mappings in _mapped(subject).items():
        for mapping in mappings:
            if mapping.kind not in ("energy", "power"):
                continue
            labels = families[name].labels if name in families else ()
            for label, zone, series in _zone_series(mapping, labels):
                if mapping.selects(series):
                    known = zones_of.setdefault((mapping.level, mapping.name, mapping.rank), {})
                    known[zone] = f'{name}{{{label}="{zone}"}}'
    for (_, component, _), zones in zones_of.items():
        require(
            len(zones) < 2,
            f"{component} gets {' and '.join(list(zones.values())[:3])}: these zones overlap or are beside each "
            f"other; write one mapping for each zone that is a component, e.g. where={{'zone': '{component}'}}",
        )


def _zone_series(
    mapping: MetricMapping, scraped: Sequence[Mapping[str, str]]
) -> list[tuple[str, str, Mapping[str, str]]]:
    """Return the series on which a mapping is tested. Each series has a label that names a zone.

    Each item is (name of this label, zone, labels of the series).
    """
    series = []
    for labels in scraped:
        for label, value in labels.items():
            zone = re.sub(r"-\d+$", "", value)
            if zone in ZONES and label not in ("mode", "source"):
                series.append((label, zone, labels))
    if scraped:
        return series
    own = (*mapping.unit_labels, *mapping.summed_labels, *mapping.ignored_labels, *mapping.where)
    fixed = {label: values[0] for label, values in mapping.where.items() if label not in ZONE_LABELS}
    return [(label, zone, {**fixed, label: zone}) for label in own if label in ZONE_LABELS for zone in ZONES]


def uses_no_gauge_as_energy(subject: Subject) -> None:
    """Check that metrics of energy are counters of joules, and that metrics of power are gauges of watts.

    The type in the exporter's output decides. Without an output, the unit in the metric's name decides.
    """
    families = scraped_families(subject)
    for name, mappings in _mapped(subject).items():
        kind = families[name].kind if name in families else "untyped"
        words = set(name.split("_"))
        if kind == "untyped" and any(word.endswith("watts") for word in words):
            kind = "gauge"
        elif kind == "untyped" and any(word.endswith("joules") for word in words) and "total" in words:
            kind = "counter"
        for mapping in mappings:
            require(
                mapping.kind != "energy" or kind != "gauge",
                f"{name} is a gauge, but is mapped as energy; use the exporter's counter of joules, or kind='power' if "
                "it has none",
            )
            require(
                mapping.kind != "power" or kind != "counter",
                f"{name} is a counter, but is mapped as power; use kind='energy'",
            )


def counts_nothing_twice(subject: Subject) -> None:
    """Check that no part of a feature or component contains another part, and that alternative metrics have ranks.

    A metric whose name has all words of another name and more words, such as x_cpu_active_joules_total beside
    x_cpu_joules_total, measures a part of the other metric. The two metrics must not be added up.
    """
    families = scraped_families(subject)
    by_name: dict[tuple[str, str, str], list[tuple[str, MetricMapping]]] = {}
    for name, mappings in _mapped(subject).items():
        for mapping in mappings:
            if mapping.kind != "cpus":
                by_name.setdefault((mapping.level, mapping.kind, mapping.name), []).append((name, mapping))
    for (_, _, word), entries in by_name.items():
        for at, (name, mapping) in enumerate(entries):
            for other, its_mapping in entries[at + 1 :]:
                is_subtracted = mapping.scale * its_mapping.scale < 0
                if name == other or mapping.rank != its_mapping.rank or is_subtracted:
                    continue
                whole, part = sorted((name, other), key=len)
                if mapping.part != its_mapping.part:
                    require(
                        not set(whole.split("_")) < set(part.split("_")),
                        f"{word} is the sum of {name} and {other}, but {part} seems to be a part of {whole}; map only "
                        "one of them, or give one of them rank=1",
                    )
                else:
                    require(
                        name not in families or other not in families,
                        f"{name} and {other} both measure {word}; give the worse one rank=1, or give them different "
                        "parts if they add up",
                    )


def drops_no_metric(subject: Subject) -> None:
    """Check that the schema describes each metric of power, energy and CPU in the exporter's output.

    A metric that is not used must be an `UnusedMetric` with a reason, and each series must have a mapping or a reason.
    """
    schema = subject.make()
    families = scraped_families(subject)
    prefixes = {name.split("_")[0] for name, mappings in _mapped(subject).items() if mappings}
    for name, family in families.items():
        words = name.split("_")
        if words[0] not in prefixes or not set(words) & set(_OF_POWER):
            continue
        entries = mappings_of(schema, name)
        require(entries, f"{name} is not mapped; map it, or return (UnusedMetric('the reason'),)")
        lost = [labels for labels in family.labels if not any(entry.selects(labels) for entry in entries)]
        require(not lost, f"{name}{dict(lost[0]) if lost else ''} has no mapping and no reason why it is not used")
