"""Facts about the machines of nodes, from metrics that describe nodes, e.g. `kepler_node_cpu_info`.

`MachineFacts` collects what the metrics of one recording state. `described` turns the facts about one node into the
description of its machine. It names values that are missing, impossible or contradictory; such an attribute stays
unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from kepler_core.contracts import MachineMapping, MetricSchema
from kepler_core.machine import MachineSpec
from kepler_core.messages import quoted, shortened
from kepler_core.processor_names import processor_name
from kepler_core.recording.exporters import host_of

Value = TypeVar("Value", str, int)
Values = tuple[Mapping[str, str], float, float]
"""The labels of a series, and its lowest and its highest value."""
Facts = Mapping[tuple[str, str], frozenset[Any]]
"""(Attribute, metric) -> what the series of a node state: texts of a label, tuples of counted labels, or numbers."""

NOT_STATED = "not stated by any metric"
_NO_NAMES = ("", "unknown", "none", "not specified", "to be filled by o.e.m.", "default string")
"""Values of labels that name nothing, in lower case."""
_LARGEST = {"cores": 2**16, "physical_cores": 2**16, "chips": 2**10, "memory": 2**20, "frequency": 10_000}
"""Largest possible values: more CPUs than Linux supports, 1 PiB of memory, 10 GHz."""
_UNITS = {"memory": " GiB", "frequency": " MHz"}
_THREADS_PER_CORE = (1, 2, 4, 8)
_TOLD_APART = re.compile(r"(?P<base>.*?) ?\((?P<words>[^()]*)\)")
_NAME_CHARACTERS = 60


@attrs.define(eq=False)
class _Target:
    """Series with the same node label and equal values of all labels that state no attribute."""

    labels: Mapping[str, str]
    aliases: frozenset[str]
    """Names of the machine in the alias labels of the metric schema."""
    facts: dict[tuple[str, str], set[Any]] = attrs.field(factory=dict)


class MachineFacts:
    """What the metrics of one recording state about machines."""

    def __init__(self) -> None:
        self._targets: dict[Any, _Target] = {}
        self._of_name: dict[str, list[_Target]] = {}

    def add(
        self, metric: str, schema: MetricSchema, mappings: Sequence[MachineMapping], series: Iterable[Values]
    ) -> None:
        """Add what the series of a metric state."""
        own = {"__name__", *(label for m in mappings for label in (m.label, *m.counted_labels, *m.where))}
        for labels, low, high in series:
            target = self._target(schema, {name: word for name, word in labels.items() if name not in own})
            for mapping in mappings:
                if mapping.selects(labels):
                    stated = target.facts.setdefault((mapping.attribute, metric), set())
                    if mapping.is_value:
                        stated.update((low * mapping.scale, high * mapping.scale))
                    elif mapping.label:
                        stated.add(labels.get(mapping.label, ""))
                    else:
                        stated.add(tuple(labels.get(label, "") for label in mapping.counted_labels))

    def _target(self, schema: MetricSchema, labels: Mapping[str, str]) -> _Target:
        key = (schema.node_label, tuple(sorted(labels.items())))
        target = self._targets.get(key)
        if target is None:
            aliases = frozenset(labels[name] for name in schema.node_alias_labels if labels.get(name))
            target = self._targets[key] = _Target(labels, aliases)
            for name in {host_of(labels.get(schema.node_label, "")), *aliases}:
                self._of_name.setdefault(name, []).append(target)
        return target

    def of_node(self, node: str) -> Facts:
        """Return the facts about a node of the observations, from all exporters on it.

        A node whose name ends in words such as `(cluster=east)` shares its node label with other machines. Only series
        with these labels describe it.
        """
        told_apart = None if host_of(node) in self._of_name else _TOLD_APART.fullmatch(node)
        base = node if told_apart is None else told_apart["base"]
        words = [] if told_apart is None else told_apart["words"].split(", ")
        name = host_of(base)
        direct = [target for target in self._of_name.get(name, ()) if _has(target, words)]
        # Another exporter on the machine may have another address, but the same value of an alias label.
        aliases = set().union(*(target.aliases for target in direct)) - {name}
        more = [target for alias in aliases for target in self._of_name.get(alias, ()) if _has(target, words)]
        facts: dict[tuple[str, str], set[Any]] = {}
        for target in {id(target): target for target in (*direct, *more)}.values():
            for key, stated in target.facts.items():
                facts.setdefault(key, set()).update(stated)
        return {key: frozenset(stated) for key, stated in facts.items()}

    @property
    def names(self) -> list[str]:
        """Names of all described nodes: hosts in node labels, and values of alias labels."""
        return list(self._of_name)


def _has(target: _Target, words: Sequence[str]) -> bool:
    """Return whether the labels of a target fit all words: "label=value", or "no label"."""
    for word in words:
        label, equals, value = word.partition("=")
        if target.labels.get(label if equals else label.removeprefix("no "), "") != value:
            return False
    return True


@attrs.frozen
class Described:
    """The description of a machine, from metrics."""

    spec: MachineSpec
    product: str | None = None
    """Name of the computer, e.g. "PowerEdge R740"."""
    problems: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Attribute -> why it is not known, or what is wrong although it is known."""


def described(facts: Facts) -> Described:
    """Return the description of a machine that the facts about its node state."""
    reader = _Reader(facts)
    processor = reader.text("processor", processor_name)
    if processor is None and "processor" in reader.missing:
        # The microarchitecture is less than the name of a processor, but it tells the generation.
        processor = reader.text("architecture", processor_name)
        if processor is not None:
            reader.problems["processor"] = "only its microarchitecture is stated"
            reader.missing.discard("processor")
    cores = reader.number("cores")
    physical = reader.number("physical_cores")
    chips = reader.number("chips")
    if chips is not None and chips > 1 and chips in (cores, physical):
        reader.problems["chips"] = f"the metrics show a socket for each of the {chips} CPUs, as in virtual machines"
        chips = None
    threads, rest = divmod(cores, physical) if cores and physical else (None, 0)
    spec = MachineSpec(
        processor=processor,
        cores=cores,
        chips=chips,
        memory=reader.number("memory"),
        frequency=reader.number("frequency"),
        vendor=reader.text("vendor", str.casefold),
        threads_per_core=threads if threads in _THREADS_PER_CORE and not rest else None,
    )
    product = reader.text("product", str.strip)
    problems = {name: why for name, why in reader.problems.items() if name in _REPORTED}
    problems |= {name: NOT_STATED for name in _REPORTED if name in reader.missing and name != "product"}
    return Described(spec, product, problems)


_REPORTED = ("processor", "cores", "chips", "memory", "frequency", "product")


@attrs.define
class _Reader:
    """Reads attributes from facts, and collects the problems."""

    facts: Facts
    problems: dict[str, str] = attrs.field(factory=dict[str, str])
    missing: set[str] = attrs.field(factory=set)
    """Attributes that no metric states."""

    def text(self, attribute: str, normal: Callable[[str], str | None]) -> str | None:
        """Return the text on which all series agree in its normal form; None if there is none."""
        names: dict[str, str] = {}
        useless: list[str] = []
        for metric, stated in self._stated(attribute):
            for text in sorted(stated):
                name = normal(text) if text.strip().casefold() not in _NO_NAMES else None
                if name:
                    names.setdefault(name, f"{metric} states {quoted(text, _NAME_CHARACTERS)}")
                else:
                    useless.append(f"{metric} states {quoted(text, _NAME_CHARACTERS)}, which names none")
        return self._agreed(attribute, names, useless)

    def number(self, attribute: str) -> int | None:
        """Return the number on which all metrics agree; None if there is none."""
        unit = _UNITS.get(attribute, "")
        numbers: dict[int, str] = {}
        useless: list[str] = []
        for metric, stated in self._stated(attribute):
            if any(isinstance(value, tuple) for value in stated):
                if any("" in value for value in stated):
                    useless.append(f"{metric} has empty labels")
                    continue
                found = {len(stated)}
            else:
                found, wrong = _whole_numbers(attribute, stated)
                useless += [f"{metric} states {value:g}{unit}, which is impossible" for value in wrong]
            for number in found:
                if number <= _LARGEST[attribute]:
                    numbers.setdefault(number, f"{metric} states {number}{unit}")
                else:
                    useless.append(f"{metric} states {number}{unit}, which is impossible")
        if attribute == "memory" and numbers and max(numbers) - min(numbers) <= 1:
            # After an update, the kernel may reserve a little more or less memory for itself.
            numbers = {max(numbers): ""}
        return self._agreed(attribute, numbers, useless)

    def _stated(self, attribute: str) -> list[tuple[str, frozenset[Any]]]:
        of_metrics = sorted((metric, stated) for (name, metric), stated in self.facts.items() if name == attribute)
        if not of_metrics:
            self.missing.add(attribute)
        return of_metrics

    def _agreed(self, attribute: str, values: Mapping[Value, str], useless: Sequence[str]) -> Value | None:
        """Return the only value; None if there is none, or if there are several."""
        if len(values) > 1:
            first, second, *others = values.values()
            more = f" (and {len(others)} more values)" if others else ""
            self.problems[attribute] = f"contradiction: {first}, but {second}{more}"
            return None
        if useless:
            self.problems[attribute] = shortened("; ".join(useless), 4 * _NAME_CHARACTERS)
        return next(iter(values), None)


def _whole_numbers(attribute: str, stated: Iterable[float]) -> tuple[set[int], list[float]]:
    """Return the numbers that the values of a metric stand for, rounded as `profile machine` does; and wrong values."""
    good, wrong = set(), []
    for value in sorted(stated):
        if not math.isfinite(value) or value <= 0 or value > 2.0**60:
            wrong.append(value)
        elif attribute == "memory":
            good.add(math.floor(value))
        elif attribute == "frequency":
            good.add(round(value / 100) * 100)
        elif value == int(value):
            good.add(int(value))
        else:
            wrong.append(value)
    if 0 in good:
        good.remove(0)
        wrong.append(0.0)
    if attribute == "frequency" and good:
        good = {max(good)}  # the cores of a hybrid processor have different highest frequencies
    return good, wrong
