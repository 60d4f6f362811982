"""The fragments of a recording in Parquet: the row groups of its files, with the series that each of them contains.

Parquet files may come from untrusted sources. So their sizes are checked before anything is read, and only one row
group is read at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import RecordingError, missing_extra
from kepler_core.messages import quoted, reason_of
from kepler_core.parquet.layout import (
    COLUMNS,
    METRIC_COLUMN,
    SUFFIX,
    VERSION_KEY,
    check_marker,
    check_version,
    metric_of,
)
from kepler_core.parquet.locations import StoredFile, opened_file, stored_files

MAX_GROUP_ROWS = 2**24
"""Largest number of rows of a row group that is read. Kepler Core writes row groups of 2^17 rows."""
MAX_GROUP_BYTES = 2**30
"""Maximum size of a row group in bytes, after unpacking. Larger row groups are rejected."""
_REASON_CHARACTERS = 200
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@attrs.frozen
class Fragment:
    """The samples of one metric in a row group of a file."""

    path: str
    row_group: int
    metric: str
    in_column: bool
    """Whether the column `metric` states the metric of each row; otherwise the name of the file's folder states it."""
    n_rows: dict[str, int]
    """Number of rows of each series, by the text of its labels."""
    first: float = -math.inf
    """Lowest time of the row group in Unix seconds; minus infinity if the file does not state it."""
    last: float = math.inf
    """Highest time of the row group in Unix seconds; infinity if the file does not state it."""


def files_of(location: str) -> list[StoredFile]:
    """Return the files of a recording, sorted. Raises `RecordingError` if there are none."""
    is_folder, files = stored_files(location, SUFFIX)
    if is_folder:
        check_marker(location)
        if not files:
            raise RecordingError("a recording without any Parquet file", document=location)
    return files


def digest_of(files: list[StoredFile]) -> str:
    """Return a digest of a recording, calculated from the names, sizes and footers of its files.

    A footer has the number of rows, the size, and the lowest and highest value of each column in each row group.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0".encode())
        with opened_file(file.location) as content:
            content.seek(max(file.size - 8, 0))
            length = int.from_bytes(content.read(4), "little")
            content.seek(max(file.size - 8 - length, 0))
            digest.update(content.read(min(length, MAX_GROUP_BYTES)))
    return digest.hexdigest()


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a Parquet file of a recording. Raises `RecordingError` if it is damaged or has other columns."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"{path} (Parquet)") or error from error
    try:
        with opened_file(path) as content:
            metadata = pq.read_metadata(content)
            # Texts are read as dictionaries, which hold each text once. So a small file with many equal texts cannot
            # fill the memory.
            texts = [name for name in ("labels", METRIC_COLUMN) if name in metadata.schema.names]
            with pq.ParquetFile(content, metadata=metadata, read_dictionary=texts) as file:
                _check(file, path)
                yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = reason_of(error, _REASON_CHARACTERS)
        raise RecordingError(f"not a Parquet file of a recording: {reason}", document=path) from error


def _check(file: Any, path: str) -> None:
    from pyarrow import types

    schema = file.schema_arrow
    version = (schema.metadata or {}).get(VERSION_KEY)
    if version is not None:
        check_version(int(version) if version.isdigit() else -1, path)
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise RecordingError(f"the column {missing[0]} is missing; found {quoted(schema.names)}", document=path)
    for name in COLUMNS:
        of = schema.field(name).type
        of = of.value_type if types.is_dictionary(of) else of
        fits = {
            "labels": types.is_string(of) or types.is_large_string(of),
            "timestamp": types.is_timestamp(of),
            "value": types.is_floating(of) or types.is_integer(of),
        }
        if not fits[name]:
            raise RecordingError(f"the column {name} has the type {of}", document=path)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows > MAX_GROUP_ROWS or group.total_byte_size > MAX_GROUP_BYTES:
            raise RecordingError(
                f"row group {number} is too large; at most {MAX_GROUP_ROWS} rows and {MAX_GROUP_BYTES} bytes",
                document=path,
            )


def fragments_of(files: list[StoredFile], wanted: Callable[[str], bool], others: set[str]) -> Iterator[Fragment]:
    """Yield the fragments of all wanted metrics. Add the names of all other metrics to `others`."""
    for path in (file.location for file in files):
        by_folder = metric_of(path)
        if by_folder is not None and not wanted(by_folder):
            others.add(by_folder)
            continue
        with opened(path) as file:
            in_column = METRIC_COLUMN in file.schema_arrow.names
            if not in_column and by_folder is None:
                raise RecordingError(
                    "the metric is not known: neither a column metric nor a folder metric=… names it", document=path
                )
            for number in range(file.metadata.num_row_groups):
                columns = ["labels", METRIC_COLUMN] if in_column else ["labels"]
                table = file.read_row_group(number, columns=columns)
                words, codes = _words(table.column("labels"), path)
                first, last = _time_span(file, number)
                if not in_column:
                    counts = np.bincount(codes, minlength=len(words)).tolist()
                    yield Fragment(path, number, str(by_folder), False, _counted(words, counts), first, last)
                    continue
                metrics, metric_codes = _words(table.column(METRIC_COLUMN), path)
                for code, metric in enumerate(metrics):
                    if not wanted(metric):
                        others.add(metric)
                        continue
                    counts = np.bincount(codes[metric_codes == code], minlength=len(words)).tolist()
                    yield Fragment(path, number, metric, True, _counted(words, counts), first, last)


def read_fragments(
    path: str, fragments: list[Fragment]
) -> Iterator[tuple[Fragment, list[str], IntArray, FloatArray, FloatArray]]:
    """Yield the samples of each fragment (the samples of one metric in a row group) of one file.

    Each result has the fragment, the texts of its labels, and three arrays of shape (rows,): the index of each row's
    text, its time in Unix seconds and its value.
    """
    with opened(path) as file:
        for fragment in fragments:
            columns = [*COLUMNS, METRIC_COLUMN] if fragment.in_column else list(COLUMNS)
            table = file.read_row_group(fragment.row_group, columns=columns)
            words, codes = _words(table.column("labels"), path)
            times, values = _times(table.column("timestamp")), _floats(table.column("value"))
            if fragment.in_column:
                metrics, metric_codes = _words(table.column(METRIC_COLUMN), path)
                rows = metric_codes == metrics.index(fragment.metric)
                codes, times, values = codes[rows], times[rows], values[rows]
            yield fragment, words, codes, times, values


def _time_span(file: Any, number: int) -> tuple[float, float]:
    """Return the lowest and the highest time of a row group in Unix seconds, as its statistics state them."""
    group = file.metadata.row_group(number)
    of_columns = (group.column(at) for at in range(group.num_columns))
    statistics = next((column.statistics for column in of_columns if column.path_in_schema == "timestamp"), None)
    if statistics is None or not statistics.has_min_max or statistics.physical_type != "INT64":
        return -math.inf, math.inf
    per_second = _UNITS_PER_SECOND[file.schema_arrow.field("timestamp").type.unit]
    return statistics.min_raw / per_second, statistics.max_raw / per_second


def labels_of(text: str, path: str) -> dict[str, str]:
    """Return the labels in a text of the column `labels`.

    Raises `RecordingError` if the text is not a JSON object of strings.
    """
    try:
        return decode_json(text.encode(), dict[str, str])
    except DocumentError as error:
        raise RecordingError(f"labels {quoted(text)}: {error}", document=path) from error


def _counted(words: list[str], counts: list[int]) -> dict[str, int]:
    return {word: count for word, count in zip(words, counts, strict=True) if count}


def _words(column: Any, path: str) -> tuple[list[str], IntArray]:
    """Return the distinct texts of a column, and the index of each row's text."""
    import pyarrow as pa

    if column.null_count:
        raise RecordingError("a row without labels or without a metric", document=path)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    words = [str(word) for word in column.dictionary.to_pylist()]
    return words, column.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _times(column: Any) -> FloatArray:
    import pyarrow as pa

    microseconds = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    return np.asarray(_floats(microseconds)) / 1e6


def _floats(column: Any) -> FloatArray:
    import pyarrow as pa

    values: FloatArray = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    return values
