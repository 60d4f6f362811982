"""The JSON schema of the answers of Prometheus' HTTP API, and their decoding.

All bytes that a server sends are decoded here. An answer that does not fit the schema raises `DocumentError`,
so no part of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Annotated

import msgspec
import numpy as np

from kepler_core.documents import DocumentError, Text, decode_json
from kepler_core.errors import RecordingError
from kepler_core.messages import quoted, shortened
from kepler_core.recording.samples import LATEST_UNIX_SECONDS, decode_samples

MAX_METRICS = 1_000_000

_KIND_CHARACTERS = 20


class Answer(msgspec.Struct):
    """The members that each answer of the API has, for every kind of query."""

    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    errorType: str = ""
    error: str = ""
    warnings: list[str] | None = None
    isPartial: bool | None = None
    """Sent by VictoriaMetrics only: whether one of its storage nodes did not answer, so that series may be missing."""


class Series(msgspec.Struct):
    """One series in the answer to a query: its labels and its samples."""

    metric: dict[Text, Text]
    values: msgspec.Raw = msgspec.Raw(b"")
    """The samples as JSON, `[[unix_seconds, "number"], …]`; empty bytes if the answer lacks the key."""
    histograms: msgspec.Raw = msgspec.Raw(b"")
    """Samples that are native histograms, as JSON. Kepler Core does not use them."""


class _Data(msgspec.Struct):
    resultType: str
    result: msgspec.Raw


class _Instant(msgspec.Struct):
    value: tuple[float, str]


_answer = msgspec.json.Decoder(Answer)
_data = msgspec.json.Decoder(_Data)
_names = msgspec.json.Decoder(Annotated[list[Text], msgspec.Meta(max_length=MAX_METRICS)] | None)
_scalar = msgspec.json.Decoder(tuple[float, str])
_vector = msgspec.json.Decoder(tuple[_Instant])
_matrix = msgspec.json.Decoder(list[Series] | None)


def decode_answer(body: bytes) -> Answer:
    """Decode the body of an answer, except for its member `data`, which stays JSON."""
    return decode_json(body, _answer)


def decode_names(data: bytes) -> list[str]:
    """Decode the `data` of an answer that lists metric names."""
    return decode_json(data, _names) or []


def decode_time(data: bytes) -> float:
    """Decode the `data` of the answer to the query `time()`, and return the time in Unix seconds.

    Prometheus returns a scalar, VictoriaMetrics a vector of one sample.
    """
    kind, result = _result(data, ("scalar", "vector"))
    text = decode_json(result, _scalar)[1] if kind == "scalar" else decode_json(result, _vector)[0].value[1]
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not 0 <= time < LATEST_UNIX_SECONDS:
        raise DocumentError(f"{shortened(repr(text), _KIND_CHARACTERS)} is not a time in Unix seconds")
    return time


def matrix_result(data: bytes) -> bytes:
    """Return the list of series in the `data` of an answer, as JSON."""
    result = _result(data, ("matrix",))[1]
    return b"[]" if result == b"null" else result


def decode_series(result: bytes) -> list[Series]:
    """Decode a JSON list of series; the samples of each series stay JSON."""
    return decode_json(result, _matrix) or []


def check_matrix(
    result: bytes, start: float, end: float, label: str = "", values: Collection[str] | None = None
) -> None:
    """Raise `DocumentError` if a JSON list of series is no valid answer to a query from `start` to `end`.

    `start` and `end` are in Unix seconds. Each series must occur once. Each sample must have a timestamp
    from `start` to `end`, and a value that is a number, NaN or infinity. The value of `label` must be one of `values`,
    if they are given; a series without the label has the value "".
    """
    labels = set()
    for index, series in enumerate(decode_series(result)):
        key = frozenset(series.metric.items())
        if key in labels:
            raise DocumentError(f"series {index} occurs twice")
        labels.add(key)
        if values is not None and series.metric.get(label, "") not in values:
            raise DocumentError(f"series {index}: the {label} {quoted(series.metric.get(label, ''))} was not queried")
        if not bytes(series.values):
            if not bytes(series.histograms):
                raise DocumentError(f"series {index} has no values")
            continue
        try:
            timestamps = decode_samples(series.values)[0::2]
        except RecordingError as error:
            at = f", sample {error.path[1]}" if len(error.path) > 1 else ""
            raise DocumentError(f"series {index}{at}: {error.message}") from error
        outside = ~((timestamps >= start) & (timestamps <= end))  # a NaN timestamp counts as outside, too
        if outside.any():
            wrong = float(timestamps[np.argmax(outside)])
            raise DocumentError(f"series {index}: the timestamp {wrong:.15g} was not queried")


def _result(data: bytes, kinds: Sequence[str]) -> tuple[str, bytes]:
    """Return the `resultType` in the `data` of an answer, and its result as JSON.

    Raises `DocumentError` if the type is not among `kinds`.
    """
    content = decode_json(data, _data)
    if content.resultType not in kinds:
        kind = shortened(content.resultType, _KIND_CHARACTERS) or "nothing"
        raise DocumentError(f"the result is a {kind}, not a {kinds[0]}")
    return content.resultType, bytes(content.result)
