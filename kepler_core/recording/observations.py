"""What a recording says in our vocabulary: rates by container, watts by node.

Data flow for one recording: a metric schema gives each metric its meaning -> series that report the
same thing twice are set aside -> samples of scrapes that did not happen are left out -> counters
become rates -> samples are laid out by (node, timestamp) and (node, timestamp, container).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from kepler_core import registry
from kepler_core.contracts import MetricMeaning, MetricSchema
from kepler_core.errors import RecordingError
from kepler_core.grouping import sum_by
from kepler_core.recording.columns import Floats, Ints, Metric, Recording, metric_from_columns
from kepler_core.recording.names import printable
from kepler_core.recording.rates import Spacing, rates, spacing

T = TypeVar("T")

COVERAGE = 0.5
"""A node's feature is known at a time if at least this part of its containers have a rate then.
(After an exporter's restart most series are new and have none: their sum would be far too low.)"""

_EXPORTER_LABELS = ("job", "instance", "pod", "namespace", "service", "endpoint", "container")
_UNIQUE_ID = re.compile(r"(?:[a-z-]+://)?[0-9a-f]{12,64}")
"""Ids that a container runtime draws at random; others ("system_processes") are on every node."""


class Once(Generic[T]):
    """Results by arrays: metrics of one exporter mostly have the same samples at the same times, and
    what is worked out for one of them holds for the others."""

    def __init__(self) -> None:
        self._known: list[tuple[tuple[NDArray[Any], ...], T]] = []

    def of(self, arrays: tuple[NDArray[Any], ...], work: Callable[[], T]) -> T:
        """The result for these arrays, worked out if it is not known yet."""
        for known, result in self._known:
            if all(len(a) == len(b) and (a is b or np.array_equal(a, b)) for a, b in zip(known, arrays, strict=True)):
                return result
        self._known.append((arrays, work()))
        return self._known[-1][1]

    @property
    def results(self) -> list[T]:
        return [result for _, result in self._known]


@attrs.frozen(order=True)
class Stream:
    """One node in one recording."""

    recording: str
    node: str


@attrs.define
class Counts:
    """What was noticed and left out on the way, by metric or as a whole."""

    not_finite: Counter[str] = attrs.field(factory=Counter)
    repeated_timestamps: Counter[str] = attrs.field(factory=Counter)
    empty_series: Counter[str] = attrs.field(factory=Counter)
    one_sample_series: Counter[str] = attrs.field(factory=Counter)
    missing_labels: Counter[str] = attrs.field(factory=Counter)
    gaps: Counter[str] = attrs.field(factory=Counter)
    resets: Counter[str] = attrs.field(factory=Counter)
    duplicates: Counter[str] = attrs.field(factory=Counter)
    """Samples that a second exporter reported of what the first had reported already."""
    duplicate_nodes: list[str] = attrs.field(factory=list)
    unknown_sources: Counter[str] = attrs.field(factory=Counter)
    """Energy series by a source label that no installed energy source reads."""
    repeated_scrapes: int = 0
    """Times at which no energy counter of a node had moved: the server repeated the last scrape."""
    incomplete: Counter[str] = attrs.field(factory=Counter)
    """Node rows without a value because too few series had one."""

    def as_dict(self) -> dict[str, Any]:
        """What was counted at least once."""
        plain = {f.name: getattr(self, f.name) for f in attrs.fields(Counts)}
        return {
            name: dict(+value) if isinstance(value, Counter) else value
            for name, value in plain.items()
            if (+value if isinstance(value, Counter) else value)
        }

    def add(self, other: Counts) -> None:
        for field in attrs.fields(Counts):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, field.name, mine + theirs)


@attrs.frozen(eq=False)
class Observations:
    """Rates and watts of one or several recordings.

    An *instant* is a (stream, timestamp); a *row* a (stream, timestamp, container). Instants are
    sorted by stream and time, rows by instant and container. NaN is "not known".
    """

    streams: tuple[Stream, ...]
    instant_stream: Ints
    """Index into `streams`, shape (instants,)."""
    instant_time: Floats
    """Unix seconds, shape (instants,)."""
    containers: tuple[str, ...]
    row_instant: Ints
    """Index of the row's instant, shape (rows,), ascending."""
    row_container: Ints
    """Index into `containers`, shape (rows,)."""
    container_features: Mapping[str, Floats]
    """Feature -> shape (rows,), per second."""
    node_features: Mapping[str, Floats]
    """Feature -> shape (instants,): sums over containers, and the node's own."""
    node_gauges: frozenset[str]
    """Features of the node that are no rates: the same for all of its containers, and no sum."""
    power: Mapping[tuple[str, str], Floats]
    """(energy source, component) -> watts, shape (instants,)."""
    step: float
    """Usual seconds between two timestamps."""
    counts: Counts
    schemas: tuple[str, ...]
    digest: str
    remembered: dict[str, Once[Any]] = attrs.field(factory=dict[str, Any], init=False, repr=False)
    """What data sets of the same observations have in common (`kepler_core.frames`)."""

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Energy source -> the components that there is power of, in the source's order."""
        found: dict[str, list[str]] = {}
        for (source, component), watts in self.power.items():
            if np.isfinite(watts).any():
                found.setdefault(source, []).append(component)
        return {
            source: tuple(c for c in registry.energy_sources.get(source).components if c in components)
            for source, components in sorted(found.items())
        }

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are known at one instant at least."""
        return tuple(sorted(f for f, values in self.node_features.items() if np.isfinite(values).any()))


def find_schema(metrics: Iterable[str]) -> tuple[str, MetricSchema] | None:
    """The installed metric schema that knows most of these metric names; None if none knows any."""
    names = list(metrics)
    best: tuple[int, str, MetricSchema] | None = None
    loaded, _ = registry.metric_schemas.load_all()
    for name, plugin in sorted(loaded.items()):
        schema = plugin()
        known = sum(schema.meaning(metric) is not None for metric in names)
        if known and (best is None or known > best[0]):
            best = known, name, schema
    return None if best is None else best[1:]


def is_known_metric(metric: str) -> bool:
    """Whether any installed metric schema knows the metric: the samples of others are not needed."""
    loaded, _ = registry.metric_schemas.load_all()
    return any(plugin().meaning(metric) is not None for plugin in loaded.values())


def observe(
    recordings: Sequence[Recording], *, use_vm_metrics: bool = False, third_party: Sequence[str] = ()
) -> Observations:
    """Make observations of recordings; `RecordingError` where one has no metric that is known.

    `third_party` are metrics that no schema knows, to be used as features under their own names.
    """
    if not recordings:
        raise RecordingError("no recording given")
    names = Counter(recording.name for recording in recordings)
    if twice := [name for name, times in names.items() if times > 1]:
        raise RecordingError(f"{twice[0]}: given twice; its samples would count double")
    digests = Counter(recording.digest for recording in recordings)
    if max(digests.values()) > 1:
        same = [r.name for r in recordings if digests[r.digest] > 1]
        raise RecordingError(f"{same[0]} and {same[1]} hold the same data; it would count double")
    return _concatenate([_observe_one(recording, use_vm_metrics, third_party) for recording in recordings])


# --- one recording --------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Measured:
    """A metric with its meaning, and per series which node, unit and exporter it belongs to."""

    metric: Metric
    meaning: MetricMeaning
    node: Ints
    unit: Ints
    exporter: Ints
    source: tuple[str | None, ...]


class _Codes:
    """Strings to small whole numbers, in order of appearance."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def code(self, word: str) -> int:
        return self.of.setdefault(word, len(self.of))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.of)


def _observe_one(recording: Recording, use_vm_metrics: bool, third_party: Sequence[str]) -> Observations:
    found = find_schema(recording.metrics)
    if found is None:
        seen = sorted([*recording.metrics, *recording.other_metrics])
        what = (
            f"found only {', '.join(map(printable, seen[:3]))}{', …' if len(seen) > 3 else ''}"
            if seen
            else "it is empty"
        )
        raise RecordingError(
            f"{recording.name}: no metric that an installed metric schema knows "
            f"({', '.join(registry.metric_schemas.names())}); {what}"
        )
    schema_name, schema = found
    counts = Counts()
    counts.empty_series.update(recording.empty_series)
    nodes, units, exporters = _Codes(), _Codes(), _Codes()
    measured = _select_level(
        [
            _measure(metric, meaning, schema, nodes, units, exporters, counts)
            for metric in recording.metrics.values()
            if (meaning := schema.meaning(metric.name) or _third_party(metric, schema, third_party)) is not None
        ],
        use_vm_metrics,
    )
    aliases = _node_aliases(recording, schema)
    measured = _without_duplicate_nodes(measured, nodes, units, aliases, counts)
    measured = [_without_duplicates(item, counts) for item in measured]
    measured = _without_repeated_scrapes(measured, len(nodes.of), counts)
    step = _usual_step(measured)
    return _lay_out(recording, schema_name, measured, nodes, units, step, counts)


def _third_party(metric: Metric, schema: MetricSchema, names: Sequence[str]) -> MetricMeaning | None:
    """A metric that the user names: a container's where its series name containers, else the node's;
    a counter if its name ends as Prometheus' conventions have it."""
    if metric.name not in names:
        return None
    counter = metric.name.endswith("_total")
    if any(schema.container_labels[0] in labels for labels in metric.labels):
        return MetricMeaning("feature", metric.name, "container", schema.container_labels, counter=counter)
    # every series of a node is a unit of its own: what tells them apart is not known here
    units = sorted({label for labels in metric.labels for label in labels} - {schema.node_label, "__name__"})
    aggregate: Literal["sum", "mean"] = "sum" if counter else "mean"
    return MetricMeaning("feature", metric.name, "node", tuple(units), counter=counter, aggregate=aggregate)


def _usual_step(measured: Sequence[_Measured]) -> float:
    """Of the energy counters, which every node has; of all metrics where there are none."""
    energy = [item.metric for item in measured if item.meaning.kind != "feature"]
    steps = [
        spacing(metric.timestamps, metric.series).usual_step for metric in energy or [item.metric for item in measured]
    ]
    return _nanmedian(steps)


def _nanmedian(values: Sequence[float]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _measure(
    metric: Metric,
    meaning: MetricMeaning,
    schema: MetricSchema,
    nodes: _Codes,
    units: _Codes,
    exporters: _Codes,
    counts: Counts,
) -> _Measured:
    n = metric.n_series
    node, unit, exporter = (np.zeros(n, dtype=np.int64) for _ in range(3))
    sources: list[str | None] = []
    for index, labels in enumerate(metric.labels):
        if schema.node_label not in labels:
            counts.missing_labels[f"{metric.name} {schema.node_label}"] += 1
        node[index] = nodes.code(labels.get(schema.node_label, ""))
        word, missing = _unit(meaning, labels)
        if missing:
            counts.missing_labels[f"{metric.name} {missing}"] += 1
        unit[index] = units.code(word)
        exporter[index] = exporters.code("\0".join(labels.get(label, "") for label in _EXPORTER_LABELS))
        sources.append(labels.get(schema.source_label, meaning.source))
    counts.not_finite.update({metric.name: metric.not_finite})
    counts.repeated_timestamps.update({metric.name: metric.repeated})
    counts.one_sample_series.update({metric.name: int(np.count_nonzero(metric.lengths == 1))})
    return _Measured(metric, meaning, node, unit, exporter, tuple(sources))


def _unit(meaning: MetricMeaning, labels: Mapping[str, str]) -> tuple[str, str | None]:
    """The name of what a series counts (a container, a socket), and the label that it should have."""
    if meaning.level in ("node", "vm"):
        return "/".join(labels.get(label, "") for label in meaning.unit_labels), None
    if not meaning.unit_labels:
        return "", None
    first, *others = meaning.unit_labels
    if labels.get(first):
        return labels[first], None
    return "/".join(word for label in others if (word := labels.get(label, ""))), first


def _select_level(measured: list[_Measured], use_vm_metrics: bool) -> list[_Measured]:
    """Containers and processes count the same work: only one level is used."""
    if use_vm_metrics:
        kept = []
        for item in measured:
            meaning = item.meaning
            if meaning.level == "vm" or (meaning.kind == "feature" and meaning.level == "node"):
                kept.append(item)
            elif meaning.level == "process":
                is_vm = np.array([labels.get("job") == "vm" for labels in item.metric.labels], dtype=bool)
                kept.append(_keep_series(item, is_vm))
        return kept
    levels = {i.meaning.level for i in measured if i.meaning.kind == "feature" and i.metric.n_samples}
    drop = {"vm", "process"} if "container" in levels else {"vm", "container"}
    return [item for item in measured if item.meaning.level not in drop]


def _keep_series(item: _Measured, kept: NDArray[np.bool_]) -> _Measured:
    """Only the samples of some series (the series stay, without samples)."""
    return item if kept.all() else _keep_samples(item, kept[item.metric.series])


def _keep_samples(item: _Measured, kept: NDArray[np.bool_]) -> _Measured:
    if kept.all():
        return item
    metric = item.metric
    return attrs.evolve(
        item,
        metric=metric_from_columns(
            metric.name, metric.timestamps[kept], metric.values[kept], metric.series[kept], metric.labels
        ),
    )


def _node_aliases(recording: Recording, schema: MetricSchema) -> dict[str, set[str]]:
    """Machine name -> the node labels under which it appears."""
    aliases: dict[str, set[str]] = {}
    for metric in recording.metrics.values():
        for labels in metric.labels:
            for label in schema.node_alias_labels:
                if labels.get(label):
                    aliases.setdefault(labels[label], set()).add(labels.get(schema.node_label, ""))
    return aliases


def _without_duplicate_nodes(
    measured: list[_Measured], nodes: _Codes, units: _Codes, aliases: dict[str, set[str]], counts: Counts
) -> list[_Measured]:
    """Leave out nodes that are another node under a second label at the same time.

    Two labels are one machine if the exporters name the same machine, or if they report the same
    containers. Of the labels of one machine that with most samples stays.
    """
    n = len(nodes.of)
    if n < 2:
        return measured
    samples = np.zeros(n, dtype=np.int64)
    present = _Spans()
    holding: dict[int, _Spans] = {}
    for item in measured:
        np.add.at(samples, item.node, item.metric.lengths)
        ends = np.cumsum(item.metric.lengths)
        for index in np.flatnonzero(item.metric.lengths):
            times = item.metric.timestamps
            node = int(item.node[index])
            start, end = float(times[ends[index] - item.metric.lengths[index]]), float(times[ends[index] - 1])
            present.add(node, start, end)
            if item.meaning.level == "container":
                holding.setdefault(int(item.unit[index]), _Spans()).add(node, start, end)
    same: set[tuple[int, int]] = set()
    for unit, word in enumerate(units.words):
        if unit in holding and _UNIQUE_ID.fullmatch(word):
            same.update(holding[unit].overlapping(range(n)))
    for labels in aliases.values():
        same.update(present.overlapping([nodes.of[label] for label in labels if label in nodes.of]))
    dropped: list[int] = []
    for machine in _connected(same):
        keep = max(machine, key=lambda node: (samples[node], -node))
        for node in sorted(machine - {keep}):
            dropped.append(node)
            counts.duplicate_nodes.append(f"{nodes.words[node]!r} is the machine {nodes.words[keep]!r} again")
    if not dropped:
        return measured
    return [_keep_series(item, ~np.isin(item.node, dropped)) for item in measured]


class _Spans:
    """From when to when something was seen, by node."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[float, float]] = {}

    def add(self, node: int, start: float, end: float) -> None:
        old = self._of.get(node, (start, end))
        self._of[node] = min(old[0], start), max(old[1], end)

    def overlapping(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        """Pairs of these nodes that were seen at the same time."""
        there = sorted(node for node in nodes if node in self._of)
        of = self._of
        return [(a, b) for a in there for b in there if a < b and of[a][0] <= of[b][1] and of[b][0] <= of[a][1]]


def _connected(pairs: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The groups that pairs tie together."""
    groups: list[set[int]] = []
    for a, b in sorted(pairs):
        touched = [group for group in groups if a in group or b in group]
        groups = [group for group in groups if group not in touched]
        groups.append({a, b}.union(*touched))
    return groups


def _without_duplicates(item: _Measured, counts: Counts) -> _Measured:
    """Of several samples of one unit at one time keep one: that of the exporter with most samples."""
    metric = item.metric
    if len(set(zip(item.node.tolist(), item.unit.tolist(), item.source, strict=True))) == metric.n_series:
        return item
    codes: dict[tuple[int, int, str | None], int] = {}
    thing = np.array(
        [
            codes.setdefault(key, len(codes))
            for key in zip(item.node.tolist(), item.unit.tolist(), item.source, strict=True)
        ]
    )
    by_exporter = sum_by(metric.lengths.astype(np.float64), item.exporter, int(item.exporter.max()) + 1)
    # rank: exporters by samples, then series by samples, so that one exporter wins throughout
    order = np.lexsort((-metric.lengths, item.exporter, -by_exporter[item.exporter]))
    rank = np.empty(metric.n_series, dtype=np.int64)
    rank[order] = np.arange(metric.n_series)
    by_thing = np.lexsort((rank[metric.series], metric.timestamps, thing[metric.series]))
    sorted_thing, sorted_time = thing[metric.series][by_thing], metric.timestamps[by_thing]
    again = np.zeros(metric.n_samples, dtype=bool)
    again[by_thing[1:]] = (sorted_thing[1:] == sorted_thing[:-1]) & (sorted_time[1:] == sorted_time[:-1])
    duplicates = int(np.count_nonzero(again))
    if duplicates:
        counts.duplicates[metric.name] += duplicates
    return _keep_samples(item, ~again)


def _without_repeated_scrapes(measured: list[_Measured], n_nodes: int, counts: Counts) -> list[_Measured]:
    """Leave out the times at which none of a node's energy counters had moved.

    A range query whose step is shorter than the scrape interval repeats the last scrape: 0 W that
    nobody measured, and twice the watts after it. A running machine always uses energy.
    """
    stale: list[tuple[int, float]] = []
    for node in range(n_nodes):
        times: list[Floats] = []
        moved: list[NDArray[np.bool_]] = []
        for item in measured:
            if item.meaning.kind != "energy":
                continue
            metric = item.metric
            mine = item.node[metric.series] == node
            change = np.ones(metric.n_samples, dtype=bool)
            if metric.n_samples > 1:
                change[1:] = (metric.values[1:] != metric.values[:-1]) | (metric.series[1:] != metric.series[:-1])
            times.append(metric.timestamps[mine])
            moved.append(change[mine])
        if not times:
            continue
        instants, where = np.unique(np.concatenate(times), return_inverse=True)
        any_moved = np.zeros(len(instants), dtype=bool)
        np.logical_or.at(any_moved, where, np.concatenate(moved))
        if np.count_nonzero(any_moved) > 1:  # else the counters never move: nothing to conclude
            stale += [(node, time) for time in instants[~any_moved]]
    if not stale:
        return measured
    counts.repeated_scrapes += len(stale)
    by_node: dict[int, list[float]] = {}
    for node, time in stale:
        by_node.setdefault(node, []).append(time)
    kept = []
    for item in measured:
        again = np.zeros(item.metric.n_samples, dtype=bool)
        node_of_sample = item.node[item.metric.series]
        for node, stale_times in by_node.items():
            again |= (node_of_sample == node) & np.isin(item.metric.timestamps, stale_times)
        kept.append(_keep_samples(item, ~again))
    return kept


@attrs.define(eq=False)
class _Place:
    """Where the samples of metrics with the same timestamps, series, nodes and units belong."""

    spacing: Spacing
    instant: Ints
    """Shape (samples,)."""
    unit: Ints
    """Shape (samples,)."""
    row: Ints | None = None
    """Of samples that are a container's: the row, shape (samples,)."""


@attrs.define(eq=False)
class _Sampled:
    """A metric's samples as rates (or gauge values) with their place."""

    item: _Measured
    values: Floats
    reset: NDArray[np.bool_]
    place: _Place

    @property
    def instant(self) -> Ints:
        return self.place.instant


def _lay_out(
    recording: Recording,
    schema_name: str,
    measured: list[_Measured],
    nodes: _Codes,
    units: _Codes,
    step: float,
    counts: Counts,
) -> Observations:
    grid = _time_grid(measured)
    n_times = max(len(grid), 1)
    places: Once[_Place] = Once()
    sampled = [_sample(item, grid, places, counts) for item in measured if item.metric.n_samples]
    present = np.zeros(len(nodes.of) * n_times, dtype=bool)
    for s in sampled:
        present[s.instant] = True
    instants = np.flatnonzero(present)
    position = np.cumsum(present) - 1  # of an instant among those that are there
    for place in places.results:
        place.instant = position[place.instant]
    streams_used = np.unique(instants // n_times)
    stream_of = np.searchsorted(streams_used, instants // n_times)

    by_container = [s for s in sampled if s.item.meaning.kind == "feature" and s.item.meaning.level != "node"]
    n_units = max(len(units.of), 1)
    of_containers = {id(s.place): s.place for s in by_container}.values()
    keys = [place.instant * n_units + place.unit for place in of_containers]
    rows = _union(keys)
    for place, key in zip(of_containers, keys, strict=True):
        place.row = np.searchsorted(rows, key)
    container_features: dict[str, Floats] = {}
    node_features: dict[str, Floats] = {}
    for s in by_container:
        name = s.item.meaning.name
        assert s.place.row is not None
        values = _spread(len(rows), s.place.row, s.values)
        container_features[name] = _first_known(container_features.get(name), values)
    row_instant, row_unit = np.divmod(rows, n_units)
    for name, values in container_features.items():
        node_features[name] = _sum_rows(values, row_instant, len(instants), name, counts)
    for s in sampled:
        if s.item.meaning.kind == "feature" and s.item.meaning.level == "node":
            name = s.item.meaning.name
            node_features[name] = _first_known(node_features.get(name), _by_instant(s, s.values, len(instants)))
    power: dict[tuple[str, str], Floats] = {}
    for s in sampled:
        if s.item.meaning.kind != "feature":
            for source_component, watts in _power(s, stream_of, len(instants), counts).items():
                power[source_component] = _first_known(power.get(source_component), watts)
    used_units = np.unique(row_unit)
    words = units.words
    return Observations(
        streams=tuple(Stream(recording.name, nodes.words[code]) for code in streams_used),
        instant_stream=stream_of,
        instant_time=grid[instants % n_times] if len(grid) else np.empty(0),
        containers=tuple(words[code] for code in used_units),
        row_instant=row_instant,
        row_container=np.searchsorted(used_units, row_unit),
        container_features=container_features,
        node_features=node_features,
        node_gauges=frozenset(
            s.item.meaning.name
            for s in sampled
            if s.item.meaning.kind == "feature" and s.item.meaning.level == "node" and not s.item.meaning.counter
        ),
        power=power,
        step=step,
        counts=counts,
        schemas=(schema_name,),
        digest=recording.digest,
    )


def _time_grid(measured: list[_Measured]) -> Floats:
    """All timestamps, sorted. Series of a range query share theirs: the shortest metrics give most."""
    grid = np.empty(0)
    seen: Once[None] = Once()
    for item in sorted(measured, key=lambda item: item.metric.n_samples):

        def add(times: Floats = item.metric.timestamps) -> None:
            nonlocal grid
            if len(grid):
                at = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
                times = times[grid[at] != times]
            if len(times):
                grid = np.union1d(grid, times)

        seen.of((item.metric.timestamps,), add)
    return grid


def _sample(item: _Measured, grid: Floats, places: Once[_Place], counts: Counts) -> _Sampled:
    metric, meaning = item.metric, item.meaning

    def place() -> _Place:
        return _Place(
            spacing(metric.timestamps, metric.series),
            item.node[metric.series] * len(grid) + np.searchsorted(grid, metric.timestamps),
            item.unit[metric.series],
        )

    placed = places.of((metric.timestamps, metric.series, item.node, item.unit), place)
    if not meaning.counter:
        return _Sampled(item, metric.values * meaning.scale, np.zeros(metric.n_samples, dtype=bool), placed)
    rate = rates(metric, placed.spacing)
    counts.gaps[metric.name] += placed.spacing.gaps
    counts.resets[metric.name] += int(np.count_nonzero(rate.reset))
    values = rate.values * meaning.scale if meaning.scale != 1.0 else rate.values
    return _Sampled(item, values, rate.reset, placed)


def _union(keys: Sequence[Ints]) -> Ints:
    rows = np.empty(0, dtype=np.int64)
    for key in keys:
        rows = np.sort(np.concatenate([rows, key])) if len(rows) else np.sort(key)
        again = rows[1:] == rows[:-1]
        if again.any():
            rows = rows[np.concatenate([[True], ~again])]
    return rows


def _first_known(old: Floats | None, new: Floats) -> Floats:
    """One column of two spellings of the same thing, as after an exporter's upgrade."""
    return new if old is None else np.where(np.isfinite(old), old, new)


def _spread(n: int, at: Ints, values: Floats) -> Floats:
    column = np.empty(n) if len(at) == n else np.full(n, np.nan)
    column[at] = values
    return column


def _sum_rows(values: Floats, row_instant: Ints, n: int, name: str, counts: Counts) -> Floats:
    """Sum over containers; NaN where too few of them have a rate."""
    known = np.isfinite(values)
    totals = sum_by(values[known], row_instant[known], n)
    n_known = np.bincount(row_instant[known], minlength=n)
    n_there = np.bincount(row_instant, minlength=n)
    enough = (n_known > 0) & (n_known >= COVERAGE * n_there)
    counts.incomplete[name] += int(np.count_nonzero((n_known > 0) & ~enough))
    return np.where(enough, totals, np.nan)


def _by_instant(s: _Sampled, values: Floats, n: int) -> Floats:
    known = np.isfinite(values)
    totals = sum_by(values[known], s.instant[known], n)
    n_known = np.bincount(s.instant[known], minlength=n)
    if s.item.meaning.aggregate == "mean":
        totals = totals / np.maximum(n_known, 1)
    return np.where(n_known > 0, totals, np.nan)


def _power(s: _Sampled, stream_of: Ints, n: int, counts: Counts) -> dict[tuple[str, str], Floats]:
    """Watts by instant for each energy source of a metric; NaN where a socket or mode is missing,
    or where a counter was reset (the increase over that interval is only a lower bound)."""
    found: dict[tuple[str, str], Floats] = {}
    item = s.item
    known_sources = {
        value: name for name, plugin in registry.energy_sources.load_all()[0].items() for value in plugin.reads
    }
    for label in sorted({source for source in item.source if source is not None}):
        name = known_sources.get(label)
        if name is None:
            counts.unknown_sources[label] += sum(source == label for source in item.source)
        if name is None or item.meaning.name not in registry.energy_sources.get(name).components:
            continue
        is_source = np.array([source == label for source in item.source], dtype=bool)
        mine = is_source[item.metric.series]
        known = mine & np.isfinite(s.values) & ~s.reset
        totals = sum_by(s.values[known], s.instant[known], n)
        n_known = np.bincount(s.instant[known], minlength=n)
        # how many sockets and modes the node has: those that were ever seen there
        expected = np.zeros(int(stream_of.max(initial=-1)) + 1, dtype=np.int64)
        has_samples = is_source & (item.metric.lengths > 1)
        stream_of_node: dict[int, int] = {}
        starts = np.cumsum(item.metric.lengths) - item.metric.lengths
        seen: set[tuple[int, int]] = set()
        for index in np.flatnonzero(has_samples):
            node = int(item.node[index])
            stream = stream_of_node.setdefault(node, int(stream_of[s.instant[starts[index]]]))
            if (node, int(item.unit[index])) not in seen:
                seen.add((node, int(item.unit[index])))
                expected[stream] += 1
        complete = (n_known > 0) & (n_known >= expected[stream_of])
        counts.incomplete[f"{name} {item.meaning.name}"] += int(np.count_nonzero((n_known > 0) & ~complete))
        watts = np.where(complete, totals, np.nan)
        key = name, item.meaning.name
        found[key] = _first_known(found.get(key), watts)
    return found


# --- several recordings ---------------------------------------------------------------------------


def _concatenate(parts: list[Observations]) -> Observations:
    if len(parts) == 1:
        return parts[0]
    containers = _Codes()
    counts = Counts()
    row_container = []
    for part in parts:
        counts.add(part.counts)
        codes = np.array([containers.code(name) for name in part.containers], dtype=np.int64)
        row_container.append(codes[part.row_container] if len(codes) else part.row_container)
    first_stream = np.cumsum([0, *(len(part.streams) for part in parts)])
    first_instant = np.cumsum([0, *(len(part.instant_time) for part in parts)])
    rows = [len(part.row_instant) for part in parts]

    def joined(columns: Sequence[Mapping[str, Floats]], lengths: Sequence[int]) -> dict[str, Floats]:
        names = sorted({name for column in columns for name in column})
        return {
            name: np.concatenate(
                [c[name] if name in c else np.full(n, np.nan) for c, n in zip(columns, lengths, strict=True)]
            )
            for name in names
        }

    instants = [len(part.instant_time) for part in parts]
    power_keys = sorted({key for part in parts for key in part.power})
    return Observations(
        streams=tuple(stream for part in parts for stream in part.streams),
        instant_stream=np.concatenate([p.instant_stream + o for p, o in zip(parts, first_stream, strict=False)]),
        instant_time=np.concatenate([part.instant_time for part in parts]),
        containers=containers.words,
        row_instant=np.concatenate([p.row_instant + o for p, o in zip(parts, first_instant, strict=False)]),
        row_container=np.concatenate(row_container),
        container_features=joined([part.container_features for part in parts], rows),
        node_features=joined([part.node_features for part in parts], instants),
        node_gauges=frozenset().union(*(part.node_gauges for part in parts)),
        power={
            key: np.concatenate(
                [p.power[key] if key in p.power else np.full(n, np.nan) for p, n in zip(parts, instants, strict=True)]
            )
            for key in power_keys
        },
        step=_nanmedian([part.step for part in parts]),
        counts=counts,
        schemas=tuple(sorted({schema for part in parts for schema in part.schemas})),
        digest="+".join(part.digest for part in parts),
    )
