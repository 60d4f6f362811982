"""Make observations of recordings.

For each recording, the metric schema maps the metrics to the vocabulary (`schemas`, `metric_mapping`),
repetitions are left out (`repeats`), and the metrics are laid out by node, time and container (`layout`),
where counters become rates (`points`, `rates`) and containers are added up (`node_values`). The
observations of several recordings are then concatenated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.contracts import MetricSchema
from kepler_core.errors import RecordingError
from kepler_core.messages import printable
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS, Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.layout import lay_out
from kepler_core.recording.meters import Meter, installed_meters
from kepler_core.recording.metric_mapping import (
    Codes,
    MappedMetric,
    SeriesCodes,
    map_series,
    select_level,
    third_party_mapping,
)
from kepler_core.recording.modes import compare_modes
from kepler_core.recording.observations import Observations
from kepler_core.recording.rates import spacing
from kepler_core.recording.repeats import (
    node_aliases,
    without_duplicate_nodes,
    without_duplicates,
    without_repeated_scrapes,
)
from kepler_core.recording.schemas import find_schema, installed_schema_names, map_metric


def observe(
    recordings: Sequence[Recording], *, use_vm_metrics: bool = False, third_party: Sequence[str] = ()
) -> Observations:
    """Return the observations in recordings, in the order given.

    With `use_vm_metrics`, power is that of virtual machines and features are those of their processes.
    `third_party` names metrics to use as features although no schema knows them. The installed metric
    schemas and energy sources are used.

    Raises `RecordingError` if a recording has no metric that a schema knows, or if two recordings hold
    the same data or the same node at the same time.
    """
    if not recordings:
        raise RecordingError("no recording given")
    names = Counter(recording.name for recording in recordings)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise RecordingError("given twice; its samples would count double", document=repeated[0])
    digests = Counter(recording.digest for recording in recordings)
    if max(digests.values()) > 1:
        same = [r.name for r in recordings if digests[r.digest] > 1]
        raise RecordingError(f"{same[0]} and {same[1]} hold the same data; it would count double")
    meters = installed_meters()
    parts = [_observe_one(recording, meters, use_vm_metrics, third_party) for recording in recordings]
    _refuse_overlaps(parts)
    return _concatenate(parts)


def _refuse_overlaps(parts: Sequence[Observations]) -> None:
    """Raise `RecordingError` if two recordings hold the same node at the same time.

    Models would be trained and tested on the same data.
    """
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for part in parts:
        for code, stream in enumerate(part.streams):
            times = part.sample_time[part.sample_stream == code]
            first, last = float(times.min()), float(times.max())
            for start, end, other in spans.setdefault(stream.node, []):
                if first <= end and start <= last:
                    raise RecordingError(
                        f"{other} and {stream.recording} both hold node {stream.node!r} at the same time; "
                        "its samples would count double"
                    )
            spans[stream.node].append((first, last, stream.recording))


def _observe_one(
    recording: Recording, meters: Mapping[str, Meter], use_vm_metrics: bool, third_party: Sequence[str]
) -> Observations:
    schema_name, schema = _schema_of(recording)
    counts = Counts()
    counts.empty_series.update(recording.empty_series)
    codes = SeriesCodes()
    mapped = _map_metrics(recording, schema_name, schema, third_party, codes, counts)
    mapped = select_level(mapped, use_vm_metrics)
    aliases = node_aliases(recording, schema)
    mapped = without_duplicate_nodes(mapped, codes.nodes, codes.units, aliases, counts)
    mapped = [without_duplicates(item, counts) for item in mapped]
    mapped = without_repeated_scrapes(mapped, len(codes.nodes), counts)
    if schema.mode_label is not None:
        compare_modes(mapped, schema.mode_label, counts)
    return lay_out(recording, schema_name, mapped, codes, meters, _usual_step(mapped), counts)


def _schema_of(recording: Recording) -> tuple[str, MetricSchema]:
    """Return the schema that a recording follows, with its name."""
    schema = find_schema(recording.metrics)
    if schema is None:
        metrics = sorted([*recording.metrics, *recording.other_metrics])
        contents = "it is empty"
        if metrics:
            shown = ", ".join(printable(metric, METRIC_NAME_CHARACTERS) for metric in metrics[:3])
            contents = f"found only {shown}{', …' if len(metrics) > 3 else ''}"
        schemas = ", ".join(installed_schema_names())
        problem = f"no metric that an installed metric schema knows ({schemas}); {contents}"
        raise RecordingError(problem, document=recording.name)
    return schema


def _map_metrics(
    recording: Recording,
    schema_name: str,
    schema: MetricSchema,
    third_party: Sequence[str],
    codes: SeriesCodes,
    counts: Counts,
) -> list[MappedMetric]:
    """Map the metrics that the schema knows, then those that only the user names."""
    mapped, named = [], []
    for metric in recording.metrics.values():
        mapping = map_metric(schema, metric.name)
        if metric.name in third_party:
            if mapping is not None:
                raise RecordingError(
                    f"{metric.name} is no third-party metric but {schema_name}'s {mapping.name}; "
                    "it is in the feature groups already",
                    path=("third_party",),
                )
            named.append(metric)
        elif mapping is not None:
            mapped.append(map_series(metric, mapping, schema, codes, counts))
    # Third-party metrics come last: their node labels are matched with the nodes of the metrics before.
    for metric in named:
        mapping = third_party_mapping(metric, schema)
        mapped.append(map_series(metric, mapping, schema, codes, counts, third_party=True))
    return mapped


def _usual_step(mapped: Sequence[MappedMetric]) -> float:
    """Return the usual interval in seconds of the energy counters, or of all metrics if there are none."""
    energy = [item for item in mapped if item.mapping.kind != "feature"]
    steps = [spacing(item.metric.timestamps, item.metric.series, item.node).usual_step for item in energy or mapped]
    return _nanmedian(steps)


def _nanmedian(values: Sequence[float]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _concatenate(parts: list[Observations]) -> Observations:
    """Return the observations of several recordings one after the other."""
    if len(parts) == 1:
        return parts[0]
    counts = Counts()
    for part in parts:
        counts.add(part.counts)
    containers, container_names, row_container = _common_containers(parts)
    first_stream = np.cumsum([0, *(len(part.streams) for part in parts[:-1])])
    first_sample = np.cumsum([0, *(len(part.sample_time) for part in parts[:-1])])
    n_rows = [len(part.row_sample) for part in parts]
    n_samples = [len(part.sample_time) for part in parts]
    power_keys = sorted({key for part in parts for key in part.power})
    return Observations(
        streams=tuple(stream for part in parts for stream in part.streams),
        sample_stream=np.concatenate([p.sample_stream + o for p, o in zip(parts, first_stream, strict=True)]),
        sample_time=np.concatenate([part.sample_time for part in parts]),
        containers=containers,
        container_names=container_names,
        row_sample=np.concatenate([p.row_sample + o for p, o in zip(parts, first_sample, strict=True)]),
        row_container=row_container,
        container_features=_joined([part.container_features for part in parts], n_rows),
        node_features=_joined([part.node_features for part in parts], n_samples),
        node_gauges=frozenset().union(*(part.node_gauges for part in parts)),
        power={key: _joined_column([part.power.get(key) for part in parts], n_samples) for key in power_keys},
        step=_nanmedian([part.step for part in parts]),
        counts=counts,
        schemas=tuple(sorted({schema for part in parts for schema in part.schemas})),
        digest="+".join(part.digest for part in parts),
    )


def _common_containers(parts: Sequence[Observations]) -> tuple[tuple[str, ...], tuple[str, ...], IntArray]:
    """Return the containers of all parts, their names, and the number of each row's container."""
    codes = Codes()
    names: dict[str, str] = {}
    rows = []
    for part in parts:
        numbers = np.array([codes.code(container) for container in part.containers], dtype=np.int64)
        for container, name in zip(part.containers, part.container_names, strict=True):
            names.setdefault(container, name)
        rows.append(numbers[part.row_container] if len(numbers) else part.row_container)
    return codes.words, tuple(names[container] for container in codes.words), np.concatenate(rows)


def _joined(columns: Sequence[Mapping[str, FloatArray]], lengths: Sequence[int]) -> dict[str, FloatArray]:
    """Return the columns of several parts one after the other, by name."""
    names = sorted({name for part in columns for name in part})
    return {name: _joined_column([part.get(name) for part in columns], lengths) for name in names}


def _joined_column(parts: Sequence[FloatArray | None], lengths: Sequence[int]) -> FloatArray:
    """Return parts one after the other, with NaN for the length of a part that is None."""
    return np.concatenate(
        [np.full(n, np.nan) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    )
