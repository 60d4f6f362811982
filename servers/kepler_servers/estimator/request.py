"""Requests for watts as clients send them, checked.

A row whose values cannot be right (not a number, NaN, infinite, negative, above 1e16 per second, too
few or too many of them) is answered with 0 W and counted; the other rows are answered as they should
be. Everything else that is wrong fails the request.
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
from kepler_core.errors import RequestError
from kepler_core.selection.request import DEFAULT_SOURCE
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.model_request import MAX_METRICS, MAX_TEXT, checked_output_type

MOST_PER_SECOND = 1e16
"""A hundred times the cycles of ten thousand cores: no counter of one machine rises faster."""
MAX_ROWS = 20_000
MAX_LISTS = MAX_ROWS + 1000
"""Of a request that has to be read leniently: each is a Python object then."""
MAX_CHARACTERS = 10_000
"""Of all names of metrics together: they are kept as long as their model is."""

_KEPT_KEYS = 64


@attrs.frozen(cache_hash=True)
class ModelKey:
    """What decides which model answers a request."""

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
    """Shape (rows, metrics), finite and ≥ 0; rows that were not are all 0."""
    invalid: IndexArray
    """Rows that could not be right."""


@attrs.frozen
class Command:
    """A request that is not for watts."""

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


_MOST_BITS = np.float64(MOST_PER_SECOND).view(np.uint64)
_NONE = np.empty(0, dtype=np.intp)
_IN_NUMBERS = b"0123456789+-.eE \t\r\n"

_decoder = msgspec.json.Decoder(_Body)


class UnanswerableError(Exception):
    """A request that cannot be answered; the reply says why and is as safe as it can be.

    `rows` and `output_type` are what could be made out of the request.
    """

    def __init__(self, message: str, output_type: str | None, rows: int) -> None:
        super().__init__(message)
        self.output_type = output_type
        self.rows = rows


def read_watts_request(body: bytes | bytearray | memoryview) -> WattsRequest | Command:
    """A request from its JSON object; `UnanswerableError`."""
    found = read_whole(body)
    return found if found is not None else _read_leniently(bytes(body))


def read_whole(body: bytes | bytearray | memoryview) -> WattsRequest | Command | None:
    """The same for bytes that may not be one object or not strictly right: None for those."""
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.command is not None:
        return Command(found.command)
    metrics, text = tuple(found.metrics or ()), bytes(found.values)
    rows = _rows(text, len(metrics))
    if rows is None:
        return None
    key = _checked(found, metrics, rows)
    values = _matrix(text, rows, len(metrics))
    return None if values is None else _request(key, metrics, values)


def _rows(text: bytes, width: int) -> int | None:
    """How many rows of so many numbers a JSON text may hold; None where it certainly holds others.

    Commas and brackets are compared with those that must be there: no Python object for each row.
    """
    skeleton = text.translate(None, _IN_NUMBERS)
    rows = skeleton.count(b"]") - 1
    row = b"[" + b"," * (width - 1) + b"],"
    return rows if width and rows >= 0 and skeleton == b"[" + (row * rows)[:-1] + b"]" else None


def _matrix(text: bytes, rows: int, width: int) -> FloatArray | None:
    """These rows; None where there is anything between the commas that is not one number."""
    try:
        # by far the quickest way from a text to an array
        packed = struct.pack(f"{rows * width}d", *orjson.loads(b"[" + text.translate(None, b"[]") + b"]"))
    except (orjson.JSONDecodeError, struct.error):
        return None
    return np.frombuffer(packed, dtype=np.float64).reshape(rows, width)


def _checked(found: _Head, metrics: tuple[str, ...], rows: int) -> ModelKey:
    if rows > MAX_ROWS:
        raise UnanswerableError(f"values: {rows} rows, at most {MAX_ROWS}", found.output_type, rows)
    system = len(found.system_features or ())
    try:
        return _key(found.output_type, found.source, found.trainer_name, found.filter, metrics, system)
    except RequestError as error:
        raise UnanswerableError(str(error), found.output_type, rows) from None


@lru_cache(maxsize=_KEPT_KEYS)
def _key(
    output_type: str | None,
    source: str | None,
    trainer: str | None,
    filter: str | None,
    metrics: tuple[str, ...],
    system_features: int,
) -> ModelKey:
    """What a client asks for does not change while it runs, only the numbers do. `RequestError`."""
    if output_type is None:
        raise RequestError("output_type", "missing")
    known = checked_output_type(output_type)
    if len(metrics) + system_features > MAX_METRICS:
        raise RequestError("metrics", f"more than {MAX_METRICS}")
    for name, text in {"source": source, "trainer_name": trainer, "filter": filter}.items():
        if text is not None and len(text) > MAX_TEXT:
            raise RequestError(name, f"more than {MAX_TEXT} characters")
    if any(len(name) > MAX_TEXT for name in metrics):
        raise RequestError("metrics", f"a name of more than {MAX_TEXT} characters")
    if sum(map(len, metrics)) > MAX_CHARACTERS:
        raise RequestError("metrics", f"more than {MAX_CHARACTERS} characters in all")
    if len(set(metrics)) != len(metrics):
        twice = next(name for name in metrics if metrics.count(name) > 1)
        raise RequestError("metrics", f"{twice[:60]!r} is given twice")
    return ModelKey(known, source or DEFAULT_SOURCE, trainer or "", filter or "", frozenset(metrics))


def _request(key: ModelKey, metrics: tuple[str, ...], values: FloatArray) -> WattsRequest:
    """Rows that cannot be right are all 0 from here on."""
    # as bits, negative numbers, NaN and infinity are larger than all that can be right: one look for all
    if not values.size or values.view(np.uint64).max() <= _MOST_BITS:
        return WattsRequest(key, metrics, values, _NONE)
    invalid = np.flatnonzero(~((values >= 0) & (values <= MOST_PER_SECOND)).all(axis=1))
    values = values.copy()
    values[invalid] = 0.0
    return WattsRequest(key, metrics, values, invalid)


def _row(row: Any, width: int) -> list[float]:
    if isinstance(row, list) and len(row) == width and all(_is_number(value) for value in row):
        try:
            return [float(value) for value in row]
        except OverflowError:  # a whole number of hundreds of digits
            pass
    return [math.nan] * width


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_leniently(body: bytes) -> WattsRequest | Command:
    """For what the strict decoder refuses: Python's clients write NaN, and one wrong value in one row
    must not cost the others their answer."""
    if body.count(b"[") > MAX_LISTS:
        raise UnanswerableError(f"more than {MAX_LISTS} lists: at most {MAX_ROWS} rows", None, 0)
    try:
        document = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        # includes bytes that are not UTF-8
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise UnanswerableError(f"not a JSON object: {reason}", None, 0) from None
    if not isinstance(document, dict):
        raise UnanswerableError("not a JSON object", None, 0)
    rows = document.pop("values", None)
    count = len(rows) if isinstance(rows, list) else 0
    kind = document.get("output_type")
    kind = kind if kind in OUTPUT_TYPES else None
    try:
        msgspec.json.encode(document)
        found = msgspec.convert(document, _Head)
    except UnicodeEncodeError:
        raise UnanswerableError("a text with half a character (a lone surrogate)", kind, count) from None
    except (msgspec.ValidationError, RecursionError, TypeError) as error:
        raise UnanswerableError(" ".join(str(error).split())[:200], kind, count) from None
    if found.command is not None:
        return Command(found.command)
    if rows is not None and not isinstance(rows, list):
        raise UnanswerableError("values: not a list of rows", kind, 0)
    metrics = tuple(found.metrics or ())
    key = _checked(found, metrics, count)
    for name, given in (("metrics", found.metrics), ("values", rows)):
        if given is None:
            raise UnanswerableError(f"{name}: missing", kind, count)
    values = np.array([_row(row, len(metrics)) for row in rows or ()], dtype=np.float64).reshape(count, len(metrics))
    return _request(key, metrics, values)


def _integer(digits: str) -> int | float:
    # Python refuses to convert thousands of digits, and would be slow; they are infinite for us
    return int(digits) if len(digits) < 300 else math.inf
