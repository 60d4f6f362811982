"""Interpolate the metrics of several exporters on one node at common times.

Prometheus scrapes different exporters at different times. After the interpolation, an increase of a counter covers the
same interval as the increase of the energy.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.recording.columns import metric_from_columns
from kepler_core.recording.metric_mapping import MappedMetric
from kepler_core.recording.rates import GAP_FACTOR
from kepler_core.vocabulary import CPU_FEATURES

COARSE = 1.5
"""If the interval between two scrapes of an exporter is more than this multiple of the interval of the energy, then all
metrics of the node are interpolated at the times of this exporter.

The values of this exporter are used as they are: interpolation between two values that are far apart would hide what
happened between them."""


def aligned(mapped: Sequence[MappedMetric]) -> list[MappedMetric]:
    """Return the metrics, interpolated so that all exporters of a node have values at the same times."""
    if len({_exporter(item) for item in mapped}) < 2:
        return list(mapped)
    times = _times_of_nodes(mapped)
    return [_at_times(item, {node: t.wanted for node, t in times.items() if t.owner != _exporter(item)})
            for item in mapped]  # fmt: skip


def _exporter(item: MappedMetric) -> Hashable:
    return ("third party", item.metric.name) if item.third_party else ("schema", id(item.schema))


@attrs.frozen(eq=False)
class _Times:
    """The common times of the metrics of a node, in Unix seconds."""

    owner: Hashable
    """The exporter that was scraped at these times; None if these are not the times of any exporter."""
    wanted: FloatArray


def _times_of_nodes(mapped: Sequence[MappedMetric]) -> dict[int, _Times]:
    """Return the common times of each node whose metrics come from several exporters.

    The common times are those of the energy. If the usage of the CPUs comes from another exporter, they are in the
    middle between the times of the two exporters: the interpolation then smooths usage and power alike, so that it does
    not change the relation between them. If another exporter has a much longer interval (`COARSE`), its times are used.
    """
    longest: dict[int, dict[Hashable, FloatArray]] = {}
    energy: dict[int, Hashable] = {}
    work: dict[int, set[Hashable]] = {}
    for item in mapped:
        metric, exporter = item.metric, _exporter(item)
        for series in np.flatnonzero(metric.lengths > 2).tolist():
            node = int(item.node[series])
            if item.mapping.kind != "feature":
                energy.setdefault(node, exporter)
            elif item.mapping.name in CPU_FEATURES:
                work.setdefault(node, set()).add(exporter)
            of_node = longest.setdefault(node, {})
            if metric.lengths[series] > len(of_node.get(exporter, ())):
                of_node[exporter] = metric.timestamps[metric.span(series)]
    chosen = {}
    for node, times in longest.items():
        first = energy.get(node, next(iter(times)))
        steps = {exporter: float(np.median(np.diff(of_exporter))) for exporter, of_exporter in times.items()}
        slowest = max(steps, key=lambda exporter: steps[exporter])
        others = sorted(work.get(node, set()) - {first}, key=lambda exporter: -len(times[exporter]))
        if steps[slowest] > COARSE * steps[first]:
            chosen[node] = _Times(slowest, times[slowest])
        elif others and first not in work[node] and (shift := _half_offset(times[first], times[others[0]])):
            chosen[node] = _Times(None, times[first] + shift)
        elif len(times) > 1:
            chosen[node] = _Times(first, times[first])
    return chosen


def _half_offset(times: FloatArray, others: FloatArray) -> float:
    """Return half of the usual time from a scrape of one exporter to the nearest scrape of the other, in seconds."""
    at = np.clip(np.searchsorted(others, times), 1, len(others) - 1)
    before, after = others[at - 1] - times, others[at] - times
    return float(np.median(np.where(-before < after, before, after))) / 2


def _at_times(item: MappedMetric, times_of_node: dict[int, FloatArray]) -> MappedMetric:
    """Return a metric with its series interpolated at the times of their nodes.

    Series stay unchanged if `times_of_node` lacks their node, or if all of their timestamps are already among the times
    of the node.
    """
    metric = item.metric
    times: list[FloatArray] = []
    values: list[FloatArray] = []
    series: list[IntArray] = []
    changed = False
    for at in np.flatnonzero(metric.lengths).tolist():
        span = metric.span(at)
        own_times, own_values = metric.timestamps[span], metric.values[span]
        wanted = times_of_node.get(int(item.node[at]))
        if wanted is not None and not np.isin(own_times, wanted).all():
            own_times, own_values = interpolated(own_times, own_values, wanted, item.mapping.counter)
            changed = True
        times.append(own_times)
        values.append(own_values)
        series.append(np.full(len(own_times), at))
    if not changed:
        return item
    columns = np.concatenate(times), np.concatenate(values), np.concatenate(series)
    return attrs.evolve(item, metric=metric_from_columns(metric.name, *columns, metric.labels))


def interpolated(
    times: FloatArray, values: FloatArray, wanted: FloatArray, counter: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the times among `wanted` at which a series can be interpolated, and the interpolated values.

    Nothing is interpolated before the first value, after the last, in a gap, or where a counter falls. `times` and
    `values` have the shape (samples,), `wanted` has the shape (times,); all times are in Unix seconds and ascending.
    """
    if len(times) < 2:
        exact = np.isin(times, wanted)
        return times[exact], values[exact]
    wanted = wanted[(wanted >= times[0]) & (wanted <= times[-1])]
    at = np.minimum(np.searchsorted(times, wanted, side="right") - 1, len(times) - 2)
    seconds, change = np.diff(times), np.diff(values)
    usable = seconds <= GAP_FACTOR * float(np.median(seconds))
    if counter:
        usable &= change >= 0
    wanted, at = wanted[usable[at]], at[usable[at]]
    return wanted, values[at] + change[at] * (wanted - times[at]) / seconds[at]
