"""The arguments of plugins: read from the signature of `__init__`, checked, and passed."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from kepler_core.contracts import Plugin
from kepler_core.errors import PluginError, close_matches
from kepler_core.plugins.problems import import_problem

P = TypeVar("P", bound=Plugin)


@attrs.frozen
class Argument:
    """One argument that users may write in YAML."""

    name: str
    type: str
    """The annotation as text; "" without one."""
    default: Any
    """None if the argument is required."""
    required: bool


def arguments_of(plugin: type[Plugin]) -> list[Argument]:
    """Return the arguments of a plugin class, in the order of its `__init__`."""
    if plugin.__init__ is object.__init__:
        return []
    arguments = []
    for parameter in list(inspect.signature(plugin.__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        type_name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        arguments.append(
            Argument(
                parameter.name,
                "" if annotation is parameter.empty else str(type_name),
                None if required else parameter.default,
                required,
            )
        )
    return arguments


def create(plugin: type[P], name: str, arguments: Mapping[str, Any]) -> P:
    """Return an instance of a plugin class.

    Raises `PluginError` that starts with `name` and names the wrong argument.
    """
    accepted = {argument.name: argument for argument in arguments_of(plugin)}
    converted = {}
    for key, value in arguments.items():
        if key not in accepted:
            hint = close_matches(str(key), accepted) if accepted else "it takes none"
            raise PluginError(f"{name}: unknown argument {key!r}; {hint}")
        converted[key] = convert_argument(plugin, name, key, value)
    for argument in accepted.values():
        if argument.required and argument.name not in converted:
            raise PluginError(f"{name}: argument {argument.name!r} is missing")
    try:
        return plugin(**converted)
    except (Exception, SystemExit) as error:  # third-party code
        raise PluginError(f"{name}: {import_problem(error, name)}") from error


def convert_argument(plugin: type[Plugin], name: str, key: str, value: Any) -> Any:
    """Return the value of an argument, converted to its annotation.

    Raises `PluginError` that says which values the annotation accepts.
    """
    # imported here: cattrs takes a tenth of the estimator's start, and the estimator passes no arguments
    import cattrs

    from kepler_core.strict import structure, structuring_error

    try:
        hints = typing.get_type_hints(plugin.__init__)
    except NameError as error:
        raise PluginError(f"{name}: the annotations of its __init__ cannot be resolved: {error}") from error
    try:
        return structure(value, hints[key]) if key in hints else value
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise PluginError(f"{name}: argument {structuring_error(error, key)}") from error
