"""Samples laid out by (node, timestamp) and (node, timestamp, container)."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.plugins import registry
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, Measured
from kepler_core.recording.observations import Observations, Once, Stream
from kepler_core.recording.rates import Spacing, rates, spacing

NEGLIGIBLE = 0.05
"""A node's feature is known although a container has no rate yet, if that container's next rate is
less than this part of the sum."""

COVERAGE = 0.5
"""A node's feature is known at a time if at least this part of its containers have a rate then.
(After an exporter's restart most series are new and have none: their sum would be far too low.)"""


@attrs.define(eq=False)
class _Place:
    """Where the samples of metrics with the same timestamps, series, nodes and units belong."""

    spacing: Spacing
    instant: IntArray
    """Shape (samples,)."""
    unit: IntArray
    """Shape (samples,)."""
    row: IntArray | None = None
    """Of samples that are a container's: the row, shape (samples,)."""


@attrs.define(eq=False)
class _Sampled:
    """A metric's samples as rates (or gauge values) with their place."""

    item: Measured
    values: FloatArray
    reset: BoolArray
    place: _Place
    coming: FloatArray | None = None
    """Where a series begins: its next rate, else 0. What it did before its first sample is not known,
    but it was hardly less."""

    @property
    def instant(self) -> IntArray:
        return self.place.instant


def lay_out(
    recording: Recording,
    schema_name: str,
    measured: list[Measured],
    nodes: Codes,
    units: Codes,
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
    container_features: dict[str, FloatArray] = {}
    coming: dict[str, FloatArray] = {}
    node_features: dict[str, FloatArray] = {}
    for s in by_container:
        name = s.item.meaning.name
        assert s.place.row is not None
        values = _spread(len(rows), s.place.row, s.values)
        container_features[name] = _first_known(container_features.get(name), values)
        if s.coming is not None:
            coming.setdefault(name, np.zeros(len(instants)))
            coming[name] += sum_by(s.coming, s.place.instant, len(instants))
    row_instant, row_unit = np.divmod(rows, n_units)
    for name, values in container_features.items():
        node_features[name] = _sum_rows(values, row_instant, coming.get(name, np.zeros(len(instants))), name, counts)
    for s in sampled:
        if s.item.meaning.kind == "feature" and s.item.meaning.level == "node":
            name = s.item.meaning.name
            node_features[name] = _first_known(node_features.get(name), _by_instant(s, s.values, len(instants)))
    power: dict[tuple[str, str], FloatArray] = {}
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
        container_names=tuple(units.called.get(words[code]) or words[code] for code in used_units),
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


def _time_grid(measured: list[Measured]) -> FloatArray:
    """All timestamps, sorted. Series of a range query share theirs: the shortest metrics give most."""
    grid = np.empty(0)
    seen: Once[None] = Once()
    for item in sorted(measured, key=lambda item: item.metric.n_samples):

        def add(times: FloatArray = item.metric.timestamps) -> None:
            nonlocal grid
            if len(grid):
                at = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
                times = times[grid[at] != times]
            if len(times):
                grid = np.union1d(grid, times)

        seen.of((item.metric.timestamps,), add)
    return grid


def _sample(item: Measured, grid: FloatArray, places: Once[_Place], counts: Counts) -> _Sampled:
    metric, meaning = item.metric, item.meaning

    def place() -> _Place:
        return _Place(
            spacing(metric.timestamps, metric.series, item.node),
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
    coming = np.zeros(len(values))
    begins = np.isnan(values[:-1]) & np.isfinite(values[1:]) & (metric.series[1:] == metric.series[:-1])
    coming[:-1][begins] = values[1:][begins]
    return _Sampled(item, values, rate.reset, placed, coming)


def _union(keys: Sequence[IntArray]) -> IntArray:
    rows = np.empty(0, dtype=np.int64)
    for key in keys:
        rows = np.sort(np.concatenate([rows, key])) if len(rows) else np.sort(key)
        again = rows[1:] == rows[:-1]
        if again.any():
            rows = rows[np.concatenate([[True], ~again])]
    return rows


def _first_known(old: FloatArray | None, new: FloatArray) -> FloatArray:
    """One column of two spellings of the same thing, as after an exporter's upgrade."""
    return new if old is None else np.where(np.isfinite(old), old, new)


def _spread(n: int, at: IntArray, values: FloatArray) -> FloatArray:
    column = np.empty(n) if len(at) == n else np.full(n, np.nan)
    column[at] = values
    return column


def _sum_rows(values: FloatArray, row_instant: IntArray, coming: FloatArray, name: str, counts: Counts) -> FloatArray:
    """Sum over containers; NaN where too few of them have a rate, or a busy one has none yet."""
    n = len(coming)
    known = np.isfinite(values)
    totals = sum_by(values[known], row_instant[known], n)
    n_known = np.bincount(row_instant[known], minlength=n)
    n_there = np.bincount(row_instant, minlength=n)
    enough = (n_known > 0) & (n_known >= COVERAGE * n_there) & (coming <= NEGLIGIBLE * (totals + coming))
    counts.incomplete[name] += int(np.count_nonzero((n_known > 0) & ~enough))
    return np.where(enough, totals, np.nan)


def _by_instant(s: _Sampled, values: FloatArray, n: int) -> FloatArray:
    known = np.isfinite(values)
    totals = sum_by(values[known], s.instant[known], n)
    n_known = np.bincount(s.instant[known], minlength=n)
    if s.item.meaning.aggregate == "mean":
        totals = totals / np.maximum(n_known, 1)
    return np.where(n_known > 0, totals, np.nan)


def _power(s: _Sampled, stream_of: IntArray, n: int, counts: Counts) -> dict[tuple[str, str], FloatArray]:
    """Watts by instant for each energy source of a metric; NaN where a socket or mode is missing,
    or where a counter was reset (the increase over that interval is only a lower bound)."""
    found: dict[tuple[str, str], FloatArray] = {}
    item = s.item
    known_sources = {
        value: name for name, plugin in registry.energy_sources.load_all()[0].items() for value in plugin.reads
    }
    for label in sorted({source for source in item.source if source is not None}):
        name = known_sources.get(label)
        if name is None:
            counts.unknown_sources[label] += sum(source == label for source in item.source)
        if name is None or item.meaning.name not in registry.energy_sources.preferred(name).components:
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
