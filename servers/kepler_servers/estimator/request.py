"""Decode and check requests for watts, and make the model key of a request.

The estimator answers a row with impossible values with 0 W, and counts it. Such a row has too few or too many
values, or a value that is not a number, NaN, infinite, negative, or above 1e16 per second. The other rows of
the request are answered normally. Any other mistake in a request makes the whole request fail.
"""

from __future__ import annotations

import json
import math
import struct
import sys
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
from kepler_core.vocabulary import OUTPUT_TYPES, WORKLOAD_FEATURES, OutputType, dead_features
from kepler_servers.model_request import MAX_METRICS, MAX_TEXT, checked_output_type

MAX_PER_SECOND = 1e16
"""Highest possible value of a feature, per second. No counter of one machine rises faster: this value is a
hundred times the CPU cycles per second of ten thousand cores."""
MAX_ROWS = 20_000
MAX_LISTS = MAX_ROWS + 1000
"""Maximum number of JSON lists in a request, for the lenient decoder: it makes a Python object of each list."""
MAX_NAMES_CHARACTERS = 10_000
"""Maximum length of all metric names of a request together. The names stay in the model cache as part of the key."""

_CACHED_KEYS = 64
_MAX_CACHED_NAMES = 64
_MAX_CACHED_CHARACTERS = 2000
"""Maximum number of characters in a model key that `_cached_model_key` caches.

Clients choose the texts in a key, and could fill the memory with them. Therefore long keys, and keys with more than
`_MAX_CACHED_NAMES` texts, are not cached.
"""


@attrs.frozen(cache_hash=True)
class ModelKey:
    """The parts of a request that decide which model answers the request."""

    output_type: OutputType
    source: str
    trainer: str
    filter: str
    metrics: frozenset[str]
    size: int = attrs.field(init=False, eq=False)
    """Approximate number of bytes that the key takes in memory."""

    @size.default
    def _size_of_texts(self) -> int:
        texts = (self.output_type, self.source, self.trainer, self.filter, *self.metrics)
        return sys.getsizeof(self.metrics) + sum(map(sys.getsizeof, texts))


@attrs.frozen(eq=False)
class WattsRequest:
    """A decoded request for watts. A row has the feature values of one node, container or process."""

    key: ModelKey
    metrics: tuple[str, ...]
    """Names of the columns of `values`."""
    values: FloatArray
    """Feature values, shape (rows, metrics), finite and ≥ 0. All values of an invalid row are 0."""
    invalid: IndexArray
    """Indices of the rows in which the client sent impossible values."""
    dead: tuple[str, ...] = ()
    """Features that are 0 in all rows although the CPUs run. They are removed from the model key, so that a model that
    does not need them answers the request."""
    explain: bool = False
    """Whether the reply has the key `explanation`."""

    @property
    def remark(self) -> str:
        """Text that names the dead features (0 although the CPUs run), for the reply and the log; empty without any."""
        return f"{', '.join(self.dead)}: 0 in all rows although the CPUs run, so not used" if self.dead else ""


@lru_cache(maxsize=_CACHED_KEYS)
def _columns_of_counters(metrics: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Return the name and the column of each metric that Kepler counts for containers."""
    return tuple((name, column) for column, name in enumerate(metrics) if name in WORKLOAD_FEATURES)


def without_dead_features(request: WattsRequest) -> WattsRequest:
    """Return the request with a model key that lacks the dead features: those that are 0 although the CPUs run.

    If a model used a dead feature, it would estimate the power of an idle machine. See `vocabulary.dead_features`.
    """
    if not len(request.values):
        return request
    first = request.values[0].tolist()
    columns = _columns_of_counters(request.metrics)
    moves = {name: first[column] > 0 or bool(request.values[:, column].any()) for name, column in columns}
    if all(moves.values()) or not (dead := dead_features(moves)):
        return request
    key = attrs.evolve(request.key, metrics=request.key.metrics.difference(dead))
    return attrs.evolve(request, key=key, dead=dead)


@attrs.frozen
class Command:
    """A request that asks not for watts, but for the result of a command, e.g. "status"."""

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
    explain: bool | None = None


class _Body(_Head):
    values: msgspec.Raw = msgspec.Raw(b"")


_MAX_PER_SECOND_BITS = np.float64(MAX_PER_SECOND).view(np.uint64)
_NO_ROWS = np.empty(0, dtype=np.intp)
_NUMBER_BYTES = b"0123456789+-.eE \t\r\n"

_decoder = msgspec.json.Decoder(_Body)


class InvalidRequestError(Exception):
    """Error for a request that cannot be answered.

    `output_type` is None if it could not be read from the request. `rows` is the number of rows; it is 0 if it could
    not be read. The reply depends on both attributes: a reply to a `DynPower` request must have a value for each row
    even if the request is invalid.
    """

    def __init__(self, message: str, output_type: str | None, rows: int) -> None:
        super().__init__(message)
        self.output_type = output_type
        self.rows = rows


def read_watts_request(body: bytes | bytearray | memoryview) -> WattsRequest | Command:
    """Decode a request, which is one JSON object. Raises `InvalidRequestError` if it cannot be answered."""
    request = decode_strictly(body)
    return request if request is not None else _decode_leniently(bytes(body))


def decode_strictly(body: bytes | bytearray | memoryview) -> WattsRequest | Command | None:
    """Decode a request with the fast decoder.

    Return None if the bytes are not exactly one JSON object whose values have the right types.
    """
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
    return None if values is None else _watts_request(key, metrics, values, explain=bool(document.explain))


def _count_rows(text: bytes, width: int) -> int | None:
    """Count the rows in a JSON text that is a list of lists with `width` numbers each.

    Return None if the text has another form. The function removes the numbers from the text, and compares
    the remaining commas and brackets with the expected text. So it needs no Python object per row.
    """
    skeleton = text.translate(None, _NUMBER_BYTES)
    rows = skeleton.count(b"]") - 1
    row = b"[" + b"," * (width - 1) + b"],"
    return rows if width and rows >= 0 and skeleton == b"[" + (row * rows)[:-1] + b"]" else None


def _matrix(text: bytes, rows: int, width: int) -> FloatArray | None:
    """Decode the numbers in a JSON text, and return them as an array of shape (rows, width).

    `_count_rows` must have accepted the text. The result is None if a number is malformed.
    """
    try:
        # This is by far the fastest way to make an array from a JSON text.
        packed = struct.pack(f"{rows * width}d", *orjson.loads(b"[" + text.translate(None, b"[]") + b"]"))
    except (orjson.JSONDecodeError, struct.error):
        return None
    return np.frombuffer(packed, dtype=np.float64).reshape(rows, width)


def _checked_key(head: _Head, metrics: tuple[str, ...], rows: int) -> ModelKey:
    if rows > MAX_ROWS:
        raise InvalidRequestError(f"values: {rows} rows, at most {MAX_ROWS}", head.output_type, rows)
    system_features = len(head.system_features or ())
    texts = (head.source or "", head.trainer_name or "", head.filter or "", *metrics)
    is_short = len(texts) <= _MAX_CACHED_NAMES and sum(map(len, texts)) <= _MAX_CACHED_CHARACTERS
    model_key = _cached_model_key if is_short else _model_key
    try:
        return model_key(head.output_type, head.source, head.trainer_name, head.filter, metrics, system_features)
    except RequestError as error:
        raise InvalidRequestError(str(error), head.output_type, rows) from None


def _model_key(
    output_type: str | None,
    source: str | None,
    trainer: str | None,
    filter: str | None,
    metrics: tuple[str, ...],
    system_features: int,
) -> ModelKey:
    """Check all parts of a request except its values, and return the model key. Raises `RequestError`."""
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
        raise RequestError("metrics", f"the names have more than {MAX_NAMES_CHARACTERS} characters in all")
    if len(set(metrics)) != len(metrics):
        duplicate = next(name for name in metrics if metrics.count(name) > 1)
        raise RequestError("metrics", f"{quoted(duplicate)} is given twice")
    return ModelKey(checked_type, source or DEFAULT_SOURCE, trainer or "", filter or "", frozenset(metrics))


_cached_model_key = lru_cache(maxsize=_CACHED_KEYS)(_model_key)
"""Return the same as `_model_key`, with a cache. Most requests of a client differ only in their values."""


def _watts_request(key: ModelKey, metrics: tuple[str, ...], values: FloatArray, *, explain: bool) -> WattsRequest:
    """Find the rows with impossible values, set all values of these rows to 0, and return the request."""
    # A fast check that all values are valid: the bits of each number are read as an unsigned integer. Negative numbers,
    # NaN and infinity then become larger than any valid number. So checking the maximum is enough.
    if not values.size or values.view(np.uint64).max() <= _MAX_PER_SECOND_BITS:
        return WattsRequest(key, metrics, values, _NO_ROWS, explain=explain)
    invalid = np.flatnonzero(~((values >= 0) & (values <= MAX_PER_SECOND)).all(axis=1))
    values = values.copy()
    values[invalid] = 0.0
    return WattsRequest(key, metrics, values, invalid, explain=explain)


def _decode_leniently(body: bytes) -> WattsRequest | Command:
    """Decode a request that the fast decoder does not accept.

    The fast decoder rejects a whole request if it contains NaN or if one row has a wrong value. Clients that use
    Python's `json` may send NaN.
    """
    if body.count(b"[") > MAX_LISTS:
        raise InvalidRequestError(f"more than {MAX_LISTS} lists: at most {MAX_ROWS} rows", None, 0)
    try:
        document = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError) as error:  # ValueError includes JSONDecodeError and UnicodeDecodeError
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
        raise InvalidRequestError("a text contains a lone surrogate (half a character)", output_type, count) from None
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
    return _watts_request(key, metrics, values, explain=bool(head.explain))


def _row(row: Any, width: int) -> list[float]:
    """Return the numbers of a row as floats. If the row is not a list of `width` numbers, return only NaN."""
    if isinstance(row, list) and len(row) == width and all(_is_number(value) for value in row):
        try:
            return [float(value) for value in row]
        except OverflowError:  # the row has an integer of hundreds of digits, which is too large for a float
            pass
    return [math.nan] * width


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(digits: str) -> int | float:
    # Python converts a text with thousands of digits to an integer slowly or not at all. Therefore an integer of 300 or
    # more digits counts as infinite.
    return int(digits) if len(digits) < 300 else math.inf
