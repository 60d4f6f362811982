"""cattrs as YAML and HTTP input need it: nothing is converted silently, every error has a path."""

from __future__ import annotations

from functools import lru_cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

from kepler_core.errors import close_matches, path_text

T = TypeVar("T")
Path = tuple[str | int, ...]

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
    """A value that is not what the key takes."""

    def __init__(self, found: Any, expected: str) -> None:
        super().__init__(f"{_shown(found)} is not {expected}")


class WrongFieldError(ValueError):
    """What an attrs validator raises, so that the message can name the key: attrs itself does not."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(kind: Any) -> str:
    """A type in words: "a whole number", "one of 'a', 'b'"."""
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


@lru_cache(maxsize=1)
def converter() -> cattrs.Converter:
    """The one converter: unknown keys are errors, "5" is no number, 5.0 no whole number."""
    made = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (int, float, str, bool):
        made.register_structure_hook(kind, _plain(kind))

    def union(value: Any, kind: Any) -> Any:
        for part in get_args(kind):
            if part is _NONE:
                if value is None:
                    return None
                continue
            try:
                return made.structure(value, part)
            except (cattrs.BaseValidationError, ValueError, TypeError):
                continue
        raise WrongValueError(value, describe(kind))

    made.register_structure_hook_func(_is_literal, _literal)
    made.register_structure_hook_func(_is_plain_union, union)

    # cattrs iterates whatever it is given: a string would become a list of letters
    def sequence(kind: Any, inner: cattrs.BaseConverter) -> Any:
        origin = get_origin(kind) or kind
        parts = [part for part in get_args(kind) if part is not Ellipsis] or [Any]

        def hook(value: Any, _: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise WrongValueError(value, "a list")
            items: list[Any] = []
            errors: list[Exception] = []
            for index, item in enumerate(value):
                try:
                    items.append(inner.structure(item, parts[0]))
                except Exception as error:
                    error.__notes__ = [
                        *getattr(error, "__notes__", ()),
                        IterableValidationNote(f"at index {index}", index, parts[0]),
                    ]
                    errors.append(error)
            if errors:
                raise cattrs.IterableValidationError("in a list", errors, kind)
            return origin(items)

        return hook

    made.register_structure_hook_factory(_is_sequence, sequence)
    return made


def structure(value: Any, kind: type[T] | Any) -> T:
    """`value` as `kind`; raises what `structuring_error` puts into words."""
    return converter().structure(value, kind)  # type: ignore[no-any-return]


def structuring_error(error: BaseException, *path: str | int) -> str:
    """Return the first problem on one line: `path: what was found, what would be right`."""
    path, message = structuring_problem(error, path)
    return f"{path_text(path)}: {message}" if path else message


def structuring_problem(error: BaseException, path: Path = ()) -> tuple[Path, str]:
    """Return the first problem of what `structure` raised: the path to the wrong value, and the message."""
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
    """Return the key or index that cattrs noted on an error, if any."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return (note.name,)
        if isinstance(note, IterableValidationNote):
            return (note.index,)
    return ()
