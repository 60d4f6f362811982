"""Recordings to observations.

Data flow for one recording: a metric schema gives each metric its meaning (`meaning`) -> what is
reported twice is set aside (`repeats`) -> counters become rates (`rates`) -> samples are laid out by
node, timestamp and container (`layout`). Several recordings are then put one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import RecordingError
from kepler_core.plugins import registry
from kepler_core.recording.columns import Recording
from kepler_core.recording.counts import Counts
from kepler_core.recording.layout import lay_out
from kepler_core.recording.metric_mapping import (
    Codes,
    Measured,
    find_schema,
    map_series,
    meaning_of,
    select_level,
    third_party_meaning,
)
from kepler_core.recording.modes import compare_modes
from kepler_core.recording.names import printable
from kepler_core.recording.observations import Observations
from kepler_core.recording.rates import spacing
from kepler_core.recording.repeats import (
    node_aliases,
    without_duplicate_nodes,
    without_duplicates,
    without_repeated_scrapes,
)


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
    parts = [_observe_one(recording, use_vm_metrics, third_party) for recording in recordings]
    _refuse_overlaps(parts)
    return _concatenate(parts)


def _refuse_overlaps(parts: Sequence[Observations]) -> None:
    """The same node at the same time in two recordings would be trained on and tested on at once."""
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for part in parts:
        for code, stream in enumerate(part.streams):
            times = part.instant_time[part.instant_stream == code]
            span = float(times.min()), float(times.max()), stream.recording
            for start, end, other in spans.setdefault(stream.node, []):
                if span[0] <= end and start <= span[1]:
                    raise RecordingError(
                        f"{other} and {stream.recording} both hold node {stream.node!r} at the same time; "
                        "its samples would count double"
                    )
            spans[stream.node].append(span)


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
    nodes, units, exporters = Codes(), Codes(), Codes()
    measured, named = [], []
    for metric in recording.metrics.values():
        meaning = meaning_of(schema, metric.name)
        if metric.name in third_party:
            if meaning is not None:
                raise RecordingError(
                    f"third_party: {metric.name} is no third-party metric but {schema_name}'s {meaning.name}; "
                    "it is in the feature groups already"
                )
            named.append(metric)
        elif meaning is not None:
            measured.append(map_series(metric, meaning, schema, nodes, units, exporters, counts))
    for metric in named:  # after the others: by then it is known which nodes there are
        meaning = third_party_meaning(metric, schema)
        measured.append(map_series(metric, meaning, schema, nodes, units, exporters, counts, third_party=True))
    measured = select_level(measured, use_vm_metrics)
    aliases = node_aliases(recording, schema)
    measured = without_duplicate_nodes(measured, nodes, units, aliases, counts)
    measured = [without_duplicates(item, counts) for item in measured]
    measured = without_repeated_scrapes(measured, len(nodes.of), counts)
    if schema.mode_label is not None:
        compare_modes(measured, schema.mode_label, counts)
    step = _usual_step(measured)
    return lay_out(recording, schema_name, measured, nodes, units, step, counts)


def _usual_step(measured: Sequence[Measured]) -> float:
    """Of the energy counters, which every node has; of all metrics where there are none."""
    energy = [item for item in measured if item.meaning.kind != "feature"]
    steps = [spacing(item.metric.timestamps, item.metric.series, item.node).usual_step for item in energy or measured]
    return _nanmedian(steps)


def _nanmedian(values: Sequence[float]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _concatenate(parts: list[Observations]) -> Observations:
    if len(parts) == 1:
        return parts[0]
    containers = Codes()
    counts = Counts()
    row_container = []
    for part in parts:
        counts.add(part.counts)
        codes = np.array([containers.code(word) for word in part.containers], dtype=np.int64)
        for word, name in zip(part.containers, part.container_names, strict=True):
            containers.called.setdefault(word, name)
        row_container.append(codes[part.row_container] if len(codes) else part.row_container)
    first_stream = np.cumsum([0, *(len(part.streams) for part in parts)])
    first_instant = np.cumsum([0, *(len(part.instant_time) for part in parts)])
    rows = [len(part.row_instant) for part in parts]

    def joined(columns: Sequence[Mapping[str, FloatArray]], lengths: Sequence[int]) -> dict[str, FloatArray]:
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
        container_names=tuple(containers.called[word] for word in containers.words),
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
