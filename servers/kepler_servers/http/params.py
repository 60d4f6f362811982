"""Read query parameters and headers into a `msgspec.Struct`.

Each field of the Struct declares a parameter or header. The type of a field is one of these: text (`str`), whole number
with bounds (`Annotated[int, Meta(ge=…, le=…)]`), flag (`bool`), choice (`Literal`). Each of these types may be combined
with `| None`. With `rename="kebab"`, the field `node_type` declares the parameter `node-type`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import attrs
import bottle
import msgspec
from msgspec import inspect

from kepler_core.errors import RequestError, close_matches
from kepler_core.messages import quoted
from kepler_servers.http.text_values import flag

T = TypeVar("T", bound=msgspec.Struct)

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")


@attrs.frozen
class Parameter:
    """A query parameter or header that a field of a Struct declares."""

    attribute: str
    name: str
    kind: inspect.Type
    """Type of the field; for a type with `| None`, the type without `None`."""
    required: bool

    def read(self, text: str) -> Any:
        """Convert the text of a parameter to a value of its type. Raises `RequestError` for an invalid text."""
        if isinstance(self.kind, inspect.IntType):
            return self._whole_number(text)
        if isinstance(self.kind, inspect.BoolType):
            return flag(text, self.name)
        if isinstance(self.kind, inspect.LiteralType):
            choices = [str(choice) for choice in self.kind.values]
            if text not in choices:
                label = self.name.replace("-", " ")
                raise RequestError(self.name, f"unknown {label} {quoted(text)}; {close_matches(text[:60], choices)}")
        return text

    def _whole_number(self, text: str) -> int:
        assert isinstance(self.kind, inspect.IntType)
        lowest = self.kind.ge or 0
        highest = 2**63 - 1 if self.kind.le is None else self.kind.le
        if not (_WHOLE_NUMBER.fullmatch(text) and lowest <= int(text) <= highest):
            raise RequestError(self.name, f"{quoted(text)} is not a whole number between {lowest} and {highest}")
        return int(text)


@lru_cache(maxsize=64)
def parameters(kind: type[msgspec.Struct]) -> tuple[Parameter, ...]:
    """Return the parameters that the fields of a Struct declare."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return tuple(
        Parameter(field.name, field.encode_name, _without_none(field.type), field.required) for field in info.fields
    )


def read_query(kind: type[T], request: bottle.BaseRequest) -> T:
    """Return a Struct with the parameters in the query string of a request.

    Raises `RequestError` if a parameter is unknown, missing, given twice, not UTF-8, or has a value of the wrong
    type. An empty parameter counts as absent.
    """
    if not request.query_string:
        return _read(kind, lambda name: None)
    values = request.query
    names = [parameter.name for parameter in parameters(kind)]
    for name in values:
        if name not in names:
            raise RequestError(name[:60], f"unknown parameter; known: {', '.join(names)}")
        if len(values.getall(name)) > 1:
            raise RequestError(name, "given twice")
    return _read(kind, lambda name: _text(name, values.get(name)))


def read_headers(kind: type[T], request: bottle.BaseRequest) -> T:
    """Return a Struct with the headers that its fields name. Raises `RequestError` if a header's value is invalid."""
    return _read(kind, request.get_header)


def _read(kind: type[T], get: Callable[[str], str | None]) -> T:
    values: dict[str, Any] = {}
    for parameter in parameters(kind):
        if text := get(parameter.name):
            values[parameter.attribute] = parameter.read(text)
        elif parameter.required:
            raise RequestError(parameter.name, "missing")
    return kind(**values)


def _text(name: str, value: str | None) -> str | None:
    # bottle 0.13 decodes a query string as latin-1 instead of UTF-8. Encoding the text as latin-1 gives the original
    # bytes, which are then decoded as UTF-8.
    try:
        return value and value.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise RequestError(name, "not UTF-8") from None


def _without_none(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        (kind,) = (part for part in kind.types if not isinstance(part, inspect.NoneType))
        return _without_none(kind)
    return kind
