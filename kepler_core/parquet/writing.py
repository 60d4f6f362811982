"""Write recordings to Parquet, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.atomic_files import whole_file
from kepler_core.errors import RecordingError, UsageError, missing_extra
from kepler_core.messages import quoted, reason_of
from kepler_core.parquet.layout import MARKER, VERSION, VERSION_KEY, Marker, check_folder, folder_of, labels_text
from kepler_core.recording.columns import Recording

MAX_BUFFERED_SAMPLES = 2_000_000
"""Number of samples of a metric that are collected before they are written; about 50 MB of memory."""
MAX_BUFFERED_SERIES = 50_000
"""Number of series of a metric whose labels are kept, if the writer knows that the series have ended."""
ROW_GROUP_ROWS = 2**17
"""Number of rows of a row group. A reader needs the memory of one row group, and skips the row groups of other
nodes."""
_SECONDS_PER_DAY = 86_400
_NAME_CHARACTERS = 200
"""Maximum length of a metric's name in bytes, after it was quoted as the name of a folder."""


class RecordingWriter:
    """Writes series to a folder, partitioned by metric and day. Use it as a context manager.

    Samples of a series that are not later than its previous sample are left out: query results for consecutive ranges
    of time share the sample at their border. So the samples of a series must arrive in order of time. A file is written
    as a whole or not at all. If a writer with the same `mark` writes the same series again, it replaces the earlier
    files, so that an interrupted command can simply be repeated.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        """Create the folder if it does not exist. `mark` is the start of the names of all files of this writer.

        Raises `UsageError` if the folder contains anything other than a recording, and `MissingExtraError` if pyarrow
        is not installed.
        """
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra(error, f"{folder} (Parquet)") or error from error
        self.folder = folder
        self._mark = mark
        self._metric: str | None = None
        self._number = 0
        self._labels: dict[str, int] = {}
        self._latest: list[float] = []
        self._parts: list[tuple[IntArray, FloatArray, FloatArray]] = []
        self._n_buffered = 0
        try:
            check_folder(folder)
            folder.mkdir(exist_ok=True)
            with whole_file(folder / MARKER) as file:
                file.write(msgspec.json.encode(Marker()) + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write {folder}: {reason_of(error)}") from error

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()

    def write(self, metric: str, labels: Mapping[str, str], timestamps: FloatArray, values: FloatArray) -> None:
        """Add samples of a series. The series of a metric must be added one after another.

        `timestamps` are in Unix seconds, shape (samples,); they are rounded to microseconds.
        """
        if metric != self._metric:
            self._flush()
            if len(folder_of(metric, "").partition("/")[0]) > _NAME_CHARACTERS:
                raise RecordingError(f"the metric name {quoted(metric)} is too long for Parquet")
            self._metric, self._number, self._labels, self._latest = metric, 0, {}, []
        number = self._labels.setdefault(labels_text(labels), len(self._latest))
        if number == len(self._latest):
            self._latest.append(-np.inf)
        is_new = timestamps > self._latest[number]
        timestamps, values = timestamps[is_new], values[is_new]
        if not len(timestamps):
            return
        self._latest[number] = float(timestamps[-1])
        self._parts.append((np.full(len(timestamps), number), timestamps, values))
        self._n_buffered += len(timestamps)
        if self._n_buffered >= MAX_BUFFERED_SAMPLES:
            self._flush()

    def end_series(self) -> None:
        """State that the series written so far have no further samples, so that their labels need not be kept.

        The files are not smaller for it: the samples are written together with those of the next series.
        """
        if self._n_buffered >= MAX_BUFFERED_SAMPLES // 2 or len(self._latest) >= MAX_BUFFERED_SERIES:
            self._flush()
            self._labels, self._latest = {}, []

    def _flush(self) -> None:
        if not self._parts or self._metric is None:
            return
        series, timestamps, values = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts, self._n_buffered = [], 0
        texts = list(self._labels)
        place = np.argsort(np.argsort([_sort_key(text) for text in texts], kind="stable"))
        day = (timestamps // _SECONDS_PER_DAY).astype(np.int64)
        order = np.lexsort((timestamps, place[series], day))
        for samples in np.split(order, np.flatnonzero(np.diff(day[order])) + 1):
            name = str(np.datetime64(int(day[samples[0]]), "D"))
            path = self.folder / folder_of(self._metric, name) / f"{self._mark}-{self._number:05}.parquet"
            table = _table(texts, series[samples], timestamps[samples], values[samples])
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as file:
                    _write_table(table, file)
            except OSError as error:
                raise UsageError(f"cannot write {path}: {reason_of(error)}") from error
        self._number += 1


def write_recording(recording: Recording, writer: RecordingWriter) -> None:
    """Write all series of a recording."""
    for metric in recording.metrics.values():
        for series, labels in enumerate(metric.labels):
            span = metric.span(series)
            writer.write(metric.name, labels, metric.timestamps[span], metric.values[span])


def write_one_file(parts: Iterator[Recording], path: Path) -> None:
    """Write the recordings of groups of nodes to one file, in which each row group has one metric.

    Raises `UsageError` if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with whole_file(path) as file:
            writer: Any = None
            for part in parts:
                for metric in sorted(part.metrics.values(), key=lambda metric: metric.name):
                    if not metric.n_samples:
                        continue
                    texts = [labels_text(labels) for labels in metric.labels]
                    table = _table(texts, metric.series, metric.timestamps, metric.values)
                    names = pa.DictionaryArray.from_arrays(np.zeros(len(table), dtype=np.int32), [metric.name])
                    table = table.add_column(0, "metric", names)
                    if writer is None:
                        writer = pq.ParquetWriter(file, table.schema, compression="zstd")
                    writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            if writer is None:
                raise RecordingError("nothing to write: the recording has no samples")
            writer.close()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {reason_of(error)}") from error


def _sort_key(text: str) -> str:
    """Return the key by which the series of a file are sorted: series of one node follow each other."""
    labels = msgspec.json.decode(text)
    return f"{labels.get('instance', '')}\0{text}"


def _table(texts: list[str], series: IntArray, timestamps: FloatArray, values: FloatArray) -> Any:
    """Return an Arrow table of samples; `texts` are the labels of all series."""
    import pyarrow as pa

    used = np.unique(series)
    code = np.searchsorted(used, series).astype(np.int32)
    of_used = [texts[at] for at in used.tolist()]
    instances = [msgspec.json.decode(text).get("instance", "") for text in of_used]
    distinct = sorted(set(instances))
    instance_code = np.searchsorted(distinct, instances).astype(np.int32)[code]
    microseconds = np.round(timestamps * 1e6).astype(np.int64)
    return pa.table(
        {
            "instance": pa.DictionaryArray.from_arrays(instance_code, distinct),
            "labels": pa.DictionaryArray.from_arrays(code, of_used),
            "timestamp": pa.array(microseconds).cast(pa.timestamp("us", "UTC")),
            "value": pa.array(values),
        },
        metadata={VERSION_KEY: str(VERSION).encode()},
    )


def _write_table(table: Any, file: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd")
