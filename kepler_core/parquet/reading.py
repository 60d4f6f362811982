"""Read recordings in Parquet, one group of nodes after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.errors import RecordingError
from kepler_core.parquet.fragments import Fragment, digest_of, files_of, fragments_of, labels_of, read_fragments
from kepler_core.parquet.node_groups import NodeGroups
from kepler_core.recording.columns import Metric, Recording, metric_from_columns
from kepler_core.recording.parts import RecordingParts
from kepler_core.recording.samples import check_times
from kepler_core.recording.schemas import installed_schemas

PART_SAMPLES = 4_000_000
"""Largest number of samples of several machines that are observed together; about 300 MB of memory."""
MAX_PART_SAMPLES = 200_000_000
"""Largest number of samples of a part. A part is larger than `PART_SAMPLES` only if one machine alone has more
samples."""


def open_parts(
    path: str | Path,
    *,
    wanted: Callable[[str], bool] | None = None,
    metric_prefix: str | None = None,
    part_samples: int | None = PART_SAMPLES,
) -> RecordingParts:
    """Open a recording in Parquet. Read the labels of all wanted metrics now, and samples later, part by part.

    `wanted` returns whether a metric's samples are needed; of all other metrics, only the name is kept. With
    `part_samples=None`, all nodes are in one part. Raises `RecordingError` if `path` is not a recording.
    """
    path = Path(path)
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
    digest = digest_of(path, files)
    total = sum(counts.values())
    parts = list(groups.groups(max(total, 1) if part_samples is None else part_samples))

    def read() -> Iterator[Recording]:
        for texts in parts or [frozenset[str]()]:
            yield _read_part(str(path), fragments, texts, labels, digest, tuple(sorted(others)), metric_prefix)

    sorted_counts = dict(sorted(counts.items()))
    n_parts = max(len(parts), 1)
    return RecordingParts(str(path), digest, sorted_counts, tuple(sorted(others)), n_parts, read, metric_prefix)


def _read_part(
    name: str,
    fragments: list[Fragment],
    texts: frozenset[str],
    labels: Mapping[str, dict[str, str]],
    digest: str,
    others: tuple[str, ...],
    metric_prefix: str | None,
) -> Recording:
    """Return the recording of the series whose label texts are in `texts`."""
    chosen: dict[str, dict[Path, list[Fragment]]] = {}
    n_samples = 0
    for fragment in fragments:
        if not texts.isdisjoint(fragment.n_rows):
            chosen.setdefault(fragment.metric, {}).setdefault(fragment.path, []).append(fragment)
            n_samples += sum(n for text, n in fragment.n_rows.items() if text in texts)
    if n_samples > MAX_PART_SAMPLES:
        raise RecordingError(f"more than {MAX_PART_SAMPLES} samples would have to be read at once", document=name)
    metrics = {metric: _read_metric(metric, by_file, texts, labels, name) for metric, by_file in sorted(chosen.items())}
    return Recording(name, metrics, digest, others, metric_prefix=metric_prefix)


def _read_metric(
    metric: str,
    by_file: Mapping[Path, list[Fragment]],
    texts: frozenset[str],
    labels: Mapping[str, dict[str, str]],
    name: str,
) -> Metric:
    number: dict[str, int] = {}
    columns: list[tuple[FloatArray, FloatArray, IntArray]] = []
    for path, fragments in by_file.items():
        for _, words, codes, times, values in read_fragments(path, fragments):
            series = np.array(
                [number.setdefault(word, len(number)) if word in texts else -1 for word in words], dtype=np.int64
            )[codes]
            kept = series >= 0
            columns.append((times[kept], values[kept], series[kept]))
    timestamps, values, series = (np.concatenate(column) for column in zip(*columns, strict=True))
    try:
        check_times(timestamps)
    except RecordingError as error:
        raise RecordingError(f"{metric}: {error.message}", document=name) from error
    return metric_from_columns(metric, timestamps, values, series, tuple(labels[text] for text in number))
