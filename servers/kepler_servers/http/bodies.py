"""JSON bodies of requests, decoded into `msgspec.Struct`s.

The error message for an invalid body names types in plain words, e.g. "a number" instead of `int | float`. For this
purpose, this module parses the error texts of msgspec, e.g. "Expected `int`, got `str`". No other module of the servers
parses them.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from kepler_core import documents
from kepler_core.documents import DocumentError
from kepler_core.errors import RequestError

T = TypeVar("T")

_MISSING = re.compile(r"missing required field `([^`]*)`")
_TYPES = re.compile(r"`([a-z |]+)`")
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


def decode_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the decoded body. If it is invalid, raise `RequestError`, whose `key` is the path of the wrong value."""
    try:
        return documents.decode_json(body, decoder)
    except DocumentError as error:
        raise _request_error(error) from None


def _request_error(error: DocumentError) -> RequestError:
    if error.kind == "syntax":
        return RequestError("body", f"not a JSON object: {error.problem}")
    if not error.key and (missing := _MISSING.search(error.problem)):
        return RequestError(missing[1], "missing")
    problem = _TYPES.sub(lambda types: _in_words(types[1]), error.problem)
    return RequestError(error.key or "body", problem[:1].lower() + problem[1:])


def _in_words(types: str) -> str:
    """Return the type names in a text of msgspec as plain words: `int | float | null` becomes "a number"."""
    names = [name for name in types.split(" | ") if name != "null"]
    if "float" in names and "int" in names:
        names.remove("int")
    if "str" in names and {"bool", "int", "float"}.intersection(names):
        names.remove("str")  # older clients send flags and numbers as text; the message does not mention this
    return " or ".join(_WORDS.get(name, name) for name in names) or "null"
