"""Requests for watts: decoding, checking, and the key of the model that answers.

A row with impossible values (not a number, NaN, infinite, negative, above 1e16 per second, too few or
too many values) is answered with 0 W and counted; the other rows are answered normally. Any other
mistake fails the whole request.
"""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from typing import Any

import attrs
import msgspec
import numpy as np
import orjson

from kepler_core.arrays import FloatArray, IndexArray
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import RequestError
from kepler_core.messages import printable, quoted
from kepler_core.selection.request import DEFAULT_SOURCE
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.model_request import MAX_METRICS, MAX_TEXT, checked_output_type

MAX_PER_SECOND = 1e16
"""A hundred times the cycles of ten thousand cores: no counter of one machine rises faster."""
MAX_ROWS = 20_000
MAX_LISTS = MAX_ROWS + 1000
"""Lists in a request that needs the lenient decoder, which makes a Python object of each."""
MAX_NAMES_CHARACTERS = 10_000
"""Characters of all metric names together. The model cache keeps the names as long as the model."""

_CACHED_KEYS = 64


@attrs.frozen(cache_hash=True)
class ModelKey:
    """The parts of a request that decide which model answers it."""

    output_type: OutputType
    source: str
    trainer: str
    filter: str
    metrics: frozenset[str]


@attrs.frozen(eq=False)
class WattsRequest:
    """A request for the watts of some rows."""

    key: ModelKey
    metrics: tuple[str, ...]
    """Names of the columns."""
    values: FloatArray
    """Shape (rows, metrics), finite and ≥ 0. Invalid rows are all 0."""
    invalid: IndexArray
    """Indices of the rows with impossible values."""


@attrs.frozen
class Command:
    """A request for something other than watts, e.g. the status."""

    name: str


class _Head(msgspec.Struct):
    metrics: list[str] | None = None
    output_type: str | None = None
    source: str | None = None
    trainer_name: str | None = None
    filter: str | None = None
    system_features: list[str] | None = None
    system_values: list[str] | None = None
    command: str | None = None


class _Body(_Head):
    values: msgspec.Raw = msgspec.Raw(b"")


_MAX_PER_SECOND_BITS = np.float64(MAX_PER_SECOND).view(np.uint64)
_NO_ROWS = np.empty(0, dtype=np.intp)
_NUMBER_BYTES = b"0123456789+-.eE \t\r\n"

_decoder = msgspec.json.Decoder(_Body)


class InvalidRequestError(Exception):
    """A request that cannot be answered.

    `output_type` and `rows` hold what could be read of the request: the reply to a `DynPower` request
    needs a value per row even if the request is wrong.
    """

    def __init__(self, message: str, output_type: str | None, rows: int) -> None:
        super().__init__(message)
        self.output_type = output_type
        self.rows = rows


def read_watts_request(body: bytes | bytearray | memoryview) -> WattsRequest | Command:
    """Decode a request from its JSON object. Raises `InvalidRequestError`."""
    request = decode_strictly(body)
    return request if request is not None else _decode_leniently(bytes(body))


def decode_strictly(body: bytes | bytearray | memoryview) -> WattsRequest | Command | None:
    """Decode a request quickly. Return None for bytes that are not one JSON object of the right types."""
    try:
        document = decode_json(body, _decoder)
    except DocumentError:
        return None
    if document.command is not None:
        return Command(document.command)
    metrics, text = tuple(document.metrics or ()), bytes(document.values)
    rows = _count_rows(text, len(metrics))
    if rows is None:
        return None
    key = _checked_key(document, metrics, rows)
    values = _matrix(text, rows, len(metrics))
    return None if values is None else _watts_request(key, metrics, values)


def _count_rows(text: bytes, width: int) -> int | None:
    """Count the rows in the JSON text of a list of lists with `width` numbers each.

    Return None if the text is anything else. The function compares the commas and brackets of the text
    with the expected ones, which needs no Python object per row.
    """
    skeleton = text.translate(None, _NUMBER_BYTES)
    rows = skeleton.count(b"]") - 1
    row = b"[" + b"," * (width - 1) + b"],"
    return rows if width and rows >= 0 and skeleton == b"[" + (row * rows)[:-1] + b"]" else None


def _matrix(text: bytes, rows: int, width: int) -> FloatArray | None:
    """Return the numbers of a text that `_count_rows` accepted; None if one of them is malformed."""
    try:
        # By far the fastest way from a text to an array.
        packed = struct.pack(f"{rows * width}d", *orjson.loads(b"[" + text.translate(None, b"[]") + b"]"))
    except (orjson.JSONDecodeError, struct.error):
        return None
    return np.frombuffer(packed, dtype=np.float64).reshape(rows, width)


def _checked_key(head: _Head, metrics: tuple[str, ...], rows: int) -> ModelKey:
    if rows > MAX_ROWS:
        raise InvalidRequestError(f"values: {rows} rows, at most {MAX_ROWS}", head.output_type, rows)
    system_features = len(head.system_features or ())
    try:
        return _model_key(head.output_type, head.source, head.trainer_name, head.filter, metrics, system_features)
    except RequestError as error:
        raise InvalidRequestError(str(error), head.output_type, rows) from None


@lru_cache(maxsize=_CACHED_KEYS)
def _model_key(
    output_type: str | None,
    source: str | None,
    trainer: str | None,
    filter: str | None,
    metrics: tuple[str, ...],
    system_features: int,
) -> ModelKey:
    """Check all of a request but its values. Raises `RequestError`.

    The result is cached: a client repeats these parts in each request and changes only the values.
    """
    if output_type is None:
        raise RequestError("output_type", "missing")
    checked_type = checked_output_type(output_type)
    if len(metrics) + system_features > MAX_METRICS:
        raise RequestError("metrics", f"more than {MAX_METRICS}")
    for name, text in {"source": source, "trainer_name": trainer, "filter": filter}.items():
        if text is not None and len(text) > MAX_TEXT:
            raise RequestError(name, f"more than {MAX_TEXT} characters")
    if any(len(name) > MAX_TEXT for name in metrics):
        raise RequestError("metrics", f"a name of more than {MAX_TEXT} characters")
    if sum(map(len, metrics)) > MAX_NAMES_CHARACTERS:
        raise RequestError("metrics", f"more than {MAX_NAMES_CHARACTERS} characters in all")
    if len(set(metrics)) != len(metrics):
        duplicate = next(name for name in metrics if metrics.count(name) > 1)
        raise RequestError("metrics", f"{quoted(duplicate)} is given twice")
    return ModelKey(checked_type, source or DEFAULT_SOURCE, trainer or "", filter or "", frozenset(metrics))


def _watts_request(key: ModelKey, metrics: tuple[str, ...], values: FloatArray) -> WattsRequest:
    """Find the invalid rows and set them to 0."""
    # Read as unsigned integers, the bits of negative numbers, NaN and infinity are larger than those of
    # any valid number. So one maximum finds them all.
    if not values.size or values.view(np.uint64).max() <= _MAX_PER_SECOND_BITS:
        return WattsRequest(key, metrics, values, _NO_ROWS)
    invalid = np.flatnonzero(~((values >= 0) & (values <= MAX_PER_SECOND)).all(axis=1))
    values = values.copy()
    values[invalid] = 0.0
    return WattsRequest(key, metrics, values, invalid)


def _decode_leniently(body: bytes) -> WattsRequest | Command:
    """Decode a request that the strict decoder refuses.

    Python's clients write NaN, and one wrong value in one row must not fail the other rows.
    """
    if body.count(b"[") > MAX_LISTS:
        raise InvalidRequestError(f"more than {MAX_LISTS} lists: at most {MAX_ROWS} rows", None, 0)
    try:
        document = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else printable(str(error), 200)
        raise InvalidRequestError(f"not a JSON object: {reason}", None, 0) from None
    if not isinstance(document, dict):
        raise InvalidRequestError("not a JSON object", None, 0)
    rows = document.pop("values", None)
    count = len(rows) if isinstance(rows, list) else 0
    output_type = document.get("output_type")
    output_type = output_type if output_type in OUTPUT_TYPES else None
    try:
        msgspec.json.encode(document)
        head = msgspec.convert(document, _Head)
    except UnicodeEncodeError:
        raise InvalidRequestError("a text with half a character (a lone surrogate)", output_type, count) from None
    except (msgspec.ValidationError, RecursionError, TypeError) as error:
        raise InvalidRequestError(printable(str(error), 200), output_type, count) from None
    if head.command is not None:
        return Command(head.command)
    if rows is not None and not isinstance(rows, list):
        raise InvalidRequestError("values: not a list of rows", output_type, 0)
    metrics = tuple(head.metrics or ())
    key = _checked_key(head, metrics, count)
    for name, value in (("metrics", head.metrics), ("values", rows)):
        if value is None:
            raise InvalidRequestError(f"{name}: missing", output_type, count)
    values = np.array([_row(row, len(metrics)) for row in rows or ()], dtype=np.float64).reshape(count, len(metrics))
    return _watts_request(key, metrics, values)


def _row(row: Any, width: int) -> list[float]:
    """Return a row as floats; all NaN if it does not consist of `width` numbers."""
    if isinstance(row, list) and len(row) == width and all(_is_number(value) for value in row):
        try:
            return [float(value) for value in row]
        except OverflowError:  # an integer with hundreds of digits
            pass
    return [math.nan] * width


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(digits: str) -> int | float:
    # Python refuses to convert integers with thousands of digits, and would be slow. Here they count as infinite.
    return int(digits) if len(digits) < 300 else math.inf
