"""Read Prometheus range-query JSON into a `Recording`.

The format is `{metric: [{"metric": {labels}, "values": [[unix_seconds, "number"], ...]}, ...]}`. A single
response of Prometheus' HTTP API (`{"status": ..., "data": {"result": [...]}}`) is accepted too.

A recording holds millions of samples. msgspec therefore checks the document first and leaves the `values`
of each series as raw bytes. A series of plain decimal numbers is then decoded in one call. Any other
series is decoded sample by sample, to accept NaN and infinity and to name the first wrong value.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import RecordingError
from kepler_core.messages import printable, quoted
from kepler_core.recording.columns import METRIC_NAME_CHARACTERS, Metric, Recording, metric_from_columns

MAX_BYTES = 4 * 2**30
"""Largest recording, unpacked. A larger one is rejected, because it could fill the memory."""

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 2**22
_JSON_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

LATEST_UNIX_SECONDS = 1e11
"""A time in the year 5138. A higher timestamp must be in another unit than seconds."""

SHAPE = '{"metric_name": [{"metric": {"label": "value"}, "values": [[unix_seconds, "number"], ...]}]}'


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: msgspec.Raw


_decode_document = msgspec.json.Decoder(dict[str, list[_Series]])
_decode_numbers = msgspec.json.Decoder(list[tuple[float, float]], strict=False)
_decode_pairs = msgspec.json.Decoder(list[tuple[str | float, str | float | None]])


def read_recording(
    source: str | Path | bytes | Mapping[str, Any],
    *,
    name: str | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Recording:
    """Read a recording from a file or bytes (plain or gzip), or from a decoded JSON object.

    `wanted` returns whether the samples of a metric are needed; of other metrics only the name is kept.
    `name` is the recording's name in messages, by default the file's. Raises `RecordingError` for
    anything that is not a recording.
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
    if raw[:2] == _GZIP_MAGIC:
        raw = _gunzip(raw, name)
    elif description.endswith(".gz"):
        raise RecordingError("not gzip, though its name ends in .gz", document=name)
    return _parse(raw, name, wanted or (lambda metric: True))


def check_shape(raw: bytes | msgspec.Raw, name: str) -> None:
    """Raise `RecordingError` if JSON does not have the shape of a recording. Samples are not checked."""
    _document(raw, name)


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
    unpacked = []
    size = 0
    try:
        with gzip.open(io.BytesIO(raw), "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                size += len(block)
                if size > MAX_BYTES:
                    raise RecordingError(f"unpacks to more than {MAX_BYTES} bytes", document=name)
                unpacked.append(block)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"damaged gzip file ({error})", document=name) from error
    return b"".join(unpacked)


def _parse(raw: bytes, name: str, wanted: Callable[[str], bool]) -> Recording:
    document = _document(raw, name)
    digest = hashlib.sha256(raw).hexdigest()
    metrics: dict[str, Metric] = {}
    empty: dict[str, int] = {}
    others: list[str] = []
    for metric_name, series in document.items():
        if not wanted(metric_name):
            others.append(metric_name)
            continue
        metric, n_empty = _columns(metric_name, series, name)
        if n_empty:
            empty[metric_name] = n_empty
        metrics[metric_name] = metric
    return Recording(name, metrics, digest, tuple(sorted(others)), empty)


def _document(raw: bytes | msgspec.Raw, name: str) -> dict[str, list[_Series]]:
    try:
        try:
            return _decode_document.decode(raw)
        except msgspec.ValidationError as error:
            answer = _api_answer(raw)
            if answer is not None:
                return answer
            problem = f"JSON, but not a recording: {_first_problem(raw, error)}; expected {SHAPE}"
            raise RecordingError(problem, document=name) from error
    except _JSON_ERRORS as error:
        raise RecordingError(f"not JSON: {error}", document=name) from error


def _first_problem(raw: bytes | msgspec.Raw, error: msgspec.ValidationError) -> str:
    """Return an error's text with the metric's name, because msgspec's paths have no keys.

    msgspec's errors have no fields, so that the path is cut out of the text (seen with msgspec 0.19 to 0.22).
    """
    try:
        parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return str(error)
    for metric, part in parts.items():
        try:
            msgspec.json.decode(part, type=list[_Series])
        except msgspec.ValidationError as problem:
            text = f"{_shown(metric)}: {problem}"
            return text.replace(" - at `$", " at `").replace("`.", "`")
    return str(error)


def _shown(metric: str) -> str:
    return printable(metric, METRIC_NAME_CHARACTERS)


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Data


def _api_answer(raw: bytes | msgspec.Raw) -> dict[str, list[_Series]] | None:
    """Return the series of a response of Prometheus' HTTP API by metric name; None for other JSON."""
    try:
        answer = msgspec.json.decode(raw, type=_Answer)
    except msgspec.ValidationError:
        return None
    by_name: dict[str, list[_Series]] = {}
    for series in answer.data.result:
        by_name.setdefault(series.metric.get("__name__", ""), []).append(series)
    return by_name


def _columns(metric_name: str, series: Sequence[_Series], name: str) -> tuple[Metric, int]:
    """Return a metric, and the number of its series without samples."""
    # an upper bound of the number of samples: each is in brackets, but a string may hold brackets too
    n_brackets = sum(max(bytes(item.values).count(b"[") - 1, 0) for item in series)
    timestamps, values = np.empty(n_brackets), np.empty(n_brackets)
    lengths = np.zeros(len(series), dtype=np.int64)
    filled = 0
    for index, item in enumerate(series):
        try:
            pairs = _decode_numbers.decode(item.values)
        except (msgspec.ValidationError, UnicodeDecodeError):
            flat = _decode_each(bytes(item.values), metric_name, index, name)
        else:
            flat = np.fromiter(itertools.chain.from_iterable(pairs), np.float64, 2 * len(pairs))
        lengths[index] = n = len(flat) // 2
        timestamps[filled : filled + n] = flat[0::2]
        values[filled : filled + n] = flat[1::2]
        filled += n
    _check_times(timestamps[:filled], metric_name, name)
    metric = metric_from_columns(
        metric_name,
        timestamps[:filled],
        values[:filled],
        np.repeat(np.arange(len(series)), lengths),
        tuple(item.metric for item in series),
    )
    return metric, int(np.count_nonzero(lengths == 0))


def _check_times(timestamps: FloatArray, metric: str, name: str) -> None:
    finite = timestamps[np.isfinite(timestamps)]
    if len(finite) and not (finite.min() >= 0 and finite.max() < LATEST_UNIX_SECONDS):
        wrong = finite.max() if finite.max() >= LATEST_UNIX_SECONDS else finite.min()
        hint = " (milliseconds?)" if wrong >= LATEST_UNIX_SECONDS else ""
        problem = f"timestamp {wrong:.15g} is not in Unix seconds{hint}"
        raise RecordingError(problem, path=(_shown(metric),), document=name)


def _decode_each(raw: bytes, metric: str, index: int, name: str) -> FloatArray:
    """Return the timestamps and values of a series in turn, shape (2 · samples,).

    For series that msgspec cannot decode as plain numbers: their values may be NaN, infinite or wrong.
    """
    path = (_shown(metric), index, "values")
    try:
        pairs = _decode_pairs.decode(raw)
    except msgspec.ValidationError as error:
        problem = f'{error}; expected [[unix_seconds, "number"], ...]'
        raise RecordingError(problem, path=path, document=name) from error
    except UnicodeDecodeError as error:
        raise RecordingError(f"not JSON: {error}", path=path, document=name) from error
    flat = np.empty(2 * len(pairs))
    for at, pair in enumerate(pairs):
        try:
            flat[2 * at : 2 * at + 2] = _number(pair[0]), _number(pair[1])
        except ValueError as error:
            raise RecordingError(str(error), path=(*path, at), document=name) from None
    return flat


def _number(value: str | float | None) -> float:
    """Return a timestamp or value as a number. Raises `ValueError` for other text."""
    if value is None:  # JSON encoders of other languages write NaN as null
        return float("nan")
    if isinstance(value, str):
        try:
            if "_" in value:
                raise ValueError
            return float(value)
        except ValueError:
            raise ValueError(f"{quoted(value, 40)} is not a number") from None
    return value
