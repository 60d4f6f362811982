"""Requests for watts as clients send them, checked.

A row whose values cannot be right (not a number, NaN, infinite, negative, above 1e16 per second, too
few or too many of them) is answered with 0 W and counted; the other rows are answered as they should
be. Everything else that is wrong fails the request.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import attrs
import msgspec
import numpy as np
from numpy.typing import NDArray

from kepler_core.errors import RequestError
from kepler_core.selection.request import DEFAULT_SOURCE
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.wire import MAX_METRICS, MAX_TEXT, checked_output_type

Floats = NDArray[np.float64]

MOST_PER_SECOND = 1e16
"""A hundred times the cycles of ten thousand cores: no counter of one machine rises faster."""
MAX_ROWS = 20_000


@attrs.frozen(eq=False)
class WattsRequest:
    """A request for the watts of some rows."""

    metrics: tuple[str, ...]
    values: Floats
    """Shape (rows, metrics), finite and ≥ 0; rows that were not are all 0."""
    invalid: NDArray[np.intp]
    """Rows that could not be right."""
    output_type: OutputType
    source: str
    trainer: str
    filter: str


@attrs.frozen
class Command:
    """A request that is not for watts."""

    name: str


class _Body(msgspec.Struct):
    metrics: list[str] | None = None
    values: list[list[float]] | None = None
    output_type: str | None = None
    source: str | None = None
    trainer_name: str | None = None
    filter: str | None = None
    system_features: list[str] | None = None
    system_values: list[str] | None = None
    command: str | None = None


_NONE = np.empty(0, dtype=np.intp)

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
    rows = found.values
    return _checked(found, rows, 0 if rows is None else len(rows), strict=True)


def _checked(found: _Body, rows: Any, count: int, *, strict: bool) -> WattsRequest:
    def refuse(message: str) -> UnanswerableError:
        return UnanswerableError(message, found.output_type, count)

    if found.output_type is None:
        raise refuse("output_type: missing")
    try:
        output_type = checked_output_type(found.output_type)
    except RequestError as error:
        raise refuse(str(error)) from None
    metrics, system = found.metrics, found.system_features or []
    if metrics is None:
        raise refuse("metrics: missing")
    if rows is None:
        raise refuse("values: missing")
    if count > MAX_ROWS:
        raise refuse(f"values: {count} rows, at most {MAX_ROWS}")
    if len(metrics) + len(system) > MAX_METRICS:
        raise refuse(f"metrics: more than {MAX_METRICS}")
    texts = (found.source, found.trainer_name, found.filter, *metrics)
    if any(text is not None and len(text) > MAX_TEXT for text in texts):
        raise refuse(f"a text of more than {MAX_TEXT} characters")
    if len(set(metrics)) != len(metrics):
        twice = next(name for name in metrics if metrics.count(name) > 1)
        raise refuse(f"metrics: {twice[:60]!r} is given twice")
    values, invalid = _matrix(rows, len(metrics), strict)
    return WattsRequest(
        tuple(metrics),
        values,
        invalid,
        output_type,
        found.source or DEFAULT_SOURCE,
        found.trainer_name or "",
        found.filter or "",
    )


def _matrix(rows: list[Any], width: int, strict: bool) -> tuple[Floats, NDArray[np.intp]]:
    """`strict`: rows are known to be lists of numbers."""
    if strict and set(map(len, rows)) <= {width}:
        values = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width).reshape(len(rows), width)
    else:
        values = np.array([_row(row, width) for row in rows], dtype=np.float64).reshape(len(rows), width)
    # a comparison with NaN is false
    if not rows or (width and values.min() >= 0.0 and values.max() <= MOST_PER_SECOND):
        return values, _NONE
    invalid = np.flatnonzero(~((values >= 0) & (values <= MOST_PER_SECOND)).all(axis=1))
    values[invalid] = 0.0
    return values, invalid


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
        found = msgspec.convert(document, _Body)
    except UnicodeEncodeError:
        raise UnanswerableError("a text with half a character (a lone surrogate)", kind, count) from None
    except (msgspec.ValidationError, RecursionError, TypeError) as error:
        raise UnanswerableError(" ".join(str(error).split())[:200], kind, count) from None
    if found.command is not None:
        return Command(found.command)
    if rows is not None and not isinstance(rows, list):
        raise UnanswerableError("values: not a list of rows", kind, 0)
    return _checked(found, rows, count, strict=False)


def _integer(digits: str) -> int | float:
    # Python refuses to convert thousands of digits, and would be slow; they are infinite for us
    return int(digits) if len(digits) < 300 else math.inf
