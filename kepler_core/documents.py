"""Decode JSON from outside: files, stores, requests, and answers of other programs.

All JSON from outside goes through `decode_json`, so that every kind of damage raises `DocumentError`:
invalid JSON, values of a wrong type, invalid UTF-8 inside a string, and nesting that exceeds Python's
stack. `decode_object` and `decode_value` decode JSON without a schema, and limit its depth and its numbers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, overload

import msgspec

from kepler_core.errors import KeplerError

T = TypeVar("T")

MAX_NUMBER = 2**53
"""Maximum absolute value of a number that is accepted. A 64-bit float represents all integers up to it exactly."""
MAX_CHARACTERS = 4096
MAX_DEPTH = 64
"""Maximum nesting depth that is accepted in JSON without a schema. Kepler Core's documents have at most ten levels."""

Text = Annotated[str, msgspec.Meta(max_length=MAX_CHARACTERS)]
Number = (
    Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
    | Annotated[float, msgspec.Meta(ge=-float(MAX_NUMBER), le=float(MAX_NUMBER))]
)
Scalar = Text | Number | bool | None

# A number beyond MAX_NUMBER has at least sixteen digits in front of its decimal point, or a positive exponent. So
# if this pattern matches nowhere in a JSON text, the text has no number beyond MAX_NUMBER. The pattern also matches the
# character before the digits, because this is faster than a look-behind.
_LARGE_NUMBER = re.compile(rb"[^\d.]\d{16}|\d[eE]\+?\d")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# msgspec's errors have no fields (seen with msgspec 0.19 to 0.22): the path of the wrong value is at the end of
# the error's text.
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


class DocumentError(KeplerError):
    """JSON or YAML from outside cannot be decoded, does not fit its schema, or exceeds a limit."""

    def __init__(
        self, message: str, *, kind: Literal["syntax", "schema", "bounds"] = "bounds", key: str = "", problem: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        """"syntax": not JSON. "schema": a value does not fit the schema. "bounds": a limit is exceeded."""
        self.key = key
        """Path of the value that does not fit the schema, e.g. "machine_spec.cores"; empty for the whole document."""
        self.problem = problem or message
        """The problem as text, without the path in `key`."""


@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: type[T]) -> T: ...
@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: msgspec.json.Decoder[T]) -> T: ...
@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: Any) -> Any: ...
def decode_json(content: Any, kind: Any) -> Any:
    """Decode JSON to the type `kind`, or to the type of the decoder `kind`. Raises `DocumentError`."""
    try:
        if isinstance(kind, msgspec.json.Decoder):
            return kind.decode(content)
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise _schema_error(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(str(error), kind="syntax") from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error


def decode_object(content: bytes | bytearray) -> dict[str, Any]:
    """Return a JSON object whose members have no schema.

    Raises `DocumentError` if the object is nested deeper than `MAX_DEPTH`, or has a number beyond `MAX_NUMBER`.
    """
    members: dict[str, Any] = decode_json(content, dict[str, Any])
    _check_bounds(content, members)
    return members


def decode_value(content: bytes | bytearray) -> Any:
    """Return a JSON value that has no schema. Raises `DocumentError` in the same cases as `decode_object`."""
    value = decode_json(content, Any)
    _check_bounds(content, value)
    return value


def _check_bounds(content: bytes | bytearray, value: Any) -> None:
    """Raise `DocumentError` if JSON (`content`, decoded as `value`) exceeds `MAX_DEPTH` or `MAX_NUMBER`."""
    if _is_deep(content):
        raise DocumentError("nested too deeply")
    if _LARGE_NUMBER.search(_outside_strings(content)):
        _check_numbers(value)


def _outside_strings(content: bytes | bytearray) -> bytes:
    """Return valid JSON without its strings, and with a space before it.

    A number in a string, such as a digest, must not count as a large number. If a string may contain a quotation mark,
    no string is removed.
    """
    pieces = [content] if b"\\" in content else content.split(b'"')[::2]
    return b" " + b"".join(pieces)


def _schema_error(text: str) -> DocumentError:
    place = _PLACE.search(text)
    if place is None:
        return DocumentError(text, kind="schema")
    return DocumentError(text, kind="schema", key=place[1], problem=text[: place.start()])


def _is_deep(content: bytes | bytearray) -> bool:
    if content.count(b"[") + content.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", content).translate(_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # removes the innermost pairs of brackets
    return bool(brackets)


def _check_numbers(value: Any) -> None:
    remaining: list[tuple[str, Any]] = [("", value)]
    while remaining:
        key, value = remaining.pop()
        if isinstance(value, dict):
            remaining += value.items()
        elif isinstance(value, list):
            remaining += [(key, item) for item in value]
        elif isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise DocumentError(f"{key[:60]!r} has a number beyond 2^53" if key else "a number beyond 2^53")
