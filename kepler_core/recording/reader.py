"""Read Prometheus range-query JSON into a `Recording`.

The format is `{metric: [{"metric": {labels}, "values": [[unix_seconds, "number"], ...]}, ...]}`. The module
`file_formats` lists further formats that are accepted.

A recording holds millions of samples. msgspec therefore checks the document first and leaves the `values`
of each series as raw bytes. The module `samples` then decodes them series by series.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.deadlines import TooLargeError
from kepler_core.errors import RecordingError, path_text
from kepler_core.gzip_files import MAGIC, GzipError, unpacked
from kepler_core.recording.columns import Metric, Recording, metric_from_columns
from kepler_core.recording.file_formats import Malformed, Series, nothing_usable, parse_document, shown_metric
from kepler_core.recording.samples import check_times, decode_export, decode_samples

MAX_BYTES = 4 * 2**30
"""Largest size of an unpacked recording. A larger recording is rejected, because it could fill the memory."""

_PIECE_BYTES = 2**16
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # test UTF-32 before UTF-16: its mark begins with UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, and the encodings of the text after them."""


def read_recording(
    source: str | Path | bytes | Mapping[str, Any],
    *,
    name: str | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Recording:
    """Read a recording from a file or bytes (plain or gzip), or from a decoded JSON object.

    `wanted` returns whether a metric's samples are needed. For all other metrics, only the name is kept.
    `name` is the recording's name in messages, by default the path of the file. Raises `RecordingError` if
    `source` is not a recording. Malformed series are left out and counted.
    """
    if isinstance(source, Mapping):
        description = "a dict"
        try:
            source = msgspec.json.encode(source)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RecordingError(f"not a recording: {error}", document=name or description) from error
    elif isinstance(source, bytes):
        description = "bytes"
    else:
        description = str(source)
    name = name or description
    raw = source if isinstance(source, bytes) else _read_file(Path(source))
    if raw[:2] == MAGIC:
        raw = _gunzip(raw, name)
    elif description.endswith(".gz"):
        raise RecordingError("not gzip, though its name ends in .gz", document=name)
    return _parse(_utf8(raw, name), name, wanted or (lambda metric: True))


def check_shape(raw: bytes | msgspec.Raw, name: str) -> None:
    """Raise `RecordingError` if a JSON document does not have the structure of a recording.

    The samples of its series are not checked. `name` is the document's name in the message.
    """
    parse_document(raw, name)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecordingError(error.strerror or str(error), document=str(path)) from error
    if len(content) > MAX_BYTES:
        raise RecordingError(f"larger than {MAX_BYTES} bytes", document=str(path))
    return content


def _gunzip(raw: bytes, name: str) -> bytes:
    pieces = (raw[start : start + _PIECE_BYTES] for start in range(0, len(raw), _PIECE_BYTES))
    try:
        return b"".join(unpacked(pieces, MAX_BYTES))
    except TooLargeError as error:
        raise RecordingError(error.message, document=name) from error
    except GzipError as error:
        raise RecordingError(f"damaged gzip file ({error.message})", document=name) from error


def _utf8(raw: bytes, name: str) -> bytes:
    """Return text as UTF-8 without a byte order mark. Text without such a mark is returned as it is."""
    for mark, encoding in _ENCODINGS:
        if raw.startswith(mark):
            if encoding == "utf-8":
                return raw[len(mark) :]
            try:
                return raw[len(mark) :].decode(encoding).encode()
            except UnicodeDecodeError as error:
                raise RecordingError(f"not JSON: damaged {encoding.upper()} ({error.reason})", document=name) from error
    return raw


def _parse(raw: bytes, name: str, wanted: Callable[[str], bool]) -> Recording:
    document = parse_document(raw, name)
    digest = hashlib.sha256(raw).hexdigest()
    metrics: dict[str, Metric] = {}
    empty: dict[str, int] = {}
    others: list[str] = []
    malformed = document.malformed
    for metric_name, series in document.series.items():
        if not wanted(metric_name):
            others.append(metric_name)
            continue
        columns = _columns(metric_name, series, document.in_parts, malformed)
        if columns is not None:
            metric, n_empty = columns
            metrics[metric_name] = _with_shared_arrays(metric, metrics.values())
            if n_empty:
                empty[metric_name] = n_empty
    if malformed.counts and not metrics and not others:
        raise nothing_usable(malformed, name)
    return Recording(
        name, metrics, digest, tuple(sorted(others)), empty, malformed.counts, malformed.examples, malformed.labels
    )


def _with_shared_arrays(metric: Metric, others: Iterable[Metric]) -> Metric:
    """Return a metric that shares equal arrays of timestamps and series with another metric.

    The metrics of an exporter usually have the same series and timestamps. These arrays take two thirds of the memory
    of the metrics.
    """
    for other in others:
        if np.array_equal(metric.timestamps, other.timestamps) and np.array_equal(metric.series, other.series):
            return attrs.evolve(metric, timestamps=other.timestamps, series=other.series)
    return metric


def _columns(
    metric_name: str, series: Sequence[Series], in_parts: bool, malformed: Malformed
) -> tuple[Metric, int] | None:
    """Decode the samples of a metric's series; return the metric and the number of its series without samples.

    Malformed series are left out and added to `malformed`; returns None if all series of the metric are
    malformed. With `in_parts`, series with equal labels are joined.
    """
    timestamps, values = np.empty(0), np.empty(0)
    labels: list[Mapping[str, str]] = []
    lengths: list[int] = []
    number_of: list[int] = []
    known: dict[frozenset[tuple[str, str]], int] = {}
    filled = 0
    for index, item in enumerate(series):
        try:
            flat = decode_export(item.values, item.timestamps) if _is_export(item) else _samples(item)
            check_times(flat[0::2])
        except RecordingError as error:
            place = path_text((shown_metric(metric_name), index, *error.path))
            malformed.add(metric_name, place, error.message, item.metric)
            continue
        number = known.setdefault(frozenset(item.metric.items()), len(labels)) if in_parts else len(labels)
        if number == len(labels):
            labels.append(item.metric)
        lengths.append(n := len(flat) // 2)
        number_of.append(number)
        if filled + n > len(values):
            length = filled + max(_likely_samples(series[index:], n), filled // 2)
            timestamps, values = _longer(timestamps, length), _longer(values, length)
        timestamps[filled : filled + n] = flat[0::2]
        values[filled : filled + n] = flat[1::2]
        filled += n
    if series and not labels:
        return None
    metric = metric_from_columns(
        metric_name,
        timestamps[:filled],
        values[:filled],
        np.repeat(np.array(number_of, dtype=np.int64), lengths),
        tuple(labels),
    )
    totals = np.bincount(np.array(number_of, dtype=np.int64), weights=lengths, minlength=len(labels))
    return metric, int(np.count_nonzero(totals == 0))


def _is_export(series: Series) -> bool:
    return bool(bytes(series.timestamps))


def _samples(series: Series) -> FloatArray:
    return decode_samples(series.values, strict=False)


def _longer(array: FloatArray, length: int) -> FloatArray:
    longer = np.empty(length)
    longer[: len(array)] = array
    return longer


def _likely_samples(series: Sequence[Series], n: int) -> int:
    """Return how many samples some series have if each of them has as many samples as the first, which has `n`.

    The result is not larger than the text of the series allows: a sample has at least two characters.
    """
    return max(n, min(n * len(series), sum(memoryview(item.values).nbytes for item in series) // 2))
