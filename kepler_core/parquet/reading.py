"""Read recordings in Parquet, one group of nodes after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import RecordingError
from kepler_core.parquet.fragments import Fragment, digest_of, files_of, fragments_of, labels_of, read_fragments
from kepler_core.parquet.locations import as_location
from kepler_core.parquet.node_groups import NodeGroups
from kepler_core.parquet.slicing import MACHINE_SAMPLES, MARGIN_SECONDS, Chosen, divide
from kepler_core.recording.columns import Metric, Recording, metric_from_columns
from kepler_core.recording.parts import Part, RecordingParts
from kepler_core.recording.samples import check_times
from kepler_core.recording.schemas import installed_schemas

PART_SAMPLES = 4_000_000
"""Largest number of samples of several machines that are observed together; they need about 300 MB of memory."""
MAX_PART_SAMPLES = 200_000_000
"""Largest number of samples of a part. A part is larger than `PART_SAMPLES` only if one machine alone has more
samples."""


def open_parts(
    path: str | Path,
    *,
    wanted: Callable[[str], bool] | None = None,
    metric_prefix: str | None = None,
    part_samples: int | None = PART_SAMPLES,
    machine_samples: int = MACHINE_SAMPLES,
) -> RecordingParts:
    """Open a recording in Parquet. Read the labels of all wanted metrics now, and samples later, part by part.

    `wanted` returns whether a metric's samples are needed; of all other metrics, only the name is kept. With
    `part_samples=None`, all nodes are in one part. If a machine has more than `machine_samples` samples, each part in
    `RecordingParts.parts` also covers only a period of the recording. Raises `RecordingError` if `path` is not a
    recording.
    """
    path = as_location(path)
    files = files_of(path)
    others: set[str] = set()
    groups = NodeGroups(installed_schemas(metric_prefix))
    fragments: list[Fragment] = []
    counts: dict[str, int] = {}
    labels: dict[str, dict[str, str]] = {}
    for fragment in fragments_of(files, wanted or (lambda metric: True), others):
        fragments.append(fragment)
        counts[fragment.metric] = counts.get(fragment.metric, 0) + sum(fragment.n_rows.values())
        for text, n_rows in fragment.n_rows.items():
            if text not in labels:
                labels[text] = labels_of(text, fragment.path)
            groups.add(text, labels[text], n_rows)
    digest = digest_of(files)
    total = sum(counts.values())
    most = max(total, 1) if part_samples is None else part_samples
    groups_of_series = list(groups.groups(most))
    names = tuple(sorted(others))

    def read() -> Iterator[Recording]:
        for texts in groups_of_series or [frozenset[str]()]:
            whole_time = Chosen(texts, -math.inf, math.inf)
            yield _read_part(path, fragments, whole_time, labels, digest, names, metric_prefix)

    def part(chosen: Chosen) -> Part:
        # The part may be read in another process: leave out the labels of all other series.
        of_part = [
            attrs.evolve(fragment, n_rows={text: n for text, n in fragment.n_rows.items() if text in chosen.texts})
            for fragment in fragments
            if chosen.has(fragment)
        ]
        of_texts = {text: labels[text] for text in chosen.texts}
        arguments = (path, of_part, chosen, of_texts, digest, names, metric_prefix)
        return Part(chosen.start, chosen.end, partial(_read_part, *arguments))

    machines = groups.machines()
    return RecordingParts(
        path,
        digest,
        dict(sorted(counts.items())),
        names,
        max(len(groups_of_series), 1),
        read,
        metric_prefix,
        len(machines),
        tuple(part(chosen) for chosen in divide(fragments, machines, most, machine_samples)),
    )


def _read_part(
    name: str,
    fragments: list[Fragment],
    part: Chosen,
    labels: Mapping[str, dict[str, str]],
    digest: str,
    others: tuple[str, ...],
    metric_prefix: str | None,
) -> Recording:
    """Return a part as a recording: its series in its time range, with a margin before and after this range."""
    texts = part.texts
    chosen: dict[str, dict[str, list[Fragment]]] = {}
    n_samples = 0
    for fragment in fragments:
        if part.has(fragment):
            chosen.setdefault(fragment.metric, {}).setdefault(fragment.path, []).append(fragment)
            n_samples += sum(n for text, n in fragment.n_rows.items() if text in texts)
    if n_samples > MAX_PART_SAMPLES:
        raise RecordingError(f"more than {MAX_PART_SAMPLES} samples would have to be read at once", document=name)
    metrics = {metric: _read_metric(metric, by_file, part, labels, name) for metric, by_file in sorted(chosen.items())}
    return Recording(name, metrics, digest, others, metric_prefix=metric_prefix)


def _read_metric(
    metric: str,
    by_file: Mapping[str, list[Fragment]],
    part: Chosen,
    labels: Mapping[str, dict[str, str]],
    name: str,
) -> Metric:
    texts = part.texts
    # The order of the series follows the order of the files, and does not depend on the part that is read.
    in_order = sorted(
        {text for fragments in by_file.values() for fragment in fragments for text in fragment.n_rows if text in texts},
        key=lambda text: (labels[text].get("instance", ""), text),
    )
    number = {text: at for at, text in enumerate(in_order)}
    columns: list[tuple[FloatArray, FloatArray, IntArray]] = []
    for path, fragments in by_file.items():
        for _, words, codes, times, values in read_fragments(path, fragments):
            series = np.array([number.get(word, -1) for word in words], dtype=np.int64)[codes]
            kept = series >= 0
            if np.isfinite(part.start):
                kept &= (times >= part.start - MARGIN_SECONDS) & (times < part.end + MARGIN_SECONDS)
            columns.append((times[kept], values[kept], series[kept]))
    timestamps, values, series = (np.concatenate(column) for column in zip(*columns, strict=True))
    try:
        check_times(timestamps)
    except RecordingError as error:
        raise RecordingError(f"{metric}: {error.message}", document=name) from error
    used, series = np.unique(series, return_inverse=True)
    return metric_from_columns(metric, timestamps, values, series, tuple(labels[in_order[at]] for at in used.tolist()))
