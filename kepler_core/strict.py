"""Convert decoded YAML and JSON to attrs classes: no silent conversions, and each error has a path."""

from __future__ import annotations

from functools import lru_cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

from kepler_core.errors import close_matches
from kepler_core.messages import QUOTED_CHARACTERS, shortened

T = TypeVar("T")
Path = tuple[str | int, ...]
"""Keys and list indices that lead to a value in a document."""

_NONE: Any = type(None)
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    type(None): "nothing",
}


class WrongValueError(ValueError):
    """A value does not have the type that its key requires."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__(f"{shortened(repr(value), QUOTED_CHARACTERS)} is not {expected}")


class WrongFieldError(ValueError):
    """A value has the right type, but violates a rule of its key. Validators of attrs classes raise this error.

    cattrs does not record the key of a value if a validator raises an error. So `WrongFieldError` itself has the path.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path
        """Path to the wrong value, relative to the attrs object whose validator raised the error."""


def describe(kind: Any) -> str:
    """Return a type in words, such as "a whole number" or "one of 'a', 'b'"."""
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(describe(part) for part in get_args(kind))
    return _WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


def _plain(kind: Any) -> Any:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is kind or (kind is float and type(value) is int):
            return kind(value)
        raise WrongValueError(value, describe(kind))

    return hook


def _literal(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    raise WrongValueError(value, describe(kind))


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _is_plain_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and not any(attrs.has(part) for part in get_args(kind))


def _is_sequence(kind: Any) -> bool:
    origin: Any = get_origin(kind) or kind
    return origin in (list, tuple)


def _union(value: Any, kind: Any) -> Any:
    """Convert a value to one of the types in a union: to the first type that accepts the value."""
    for part in get_args(kind):
        if part is _NONE:
            if value is None:
                return None
            continue
        try:
            return structure(value, part)
        except (cattrs.BaseValidationError, ValueError, TypeError):
            continue
    raise WrongValueError(value, describe(kind))


def _sequence(kind: Any, inner: cattrs.BaseConverter) -> Any:
    """Return cattrs' hook for a list or tuple type. It rejects strings; cattrs would split them into letters."""
    origin = get_origin(kind) or kind
    item_kind = next((part for part in get_args(kind) if part is not Ellipsis), Any)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise WrongValueError(value, "a list")
        items: list[Any] = []
        for index, item in enumerate(value):
            try:
                items.append(inner.structure(item, item_kind))
            except Exception as error:
                note = IterableValidationNote(f"at index {index}", index, item_kind)
                error.__notes__ = [*getattr(error, "__notes__", ()), note]
                # stop at the first wrong item: only the first problem is reported, and the list may be long
                raise cattrs.IterableValidationError("in a list", [error], kind) from None
        return origin(items)

    return hook


@lru_cache(maxsize=1)
def converter() -> cattrs.Converter:
    """Return the strict converter, which rejects unknown keys, "5" as a number and 5.0 as a whole number."""
    strict = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (int, float, str, bool):
        strict.register_structure_hook(kind, _plain(kind))
    strict.register_structure_hook_func(_is_literal, _literal)
    strict.register_structure_hook_func(_is_plain_union, _union)
    strict.register_structure_hook_factory(_is_sequence, _sequence)
    return strict


def structure(value: Any, kind: type[T] | Any) -> T:
    """Convert decoded YAML or JSON to the type `kind`.

    `structuring_problem` describes the exceptions that this function raises.
    """
    return converter().structure(value, kind)  # type: ignore[no-any-return]


def structuring_problem(error: BaseException, path: Path = ()) -> tuple[Path, str]:
    """Return the path and the message of the first problem that `structure` found.

    `structure` converted a value of a document. `path` is the path of this value in the document.
    """
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            return structuring_problem(inner, (*path, *_steps(inner)))
    if isinstance(error, ForbiddenExtraKeysError):
        key = sorted(map(str, error.extra_fields))[0]
        fields = [field.name for field in attrs.fields(error.cl)]
        return (*path, key), f"unknown key; {close_matches(key, fields)}"
    if isinstance(error, KeyError):
        return path or ("top level",), "missing"
    if isinstance(error, WrongFieldError):
        return (*path, *error.path), str(error)
    if isinstance(error, TypeError | AttributeError):
        return path, "is not of the right shape (expected a mapping of keys)"
    return path, str(error)


def _steps(error: BaseException) -> Path:
    """Return the key or list index that cattrs recorded in an error's notes; empty if there is none."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()
