"""Make observations from tables: numbered samples, without impossible readings.

A table already holds rates and watts. So the rules for raw counters do not apply to it. The rules for impossible
readings (`kepler_core.recording.screening`) and for dead features (0 although the CPUs run) apply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import TableError
from kepler_core.grouping import sum_by
from kepler_core.recording.assemble import refuse_overlaps
from kepler_core.recording.columns import LARGEST_VALUE
from kepler_core.recording.counts import Counts
from kepler_core.recording.dead_features import leave_out_dead_features
from kepler_core.recording.impossible import INVALID_READINGS
from kepler_core.recording.laid_out import LaidOut
from kepler_core.recording.node_values import known_first
from kepler_core.recording.observations import Observations, Stream
from kepler_core.recording.rates import GAP_FACTOR
from kepler_core.recording.screening import leave_out_cpu_time, leave_out_power, screen
from kepler_core.tables.arranging import Arranged, Numbering, arrange, number_samples
from kepler_core.tables.table import Table
from kepler_core.vocabulary import FEATURES, GAUGES

Key = TypeVar("Key")
PowerKey = tuple[str, str]
"""Energy source and component."""


@attrs.frozen(eq=False)
class TableData:
    """The contents of tables: values by node and by container, as the tables have them.

    Impossible values are NaN. The shapes (samples,) and (rows,) refer to the samples and rows of `observations`.
    """

    observations: Observations
    """The values in the tables as observations. If the tables have a value only for containers, the node's value is the
    sum over its containers; NaN if the value of a container is unknown."""
    node_features: Mapping[str, FloatArray]
    """Values of each feature in the tables that have rows of nodes, shape (samples,)."""
    node_power: Mapping[PowerKey, FloatArray]
    """Measured watts of nodes, from the tables that have one row per node and time, shape (samples,)."""
    row_features: Mapping[str, FloatArray]
    """Values of each feature in the tables that have rows of containers, shape (rows,)."""
    row_power: Mapping[PowerKey, FloatArray]
    """Watts in the tables with rows of containers, shape (rows,)."""
    has_times: bool
    """Whether the tables have timestamps. Without timestamps, the order of a node's rows has no meaning."""
    dynamic: bool
    """Whether `row_power` is dynamic power."""
    gaps: int
    """Number of gaps: intervals between two samples of a node that are longer than `GAP_FACTOR` usual steps."""


def observe_tables(
    tables: Sequence[Table], source_of: Callable[[str], str | None], cpus: int | None = None
) -> TableData:
    """Return the contents of tables.

    `source_of` returns the energy source of a component's power; None if the power is not used. `cpus` is the
    number of CPUs of each node. CPU time that exceeds what this number of CPUs can use is left out. Raises `TableError`
    if tables contradict each other, and `RecordingError` if two recordings have the same node at the same time.
    """
    of_nodes = [table for table in tables if table.container is None]
    of_containers = [table for table in tables if table.container is not None]
    has_times, dynamic = _check(tables), any(table.dynamic for table in of_containers)
    numbering, counts = Numbering(), Counts()
    nodes, rows = (arrange(level, numbering, counts) for level in (of_nodes, of_containers))
    sample_stream, sample_time, (node_sample, row_sample) = number_samples([nodes, rows])
    n = len(sample_stream)
    node_features = {name: _spread(n, node_sample, values) for name, values in nodes.features.items()}
    node_power = {key: _spread(n, node_sample, watts) for key, watts in _by_source(nodes, source_of).items()}
    row_features, row_power = dict(rows.features), _by_source(rows, source_of)
    gauges = frozenset(name for name, values in row_features.items() if _is_of_node(name, values, row_sample))
    _leave_out_impossible(node_features, node_power, np.arange(n), counts)
    _leave_out_impossible(row_features, row_power, row_sample, counts)
    streams = tuple(numbering.streams)
    step, gaps = _steps(streams, sample_stream, sample_time) if has_times else (float("nan"), 0)
    laid_out = LaidOut(
        tuple(stream.node or stream.recording for stream in streams),
        sample_stream,
        sample_time,
        row_sample,
        {name: values for name, values in row_features.items() if name not in gauges},
        _combined(node_features, row_features, gauges, row_sample, n),
        dict(node_power) if dynamic else _combined(node_power, row_power, (), row_sample, n),
        gauges,
        counts,
    )
    _screen(laid_out, cpus, has_times)
    observations = Observations(
        streams=streams,
        sample_stream=sample_stream,
        sample_time=sample_time,
        containers=tuple(numbering.containers),
        container_names=tuple(numbering.container_names[c] or c for c in numbering.containers),
        row_sample=row_sample,
        row_container=rows.container,
        container_features=laid_out.container_features,
        node_features=laid_out.node_features,
        node_gauges=gauges,
        power=laid_out.power,
        step=step,
        counts=counts,
        schemas=(),
        digest="+".join(table.digest for table in tables),
    )
    if has_times:
        refuse_overlaps([observations])
    return _without_left_out(
        TableData(observations, node_features, node_power, row_features, row_power, has_times, dynamic, gaps)
    )


def _screen(laid_out: LaidOut, cpus: int | None, has_times: bool) -> None:
    """Leave out impossible readings. Without timestamps, apply only the rules that look at single values."""
    if has_times:
        screen(laid_out, cpus)
    else:
        leave_out_power(laid_out)
        leave_out_cpu_time(laid_out, cpus)
        leave_out_dead_features(laid_out)


def _check(tables: Sequence[Table]) -> bool:
    """Return whether the tables have timestamps. Raises `TableError` if tables contradict each other."""
    by_digest: dict[str, Table] = {}
    for table in tables:
        if (other := by_digest.setdefault(table.digest, table)) is not table:
            raise TableError(f"holds the same data as {other.name}; it would count double", document=table.name)
    with_times = [table for table in tables if table.time is not None]
    without = [table for table in tables if table.time is None]
    if with_times and without:
        problem = f"no column timestamp, but {with_times[0].name} has one; train from them separately"
        raise TableError(problem, document=without[0].name)
    measured = [table for table in tables if table.container is not None and not table.dynamic]
    dynamic = [table for table in tables if table.dynamic]
    if measured and dynamic:
        problem = f"holds dynamic power, but {measured[0].name} holds measured power of containers"
        raise TableError(problem, document=dynamic[0].name)
    return not without


def _by_source(level: Arranged, source_of: Callable[[str], str | None]) -> dict[PowerKey, FloatArray]:
    named = {component: source_of(component) for component in level.power}
    return {(source, c): level.power[c] for c, source in named.items() if source is not None}


def _is_of_node(name: str, values: FloatArray, row_sample: IntArray) -> bool:
    """Return whether a feature is a gauge of the node, i.e. has the same value in all rows of each sample."""
    if (name in FEATURES and name not in GAUGES) or name.endswith("_total"):
        return False
    same_sample = row_sample[1:] == row_sample[:-1]
    known = np.isfinite(values)
    return bool((~same_sample | (values[1:] == values[:-1]) | ~known[1:] | ~known[:-1]).all())


def _leave_out_impossible(
    features: dict[str, FloatArray], power: dict[PowerKey, FloatArray], sample: IntArray, counts: Counts
) -> None:
    """Count values that are impossible for a counter or meter, and replace them by NaN in all rows of their sample."""
    for name, values in features.items():
        impossible = np.abs(values) >= LARGEST_VALUE
        if name in FEATURES:
            impossible |= values < 0
        features[name] = _without(values, impossible, sample, name, counts)
    for key, watts in power.items():
        impossible = (np.abs(watts) >= LARGEST_VALUE) | (watts < 0) | np.isin(watts, INVALID_READINGS)
        power[key] = _without(watts, impossible, sample, " ".join(key), counts)


def _without(values: FloatArray, wrong: BoolArray, sample: IntArray, name: str, counts: Counts) -> FloatArray:
    if not wrong.any():
        return values
    example = f"{values[np.flatnonzero(wrong)[0]]:.15g}"
    counts.count("impossible_values", name, int(np.count_nonzero(wrong)), example)
    return np.where(np.isin(sample, sample[wrong]), np.nan, values)


def _combined(
    of_nodes: Mapping[Key, FloatArray],
    of_rows: Mapping[Key, FloatArray],
    gauges: Collection[Key],
    row_sample: IntArray,
    n: int,
) -> dict[Key, FloatArray]:
    """Return the values of the nodes, shape (samples,).

    If a node's value is unknown, it is replaced by the sum over the node's containers (by the mean for `gauges`).
    """
    combined = dict(of_nodes)
    sizes = np.bincount(row_sample, minlength=n)
    for key, values in of_rows.items():
        sums = sum_by(values, row_sample, n)
        if key in gauges:
            sums = sums / np.maximum(sizes, 1)
        combined[key] = known_first(combined.get(key), np.where(sizes > 0, sums, np.nan))
    return combined


def _steps(streams: Sequence[Stream], stream: IntArray, time: FloatArray) -> tuple[float, int]:
    """Return the usual step between two samples of a node in seconds (NaN if unknown), and the number of gaps."""
    steps, gaps = [], 0
    for code in range(len(streams)):
        seconds = np.diff(time[stream == code])
        if len(seconds):
            steps.append(float(np.median(seconds)))
            gaps += int(np.count_nonzero(seconds > GAP_FACTOR * steps[-1]))
    return (float(np.median(steps)) if steps else float("nan")), gaps


def _without_left_out(data: TableData) -> TableData:
    """Return the data with NaN in place of each value that was left out of the observations by a rule."""
    observations = data.observations
    unknown = np.full(len(observations.sample_time), np.nan)
    nodes = {name: observations.node_features.get(name, unknown) for name in (*data.node_features, *data.row_features)}
    at = observations.row_sample

    def kept(values: FloatArray, known: FloatArray) -> FloatArray:
        return np.where(np.isfinite(known), values, np.nan)

    row_power = data.row_power
    if not data.dynamic:
        row_power = {key: kept(watts, observations.power[key][at]) for key, watts in row_power.items()}
    return attrs.evolve(
        data,
        # Listeners use the power to find times without load. Rows without timestamps have no order, so listeners do
        # not get the power.
        observations=observations if data.has_times else attrs.evolve(observations, power={}),
        node_features={name: kept(values, nodes[name]) for name, values in data.node_features.items()},
        node_power={key: kept(watts, observations.power[key]) for key, watts in data.node_power.items()},
        row_features={name: kept(values, nodes[name][at]) for name, values in data.row_features.items()},
        row_power=row_power,
    )


def _spread(n: int, at: IntArray, values: FloatArray) -> FloatArray:
    """Return an array of length `n` with `values` at the indices `at` and NaN at all other indices."""
    column = np.full(n, np.nan)
    column[at] = values
    return column
