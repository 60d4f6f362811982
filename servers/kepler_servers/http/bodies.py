"""JSON bodies of requests, decoded into `msgspec.Struct`s.

In the servers, only this module reads the text of msgspec's errors. They have no fields (seen with msgspec 0.19 to
0.22): the path of a wrong value is in the text, as in "Expected `int`, got `str` - at `$.machine_spec.cores`".
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from kepler_core.errors import RequestError

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_TYPES = re.compile(r"`([a-z |]+)`")
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


def decode_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the decoded body; raise `RequestError`, whose key is the path of the wrong value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _request_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("body", f"not a JSON object: {error}") from None
    except RecursionError:
        raise RequestError("body", "nested too deeply") from None


def _request_error(text: str) -> RequestError:
    path = _PATH.search(text)
    key = path[1] if path else ""
    problem = text[: path.start()] if path else text
    if not key and (missing := _MISSING.search(problem)):
        return RequestError(missing[1], "missing")
    problem = _TYPES.sub(lambda types: _in_words(types[1]), problem)
    return RequestError(key or "body", problem[:1].lower() + problem[1:])


def _in_words(types: str) -> str:
    """Return msgspec's names of types as words: `int | float | null` is "a number"."""
    names = [name for name in types.split(" | ") if name != "null"]
    if "float" in names and "int" in names:
        names.remove("int")
    return " or ".join(_WORDS.get(name, name) for name in names) or "null"
