"""Make observations from recordings.

The steps for each recording, with the modules that contain them:

1. Metric schemas map the metrics to the vocabulary (`schemas`, `metric_mapping`). Counters that wrap are continued
   (`wraps`).
2. Machines that share a node label are told apart (`node_identity`). The metrics of several exporters on one machine
   are joined (`exporters`, `cpu_shares`). If the usage and the energy of a machine have different node labels, they are
   joined, too (`separated_nodes`, `vm_guests`). Nodes, containers, sockets and scrapes that the recording reports twice
   are left out (`repeats`). Metrics of exporters that are scraped at different times are interpolated at common times
   (`alignment`).
3. The samples are laid out by node, time and container (`layout`). Counters become rates (`points`,
   `rates`), and the rates of a node's containers are added up (`node_values`).

Finally, the observations of all recordings are concatenated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import RecordingError
from kepler_core.messages import printable, quoted
from kepler_core.recording.alignment import aligned
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS, Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.cpu_shares import with_cpu_shares
from kepler_core.recording.exporters import join_exporters, one_exporter_each
from kepler_core.recording.false_counters import without_false_counters
from kepler_core.recording.layout import lay_out
from kepler_core.recording.machine_samples import without_machine_samples
from kepler_core.recording.malformed import without_malformed_energy
from kepler_core.recording.meters import Meter, installed_meters
from kepler_core.recording.metric_mapping import (
    Codes,
    MappedMetric,
    SeriesCodes,
    count_irregular,
    map_metric,
    map_series,
    select_level,
    third_party_mapping,
    with_sorted_units,
)
from kepler_core.recording.modes import check_modes
from kepler_core.recording.node_identity import tell_nodes_apart_by_schema
from kepler_core.recording.observations import Observations
from kepler_core.recording.parts import RecordingParts, WholeRecording, parts_of
from kepler_core.recording.rates import spacing
from kepler_core.recording.repeats import (
    node_aliases,
    without_duplicate_nodes,
    without_duplicates,
    without_repeated_scrapes,
)
from kepler_core.recording.schemas import SchemaUse, find_schemas, installed_schema_names
from kepler_core.recording.scrape_times import with_scrape_times
from kepler_core.recording.separated_nodes import join_separated_nodes
from kepler_core.recording.vm_guests import count_unnamed_guests, join_vm_guests
from kepler_core.recording.wraps import without_wraps
from kepler_core.vocabulary import HOST_FEATURES


def observe(
    recordings: Sequence[Recording | RecordingParts],
    *,
    use_vm_metrics: bool = False,
    third_party: Sequence[str] = (),
    cpus: int | None = None,
    vm_guests: Mapping[str, str] | None = None,
) -> Observations:
    """Return the observations that recordings contain, in the order of the recordings.

    The installed metric schemas and energy sources interpret the metrics. With `use_vm_metrics`, power is
    the power of virtual machines, and features are the features of the processes in virtual machines.
    `third_party` names metrics to use as features although no metric schema knows them. `cpus` is the number
    of CPUs of each node; None if it is not known. CPU time that exceeds this number of CPUs is left out.

    `vm_guests` maps the node label of each guest to the id of its virtual machine. It is used only with
    `use_vm_metrics`, if usage and energy come from different exporters: one in the guest, one on the host.

    Raises `RecordingError` if a recording has no metric that a schema knows, or if two recordings contain
    the same data or the same node at the same time.
    """
    refuse_repeated(recordings)
    for recording in recordings:
        if vm_guests and isinstance(recording, RecordingParts) and recording.n_parts > 1:
            raise RecordingError(
                f"vm_guests joins guests with virtual machines on their host, but the recording is read in "
                f"{recording.n_parts} parts; convert it to JSON first (kepler-model convert)",
                document=recording.name,
            )
    meters = installed_meters()
    parts = [
        _observe_one(part, uses, meters, use_vm_metrics, third_party, cpus, vm_guests or {}, whole)
        for recording in recordings
        for part, uses, whole in _parts_with_schemas(recording)
    ]
    refuse_overlaps(parts)
    return _concatenate(parts)


def refuse_repeated(recordings: Sequence[Recording | RecordingParts]) -> None:
    """Raise `RecordingError` if there is no recording, or if two recordings contain the same data."""
    if not recordings:
        raise RecordingError("no recording given")
    names = Counter(recording.name for recording in recordings)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise RecordingError("the recording is given twice; its samples would count double", document=repeated[0])
    digests = Counter(recording.digest for recording in recordings)
    if max(digests.values()) > 1:
        same = [r.name for r in recordings if digests[r.digest] > 1]
        raise RecordingError(f"{same[0]} and {same[1]} hold the same data; it would count double")


def refuse_overlaps(parts: Sequence[Observations]) -> None:
    """Raise `RecordingError` if two recordings in any of the observations contain the same node at the same time.

    Otherwise models would be trained and tested on the same data.
    """
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for part in parts:
        firsts, lasts = np.full(len(part.streams), np.inf), np.full(len(part.streams), -np.inf)
        np.minimum.at(firsts, part.sample_stream, part.sample_time)
        np.maximum.at(lasts, part.sample_stream, part.sample_time)
        for stream, first, last in zip(part.streams, firsts.tolist(), lasts.tolist(), strict=True):
            for start, end, other in spans.setdefault(stream.node, []):
                if first <= end and start <= last:
                    raise RecordingError(
                        f"{other} and {stream.recording} both hold node {stream.node!r} at the same time; "
                        "its samples would count double"
                    )
            spans[stream.node].append((first, last, stream.recording))


def observe_part(
    part: Recording,
    whole: WholeRecording,
    *,
    use_vm_metrics: bool = False,
    third_party: Sequence[str] = (),
    cpus: int | None = None,
) -> Observations | None:
    """Return the observations in a part of a recording, as `observe` does; None if the part has no known metric.

    Some rules compare all nodes. They use `whole`, so that the values do not depend on the other machines in the part.
    """
    uses = schemas_of(whole)
    if not any(uses.mappings(metric) for metric in part.metrics):
        return None
    return _observe_one(part, uses, installed_meters(), use_vm_metrics, third_party, cpus, {}, whole)


def _parts_with_schemas(
    recording: Recording | RecordingParts,
) -> Iterator[tuple[Recording, SchemaUse, WholeRecording | None]]:
    """Yield the parts of a recording, each with the schemas that know its metrics.

    A part without any known metric, e.g. of machines with another exporter, is left out.
    """
    uses = schemas_of(recording)
    whole = recording.whole if isinstance(recording, RecordingParts) else None
    for part in parts_of(recording):
        if whole is None or any(uses.mappings(metric) for metric in part.metrics):
            yield part, uses, whole


def _observe_one(
    recording: Recording,
    uses: SchemaUse,
    meters: Mapping[str, Meter],
    use_vm_metrics: bool,
    third_party: Sequence[str],
    cpus: int | None,
    vm_guests: Mapping[str, str],
    whole: WholeRecording | None,
) -> Observations:
    schemas = [schema for _, schema in uses.schemas]
    counts = Counts()
    counts.empty_series.update(recording.empty_series)
    recording = without_malformed_energy(recording, uses, counts)
    codes = SeriesCodes()
    mapped = _map_metrics(recording, uses, third_party, codes, counts)
    if whole is not None:
        mapped = with_sorted_units(mapped, codes)
    mapped = tell_nodes_apart_by_schema(mapped, schemas, codes, counts)
    mapped = join_exporters(mapped, schemas, codes.nodes, counts)
    mapped = without_machine_samples(with_cpu_shares(mapped, codes.nodes, counts))
    aliases = node_aliases(mapped, codes.nodes)
    if vm_guests:
        mapped = join_vm_guests(mapped, vm_guests, codes.nodes, counts)
    elif use_vm_metrics:
        count_unnamed_guests(mapped, codes.nodes, counts)
    by_container = None if whole is None else _has_containers(uses, whole, third_party)
    mapped = select_level(mapped, use_vm_metrics, any_job=bool(vm_guests), by_container=by_container)
    mapped = one_exporter_each(mapped, schemas, counts)
    mapped = without_duplicate_nodes(mapped, codes.nodes, codes.units, aliases, counts)
    if not use_vm_metrics:
        mapped = join_separated_nodes(mapped, codes.nodes, counts, may_join=whole is None or whole.n_machines == 1)
    mapped = [without_duplicates(item, counts) for item in mapped]
    mapped = without_false_counters(mapped, counts)
    mapped, repeated = without_repeated_scrapes(mapped, codes.nodes, counts)
    mapped = with_scrape_times(mapped, repeated, codes.nodes, counts)
    mapped = aligned(check_modes(mapped, counts))
    return lay_out(recording, uses.names, mapped, codes, meters, _usual_step(mapped), cpus, counts)


def _has_containers(uses: SchemaUse, whole: WholeRecording, third_party: Sequence[str]) -> bool:
    """Return whether a whole recording has a feature of containers."""
    return any(
        mapping.kind == "feature" and mapping.level == "container"
        for metric, n_samples in whole.sample_counts.items()
        if n_samples and metric not in third_party
        for mapping in uses.mappings(metric)
    )


def schemas_of(recording: Recording | RecordingParts | WholeRecording) -> SchemaUse:
    """Return the metric schemas whose metrics the recording has. Raise `RecordingError` if it has no known metric."""
    uses = find_schemas(recording.sample_counts, recording.metric_prefix)
    if not uses.has_mappings:
        metrics = sorted([*recording.sample_counts, *recording.other_metrics])
        contents = "it is empty"
        if metrics:
            shown = ", ".join(printable(metric, METRIC_NAME_CHARACTERS) for metric in metrics[:3])
            contents = f"found only {shown}{', …' if len(metrics) > 3 else ''}"
        schemas = ", ".join(installed_schema_names())
        problem = f"no metric that an installed metric schema knows ({schemas}){_prefix_note(recording)}; {contents}"
        raise RecordingError(problem, document=recording.name)
    return uses


def _prefix_note(recording: Recording | RecordingParts | WholeRecording) -> str:
    return "" if recording.metric_prefix is None else f" with the prefix {quoted(recording.metric_prefix)}"


def _map_metrics(
    recording: Recording,
    uses: SchemaUse,
    third_party: Sequence[str],
    codes: SeriesCodes,
    counts: Counts,
) -> list[MappedMetric]:
    """Map the metrics that the schemas know, and then the user's third-party metrics, to the vocabulary."""
    mapped: list[MappedMetric] = []
    named = []
    for metric in recording.metrics.values():
        use = uses.metrics.get(metric.name)
        if metric.name in third_party:
            grouped = [] if use is None else [m.name for m in use.mappings if m.name not in HOST_FEATURES]
            if use is not None and grouped:
                raise RecordingError(
                    f"{metric.name} is no third-party metric: the schema {use.schema_name} maps it to "
                    f"{grouped[0]}, which is in the feature groups already",
                    path=("third_party",),
                )
            named.append(metric)
        elif use is not None:
            mapped.extend(map_metric(metric, use, codes, counts))
    mapped = [without_wraps(item, counts) for item in mapped]
    schema = uses.schemas[0][1]
    for metric in named:
        mapping = third_party_mapping(metric, schema)
        mapped.append(map_series(metric, mapping, schema, codes, counts, third_party=True))
        count_irregular(metric, counts)
    return mapped


def _usual_step(mapped: Sequence[MappedMetric]) -> float:
    """Return the usual time between samples of energy counters, or of all metrics without such counters, in seconds."""
    energy = [item for item in mapped if item.mapping.kind != "feature"]
    steps = [spacing(item.metric.timestamps, item.metric.series, item.node).usual_step for item in energy or mapped]
    return _nanmedian(steps)


def _nanmedian(values: Sequence[float]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _concatenate(parts: list[Observations]) -> Observations:
    """Concatenate the observations of several recordings into one object."""
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
        windows={source: _joined_windows(parts, source, first_sample) for source in _windowed_sources(parts)},
        step=_nanmedian([part.step for part in parts]),
        counts=counts,
        schemas=tuple(sorted({schema for part in parts for schema in part.schemas})),
        digest="+".join(dict.fromkeys(part.digest for part in parts)),
    )


def _windowed_sources(parts: Sequence[Observations]) -> list[str]:
    return sorted({source for part in parts for source in part.windows})


def _joined_windows(parts: Sequence[Observations], source: str, first_sample: IntArray) -> IntArray:
    """Join the windows of one energy source (`Observations.windows`) in all `parts` to one array."""
    joined = []
    for part, first in zip(parts, first_sample.tolist(), strict=True):
        begins = part.windows.get(source, np.arange(-1, len(part.sample_time) - 1))
        joined.append(np.where(begins >= 0, begins + first, -1))
    return np.concatenate(joined)


def _common_containers(parts: Sequence[Observations]) -> tuple[tuple[str, ...], tuple[str, ...], IntArray]:
    """Return the container ids of all observations, their readable names, and the index of each row's container."""
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
    """Concatenate the columns with equal names in several mappings from name to column.

    If a mapping lacks a column, the column is NaN in its rows. `lengths` has the number of rows of each mapping.
    """
    names = sorted({name for part in columns for name in part})
    return {name: _joined_column([part.get(name) for part in columns], lengths) for name in names}


def _joined_column(parts: Sequence[FloatArray | None], lengths: Sequence[int]) -> FloatArray:
    """Concatenate the parts of a column. A part that is None counts as an array of NaN with length `lengths[i]`."""
    return np.concatenate(
        [np.full(n, np.nan) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    )
