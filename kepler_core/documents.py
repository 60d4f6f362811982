"""Decode JSON from outside: files, stores, requests, and answers of other programs.

All such bytes go through `decode_json`, so that no kind of damage is forgotten: invalid JSON, values of
another type, invalid UTF-8 inside a string, and nesting that exceeds Python's stack all raise
`DocumentError`. Objects without a schema (`decode_object`) have bounds as well.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar, overload

import msgspec

from kepler_core.errors import KeplerError

T = TypeVar("T")

MAX_NUMBER = 2**53
"""Largest absolute value of a number: the largest up to which a double represents every integer."""
MAX_CHARACTERS = 4096
MAX_DEPTH = 64
"""Largest depth of an object without a schema. No document of ours has more than ten levels."""

Text = Annotated[str, msgspec.Meta(max_length=MAX_CHARACTERS)]
Number = (
    Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
    | Annotated[float, msgspec.Meta(ge=-float(MAX_NUMBER), le=float(MAX_NUMBER))]
)
Scalar = Text | Number | bool | None

# Sixteen digits in front of a decimal point, or an exponent of two digits: only then may a number be too large.
_LARGE_NUMBER = re.compile(rb"(?<![\d.])\d{16}|[eE]\+?\d\d")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class DocumentError(KeplerError):
    """JSON from outside cannot be decoded, or exceeds the bounds of its schema."""


@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: type[T]) -> T: ...
@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: msgspec.json.Decoder[T]) -> T: ...
@overload
def decode_json(content: bytes | bytearray | memoryview | str | msgspec.Raw, kind: Any) -> Any: ...
def decode_json(content: Any, kind: Any) -> Any:
    """Return decoded JSON of a type, or of a decoder's type. Raises `DocumentError`."""
    try:
        if isinstance(kind, msgspec.json.Decoder):
            return kind.decode(content)
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(str(error)) from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error


def decode_object(content: bytes | bytearray) -> dict[str, Any]:
    """Return a JSON object whose members have no schema.

    Raises `DocumentError` if it is nested deeper than `MAX_DEPTH`, or has a number beyond `MAX_NUMBER`.
    """
    members: dict[str, Any] = decode_json(content, dict[str, Any])
    if _is_deep(content):
        raise DocumentError("nested too deeply")
    if _LARGE_NUMBER.search(content):
        _check_numbers(members)
    return members


def _is_deep(content: bytes | bytearray) -> bool:
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # each pass removes the innermost level
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if inner == brackets:
            return False  # empty, or brackets inside strings
        brackets = inner
    return bool(brackets)


def _check_numbers(members: dict[str, Any]) -> None:
    remaining: list[tuple[str, Any]] = list(members.items())
    while remaining:
        key, value = remaining.pop()
        if isinstance(value, dict):
            remaining += value.items()
        elif isinstance(value, list):
            remaining += [(key, item) for item in value]
        elif isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise DocumentError(f"{key[:60]!r} has a number beyond 2^53")
