"""Descriptions of the machines of nodes, from metrics in the recordings themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import attrs
import numpy as np

from kepler_core.errors import UsageError
from kepler_core.honesty.node_names import host_of
from kepler_core.machine import MachineSpec, differences
from kepler_core.messages import first_of, printable, quoted
from kepler_core.parquet import is_parquet
from kepler_core.parquet.locations import as_location
from kepler_core.parquet.series_values import series_values
from kepler_core.recording import read_recording
from kepler_core.recording.machine_facts import NOT_STATED, Described, MachineFacts, Values, described
from kepler_core.recording.observations import Stream
from kepler_core.recording.schemas import installed_schemas, is_machine_metric, machine_mappings_of

_SHOWN_NODES = 5
_SHOWN_NOTES = 20
_COMPARED_TYPES = 200
"""Number of node types, those with the most nodes, with which a type with unknown attributes is compared."""
_EQUAL_MEMORY = 0.01
"""Two machines have equal memory if their memory differs by at most this fraction: of equal machines, one may reserve
more memory for its kernel. One GiB is always allowed."""


@attrs.frozen(eq=False)
class DescribedNodes:
    """The descriptions of the machines of observed nodes."""

    specs: Mapping[Stream, MachineSpec]
    """Stream -> description. A stream without any known attribute that identifies a node type is left out."""
    notes: tuple[str, ...]
    """What is missing, impossible, contradictory or noteworthy in the descriptions; a line each."""


class RecordedMachines:
    """What the metrics of recordings state about the machines of their nodes."""

    def __init__(self, facts: Mapping[str, MachineFacts]) -> None:
        """`facts` are the facts of each recording, by the recording's name."""
        self._facts = facts

    def most_cores(self) -> int | None:
        """Return the number of CPUs of the largest machine; None if it is not known for all machines."""
        cores = [described(facts.of_node(name)).spec.cores for facts in self._facts.values() for name in facts.names]
        return max((number for number in cores if number is not None), default=None) if None not in cores else None

    def of_streams(self, streams: Iterable[Stream]) -> DescribedNodes:
        """Return the descriptions of the machines of some streams, with notes about their problems."""
        found = {stream: self._described(stream) for stream in dict.fromkeys(streams)}
        specs, notes = _with_equal_memory({stream: one.spec for stream, one in found.items() if one.spec.identity})
        problems = {stream: found[stream].problems for stream in specs}
        kinds = (_problem_notes(problems), notes, _product_notes(specs, found), _unidentified(specs), _separated(specs))
        return DescribedNodes(specs, tuple(note for of_kind in kinds for note in _first(of_kind)))

    def _described(self, stream: Stream) -> Described:
        """Return the description of a stream's machine. Other recordings of the node add what its own does not state.

        Another recording adds nothing if it contradicts the own recording, or if every machine may have such a name.
        """
        own = self._facts.get(stream.recording)
        one = Described(MachineSpec()) if own is None else described(own.of_node(stream.node))
        if host_of(stream.node) is None:
            return one
        for name, facts in self._facts.items():
            other = described(facts.of_node(stream.node)) if name != stream.recording else Described(MachineSpec())
            if not differences(one.spec.as_dict(), other.spec.as_dict()):
                missing = {key: value for key, value in other.spec.as_dict().items() if getattr(one.spec, key) is None}
                missing = {key: value for key, value in missing.items() if one.problems.get(key) in (None, NOT_STATED)}
                problems = {key: why for key, why in one.problems.items() if key not in missing}
                one = Described(attrs.evolve(one.spec, **missing), one.product or other.product, problems)
        return one


def _first(notes: Sequence[str]) -> list[str]:
    """Return the first notes of a kind, and the number of the others."""
    more = [f"and {len(notes) - _SHOWN_NOTES} more notes of this kind"] if len(notes) > _SHOWN_NOTES else []
    return [*notes[:_SHOWN_NOTES], *more]


def _with_equal_memory(specs: Mapping[Stream, MachineSpec]) -> tuple[dict[Stream, MachineSpec], list[str]]:
    """Give machines that differ only slightly in memory the most frequent size of their memory."""
    alike: dict[MachineSpec, list[Stream]] = {}
    for stream, spec in specs.items():
        alike.setdefault(attrs.evolve(spec, memory=None), []).append(stream)
    result = dict(specs)
    notes = []
    for other, streams in alike.items():
        sizes = Counter(memory for stream in streams if (memory := specs[stream].memory))
        for group in _close(sorted(sizes)):
            if len(group) > 1:
                usual = max(group, key=lambda size: (sizes[size], size))
                for stream in streams:
                    if specs[stream].memory in group:
                        result[stream] = attrs.evolve(specs[stream], memory=usual)
                n = sum(sizes[size] for size in group)
                notes.append(
                    f"memory of {_nodes(n)} with {_words(other)}: {' and '.join(map(str, group))} GiB count as "
                    f"{usual} GiB, because the kernels of equal machines reserve different parts of the memory"
                )
    return result, notes


def _close(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield sizes of memory in groups that count as equal: no size is much larger than the smallest of its group."""
    group: list[int] = []
    for size in sizes:
        if group and size - group[0] > max(_EQUAL_MEMORY * group[0], 1):
            yield group
            group = []
        group.append(size)
    if group:
        yield group


def _problem_notes(problems: Mapping[Stream, Mapping[str, str]]) -> list[str]:
    """Return a line for each different problem, with the nodes that have it."""
    nodes: dict[tuple[str, str], set[str]] = {}
    for stream, of_stream in problems.items():
        for attribute, why in of_stream.items():
            nodes.setdefault((attribute, why), set()).add(stream.node)
    n_all = len({stream.node for stream in problems})
    lines: dict[tuple[str, ...], list[str]] = {}
    for (attribute, why), of_problem in nodes.items():
        lines.setdefault((why, *sorted(of_problem)), []).append(attribute)
    return [
        f"{' and '.join(attributes)} of {_named(names, n_all)}: {why}" for (why, *names), attributes in lines.items()
    ]


def _product_notes(specs: Mapping[Stream, MachineSpec], found: Mapping[Stream, Described]) -> list[str]:
    """Return a line for each node type that contains computers of several products."""
    products: dict[str, dict[str, set[str]]] = {}
    for stream, spec in specs.items():
        if product := found[stream].product:
            products.setdefault(_words(spec), {}).setdefault(product, set()).add(stream.node)
    return [
        f"the node type with {words} has several products, whose power may differ: "
        + ", ".join(f"{quoted(name, 60)} ({_nodes(len(nodes))})" for name, nodes in sorted(of_type.items()))
        for words, of_type in products.items()
        if len(of_type) > 1
    ]


def _unidentified(specs: Mapping[Stream, MachineSpec]) -> list[str]:
    """Return a line if nodes whose processor is not known are grouped by their other attributes."""
    nodes = sorted({stream.node for stream, spec in specs.items() if "processor" not in spec.identity})
    others = "the nodes are grouped by their other attributes, so a node type may have different processors"
    return (
        [f"processor of {_named(nodes, len({stream.node for stream in specs}))} not known: {others}"] if nodes else []
    )


def _separated(specs: Mapping[Stream, MachineSpec]) -> list[str]:
    """Return a line for each node type that differs from another type only in attributes that are not known."""
    types: dict[str, tuple[MachineSpec, set[str]]] = {}
    for stream, spec in specs.items():
        types.setdefault(_words(spec), (spec, set()))[1].add(stream.node)
    n_all = len({stream.node for stream in specs})
    largest = sorted(types.items(), key=lambda entry: -len(entry[1][1]))[:_COMPARED_TYPES]
    lines = []
    for words, (spec, nodes) in types.items():
        for other_words, (other, _) in largest:
            unknown = sorted(other.identity.keys() - spec.identity.keys())
            if unknown and all(
                _is_close(name, value, other.identity.get(name)) for name, value in spec.identity.items()
            ):
                lines.append(
                    f"{_named(sorted(nodes), n_all)} with {words}: a separate node type, because "
                    f"{' and '.join(unknown)} is not known; the machine may equal those with {other_words}"
                )
                break
    return lines


def _is_close(name: str, value: Any, other: Any) -> bool:
    """Return whether two values of an attribute count as equal."""
    return value == other or (name == "memory" and other is not None and len(list(_close(sorted([value, other])))) == 1)


def _words(spec: MachineSpec) -> str:
    """Return the attributes of a machine that identify its node type, e.g. "processor amd_epyc_7763, cores 128"."""
    return ", ".join(f"{name} {value}" for name, value in spec.identity.items()) or "no known attribute"


def _named(nodes: Sequence[str], n_all: int) -> str:
    """Return how many nodes there are, and the names of the first nodes."""
    if len(nodes) == n_all > 1:
        return f"all {n_all} nodes"
    return f"{_nodes(len(nodes))} ({first_of([printable(node, 60) for node in nodes], _SHOWN_NODES)})"


def _nodes(n: int) -> str:
    return "1 node" if n == 1 else f"{n} nodes"


def read_machines(paths: Sequence[str], metric_prefix: str | None = None) -> RecordedMachines:
    """Read the metrics that describe machines from recordings.

    `metric_prefix` is the first word of the exporter's metric names, if it is not the word that the schema expects.
    Raises `UsageError` if no recording has such a metric.
    """
    facts = {as_location(path) if is_parquet(path) else path: _facts_of(path, metric_prefix) for path in paths}
    if not any(one.names for one in facts.values()):
        raise UsageError(
            "no metric in the recordings describes machines (e.g. kepler_node_cpu_info or node_cpu_info); record it "
            "with `kepler-model query --machines`, or describe the machines in a file (--machine-specs FILE)"
        )
    return RecordedMachines(facts)


def _facts_of(path: str, metric_prefix: str | None) -> MachineFacts:
    """Return what a recording states about machines."""
    wanted = lru_cache(maxsize=None)(partial(is_machine_metric, prefix=metric_prefix))
    facts = MachineFacts()
    for metric, series in series_values(path, wanted) if is_parquet(path) else _json_series(path, wanted):
        for schema in installed_schemas(metric_prefix):
            if mappings := machine_mappings_of(schema, metric):
                facts.add(metric, schema, mappings, series)
    return facts


def _json_series(path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[Values]]]:
    """Yield each described metric of a recording in JSON, with its series that have samples."""
    recording = read_recording(path, wanted=wanted)
    for name, metric in recording.metrics.items():
        used = np.flatnonzero(metric.lengths)
        if len(used):
            lows = np.minimum.reduceat(metric.values, metric.starts[used])
            highs = np.maximum.reduceat(metric.values, metric.starts[used])
            yield (
                name,
                [
                    (metric.labels[at], low, high)
                    for at, low, high in zip(used.tolist(), lows.tolist(), highs.tolist(), strict=True)
                ],
            )
