"""Tell nodes apart that have the same node label (`instance`).

Two clusters may use the same addresses, and a federating Prometheus server puts the address of the federated
server into `instance`. The labels that Prometheus adds to all series of a target tell such nodes apart, for
example `cluster` or `exported_instance`. Two Prometheus servers that scrape the same target (replicas) also
add different labels, but their counters have the same values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.contracts import MetricSchema
from kepler_core.recording.counts import Counts
from kepler_core.recording.machine_names import differing_labels, machine_name
from kepler_core.recording.metric_mapping import EXPORTER_LABELS, UNIQUE_ID, MappedMetric, SeriesCodes, keep_samples

_LARGEST_DELAY = 2.0
"""Maximum delay between a counter's values in two replicas, as a multiple of the usual time between increases.

Two servers scrape a target at different times, less than one scrape interval apart. A range query repeats a
value until the next scrape. So the value may be older by up to one interval.
"""
_AGREEING_TIMES = 0.95
"""Minimum fraction of times at which the values of replicas agree. Around resets and gaps, the values differ."""
_COMMON_UNITS = 0.5
"""Replicas of one target must have at least this fraction of their containers in common.

Replicas of one target report the same containers. A container that lives shorter than a scrape interval
may be missing in one replica.
"""
_LARGEST_DIFFERENCE = 0.1
"""Maximum difference of the energy that two exporters on one machine report in an interval.

The difference is a fraction of the larger energy. Its median over the intervals must not exceed the maximum. The
exporters read the same meters, but not at the same times.
"""
_DISAGREEING = 0.1
"""Maximum fraction of counters that may differ between two replicas, for example because a server missed scrapes."""
_COMPARED_SERIES = 50
"""Number of usage counters that are compared if two groups of series have no energy counter in common."""


@attrs.define(eq=False)
class _Group:
    """Series with the same node label, and with equal values of all other labels that may tell nodes apart."""

    labels: dict[str, str]
    """Values of the labels that may tell nodes apart."""
    series: list[tuple[int, int]] = attrs.field(factory=list[tuple[int, int]])
    """A pair for each series: index of the metric, and index of the series in the metric."""
    n_samples: int = 0
    start: float = np.inf
    end: float = -np.inf

    def overlaps(self, other: _Group) -> bool:
        """Return whether the time spans of the groups overlap by at least half of the shorter span."""
        shorter = min(self.end - self.start, other.end - other.start)
        overlap = min(self.end, other.end) - max(self.start, other.start)
        return overlap >= 0 and overlap >= shorter / 2


def tell_nodes_apart_by_schema(
    mapped: Sequence[MappedMetric], schemas: Sequence[MetricSchema], codes: SeriesCodes, counts: Counts
) -> list[MappedMetric]:
    """Apply `tell_nodes_apart` to the metrics of each schema, and return all metrics.

    Series of exporters with different schemas are not compared with each other.
    """
    told_apart = []
    for schema in schemas:
        own = [item for item in mapped if item.schema is schema]
        told_apart.extend(tell_nodes_apart(own, schema, codes, counts))
    return told_apart


def tell_nodes_apart(
    mapped: Sequence[MappedMetric], schema: MetricSchema, codes: SeriesCodes, counts: Counts
) -> list[MappedMetric]:
    """Give each machine a node of its own if several machines have the same node label. Return the changed metrics.

    The new nodes are added to `codes.nodes`. Their names are the node label and the labels that differ, for example
    "10.0.0.5:9102 (cluster=east)", or the value of an alias label such as `exported_instance`.
    """
    own = _own_labels(mapped, schema)
    aliases = set(schema.node_alias_labels)
    nodes = [item.node.copy() for item in mapped]
    left_out = [np.zeros(item.metric.n_samples, dtype=bool) for item in mapped]
    changed = False
    words, units = codes.nodes.words, codes.units.words
    candidates = _candidates(mapped, own, aliases)
    series_of_node = _series_of_nodes(mapped, candidates)
    for node, labels in candidates.items():
        groups = _groups(mapped, series_of_node[node], labels)
        machines = _machines(mapped, units, groups, aliases)
        for machine in machines:
            for copy in machine[1:]:
                _find_interleaved(mapped, machine[0], copy, left_out)
        if len(machines) < 2:
            continue
        changed = True
        differing = differing_labels([[group.labels for group in machine] for machine in machines], sorted(labels))
        for machine in machines:
            name = machine_name(words[node], machine[0].labels, differing, schema.node_alias_labels)
            code = codes.nodes.code(name)
            counts.count("nodes_told_apart", name, 1, f"{words[node]} with {', '.join(differing)}")
            for group in machine:
                for index, series in group.series:
                    nodes[index][series] = code
    told_apart = []
    for item, new_node, repeated in zip(mapped, nodes, left_out, strict=True):
        counts.count("duplicates", item.metric.name, int(np.count_nonzero(repeated)))
        told_apart.append(keep_samples(attrs.evolve(item, node=new_node) if changed else item, ~repeated))
    return told_apart


def _find_interleaved(
    mapped: Sequence[MappedMetric], first: _Group, copy: _Group, left_out: Sequence[BoolArray]
) -> None:
    """Find the series that two replicas report with different timestamps, and mark the copies in `left_out`.

    `first` is the group of series that is kept, and `copy` is a replica of this group. If a series has the same
    timestamps in both groups, `repeats.without_duplicates` leaves out the samples of the replica later.
    """
    if not first.overlaps(copy):
        return
    series_of_first = _by_unit(mapped, first, ("feature", "energy"))
    for key, (index, at) in _by_unit(mapped, copy, ("feature", "energy")).items():
        if key not in series_of_first:
            continue
        times, _ = _samples(mapped, series_of_first[key])
        metric = mapped[index].metric
        span = metric.span(at)
        of_copy = metric.timestamps[span]
        # If one of the two series begins after the end of the other series, the exporter was restarted in a new pod.
        # Then neither series is a copy.
        interleaved = len(times) and len(of_copy) and of_copy[0] <= times[-1] and times[0] <= of_copy[-1]
        if interleaved and np.count_nonzero(np.isin(of_copy, times)) < len(of_copy) / 2:
            left_out[index][span] = True


def _own_labels(mapped: Iterable[MappedMetric], schema: MetricSchema) -> set[str]:
    """Return the labels that the exporter itself adds, and the node label."""
    own = {"__name__", schema.node_label, schema.source_label, *schema.container_labels}
    if schema.mode_label is not None:
        own.add(schema.mode_label)
    for item in mapped:
        if not item.third_party:
            mapping = item.mapping
            own.update(mapping.unit_labels, mapping.summed_labels, mapping.ignored_labels)
            own.update(mapping.where, mapping.where_not)
    return own


def _candidates(mapped: Sequence[MappedMetric], own: set[str], aliases: set[str]) -> dict[int, set[str]]:
    """Return the labels that may distinguish machines with the same node label.

    The result maps the number of each such node label to these labels.

    Prometheus adds the labels of a target to all of its series, but the exporter's own labels occur only on some
    metrics. So a label is returned if it meets three conditions. It has two values or more (a missing label is a value,
    too). It occurs on every metric of the node. It occurs on at least one usage metric and one energy metric of the
    recording. An alias label with two values or more is always returned, even if some metrics lack it.
    """
    values: dict[tuple[int, str], set[str]] = {}
    metrics: dict[tuple[int, str], set[int]] = {}
    series: dict[tuple[int, str], int] = {}
    all_metrics: dict[int, set[int]] = {}
    n_series: dict[int, int] = {}
    measures: dict[str, set[bool]] = {}
    for index, item in enumerate(mapped):
        if item.third_party or not item.metric.n_samples:
            continue
        for (node, labels), number in _target_labels(item, own).items():
            all_metrics.setdefault(node, set()).add(index)
            n_series[node] = n_series.get(node, 0) + number
            for label, value in labels:
                if not value:
                    continue
                key = (node, label)
                values.setdefault(key, set()).add(value)
                metrics.setdefault(key, set()).add(index)
                series[key] = series.get(key, 0) + number
                measures.setdefault(label, set()).add(item.mapping.kind == "feature")
    candidates: dict[int, set[str]] = {}
    for key, label_values in values.items():
        node, label = key
        if label in aliases:
            if len(label_values) > 1:
                candidates.setdefault(node, set()).add(label)
        elif len(measures[label]) < 2 or metrics[key] != all_metrics[node]:
            continue
        elif len(label_values) > 1 or series[key] < n_series[node]:
            candidates.setdefault(node, set()).add(label)
    return candidates


def _target_labels(item: MappedMetric, own: set[str]) -> Counter[tuple[int, tuple[tuple[str, str], ...]]]:
    """Count the series by their node and by the values of their labels. The labels in `own` are ignored."""
    names_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    counts: Counter[tuple[int, tuple[str, ...], tuple[str, ...]]] = Counter()
    for node, labels in zip(item.node.tolist(), item.metric.labels, strict=True):
        keys = tuple(labels)
        names = names_of.get(keys)
        if names is None:
            names = names_of[keys] = tuple(name for name in keys if name not in own)
        counts[node, names, tuple([labels[name] for name in names])] += 1
    target_labels: Counter[tuple[int, tuple[tuple[str, str], ...]]] = Counter()
    for (node, names, values), number in counts.items():
        target_labels[node, tuple(zip(names, values, strict=True))] += number
    return target_labels


def _series_of_nodes(mapped: Sequence[MappedMetric], nodes: Iterable[int]) -> dict[int, list[tuple[int, int]]]:
    """Return the series of each node as pairs: index of the metric, and index of the series in the metric."""
    series: dict[int, list[tuple[int, int]]] = {node: [] for node in nodes}
    for index, item in enumerate(mapped) if series else ():
        for at, node in enumerate(item.node.tolist()):
            if node in series:
                series[node].append((index, at))
    return series


def _groups(mapped: Sequence[MappedMetric], series: Sequence[tuple[int, int]], labels: set[str]) -> list[_Group]:
    """Divide the series of a node into groups with equal labels. The group with the most samples comes first."""
    names = sorted(labels)
    groups: dict[tuple[str, ...], _Group] = {}
    for index, at in series:
        item = mapped[index]
        metric = item.metric
        values = tuple(metric.labels[at].get(name, "") for name in names)
        group = groups.setdefault(values, _Group(dict(zip(names, values, strict=True))))
        group.series.append((index, at))
        times = metric.timestamps[metric.span(at)]
        if len(times) and not item.third_party:
            group.n_samples += len(times)
            group.start = min(group.start, float(times[0]))
            group.end = max(group.end, float(times[-1]))
    return sorted(groups.values(), key=lambda group: -group.n_samples)


def _machines(
    mapped: Sequence[MappedMetric], units: Sequence[str], groups: Sequence[_Group], aliases: set[str]
) -> list[list[_Group]]:
    """Divide groups of series among machines. The first group of each machine has the most samples."""
    machines: list[list[_Group]] = []
    for group in groups:
        # Start with the machine that has the most label values in common with the group.
        likely = sorted(
            machines, key=lambda machine: -sum(machine[0].labels[name] == word for name, word in group.labels.items())
        )
        for machine in likely:
            if _same_machine(mapped, units, machine[0], group, aliases):
                machine.append(group)
                break
        else:
            machines.append([group])
    return machines


def _same_machine(
    mapped: Sequence[MappedMetric], units: Sequence[str], first: _Group, second: _Group, aliases: set[str]
) -> bool:
    """Return whether two groups of series that share a node label belong to one machine."""
    different = {name for name, word in first.labels.items() if second.labels[name] != word}
    different -= {name for name in different & set(EXPORTER_LABELS) if not (first.labels[name] and second.labels[name])}
    if not different:
        return True
    if different & aliases:
        return False
    if not first.n_samples or not second.n_samples:
        return False
    if not first.overlaps(second):
        return True  # one group follows the other: the labels of the target changed, for example by an upgrade
    # Compare the containers only if the two groups come from two exporters, e.g. from two pods. If two jobs scrape one
    # exporter, each job may drop different containers.
    two_targets = "pod" in different or not different <= set(EXPORTER_LABELS)
    if two_targets and _other_containers(mapped, units, first, second):
        return False
    pairs = _common_series(mapped, first, second)
    compared = [same for pair in pairs if (same := _equal_counters(*pair)) is not None]
    if compared and compared.count(False) <= _DISAGREEING * len(compared):
        return True
    if not different <= set(EXPORTER_LABELS):
        return False
    return _equal_energy(mapped, first, second) is not False


def _common_series(
    mapped: Sequence[MappedMetric], first: _Group, second: _Group
) -> list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]]:
    """Return the times and values of the counters that both groups have.

    These are energy counters or, if the groups have no energy counter in common, usage counters.
    """
    for kinds in (("energy",), ("feature",)):
        by_key = _by_unit(mapped, first, kinds)
        others = _by_unit(mapped, second, kinds)
        common = [(by_key[key], others[key]) for key in by_key if key in others][:_COMPARED_SERIES]
        if common:
            return [(*_samples(mapped, one), *_samples(mapped, other)) for one, other in common]
    return []


def _by_unit(
    mapped: Sequence[MappedMetric], group: _Group, kinds: tuple[str, ...]
) -> dict[tuple[int, int, int, str | None], tuple[int, int]]:
    """Return the counters of a group of series. A key is (metric, container or socket, `share`, energy source)."""
    return {
        (index, int(mapped[index].unit[at]), int(mapped[index].share[at]), mapped[index].source[at]): (index, at)
        for index, at in group.series
        if mapped[index].mapping.kind in kinds and mapped[index].mapping.counter and not mapped[index].third_party
    }


def _samples(mapped: Sequence[MappedMetric], series: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    metric = mapped[series[0]].metric
    span = metric.span(series[1])
    return metric.timestamps[span], metric.values[span]


def _equal_counters(
    times: FloatArray, values: FloatArray, other_times: FloatArray, other_values: FloatArray
) -> bool | None:
    """Return whether two counters have the same values at the same times; None if too few samples can be compared."""
    if len(times) < 2 or len(other_times) < 2:
        return None
    moved = times[1:][np.diff(values) > 0]
    within = (times >= other_times[0]) & (times <= other_times[-1])
    if len(moved) < 2 or not within.any():
        return None
    delay = _LARGEST_DELAY * np.median(np.diff(moved))
    earlier, later = (np.interp(times[within] + shift, other_times, other_values) for shift in (-delay, delay))
    agrees = (values[within] >= earlier) & (values[within] <= later)
    return bool(np.count_nonzero(agrees) >= _AGREEING_TIMES * len(agrees))


def _other_containers(mapped: Sequence[MappedMetric], units: Sequence[str], first: _Group, second: _Group) -> bool:
    """Return whether two groups of series report mostly different containers. Only containers with unique ids count."""
    one, other = (
        {
            unit
            for index, at in group.series
            if mapped[index].mapping.level == "container" and mapped[index].metric.lengths[at]
            if UNIQUE_ID.fullmatch(units[unit := int(mapped[index].unit[at])])
        }
        for group in (first, second)
    )
    return bool(one and other) and len(one & other) < _COMMON_UNITS * min(len(one), len(other))


def _equal_energy(mapped: Sequence[MappedMetric], first: _Group, second: _Group) -> bool | None:
    """Return whether two groups of series report the same power; None if they cannot be compared.

    The energy of all sockets and modes (idle and dynamic) is added up before the comparison.
    """
    first_series, second_series = (_by_unit(mapped, group, ("energy",)) for group in (first, second))
    common = first_series.keys() & second_series.keys()
    answers: list[bool] = []
    for index in sorted({key[0] for key in common}):
        keys = [key for key in common if key[0] == index]
        pairs = [(*_samples(mapped, first_series[key]), *_samples(mapped, second_series[key])) for key in keys]
        if any(len(times) < 2 or len(others) < 2 for times, _, others, _ in pairs):
            continue
        start = max(max(times[0], others[0]) for times, _, others, _ in pairs)
        end = min(min(times[-1], others[-1]) for times, _, others, _ in pairs)
        grid = pairs[0][0]
        grid = grid[(grid >= start) & (grid <= end)]
        if len(grid) < 3:
            continue
        one = np.diff(sum(np.interp(grid, times, values) for times, values, _, _ in pairs))
        other = np.diff(sum(np.interp(grid, times, values) for _, _, times, values in pairs))
        moved = (one > 0) & (other > 0)
        if moved.any():
            difference = np.abs(one - other)[moved] / np.maximum(one, other)[moved]
            answers.append(bool(np.median(difference) <= _LARGEST_DIFFERENCE))
    return any(answers) if answers else None
