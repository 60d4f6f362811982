"""The arguments of plugins: read from the signature of `__init__`, checked, and passed to `__init__`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from kepler_core.contracts import Plugin
from kepler_core.errors import PluginError, close_matches, path_text
from kepler_core.messages import quoted
from kepler_core.plugins.problems import import_problem

P = TypeVar("P", bound=Plugin)


class ArgumentError(PluginError):
    """An argument of a plugin is wrong."""

    def __init__(self, message: str, argument_path: Sequence[str | int]) -> None:
        super().__init__(message)
        self.argument_path = tuple(argument_path)
        """Name of the argument, and the keys and indices below it that lead to the wrong value."""


@attrs.frozen
class Argument:
    """One argument of a plugin's `__init__`. Users can set the argument in a pipeline file."""

    name: str
    type: str
    """The annotation as text; "" if the argument has no annotation."""
    default: Any
    """The default value; None if the argument is required."""
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
    """Check and convert the arguments, and return an instance of a plugin class made with them.

    Raises `ArgumentError` if an argument's name is unknown, if a required argument is missing, or if a value
    cannot be converted to the argument's type. `ArgumentError` is also raised if `__init__` rejects a value with a
    `PluginError` whose path starts with the argument's name. The message of the `ArgumentError` starts with
    `name` and names the argument. Raises `PluginError` if `__init__` raises any other error.
    """
    accepted = {argument.name: argument for argument in arguments_of(plugin)}
    converted = {}
    for key, value in arguments.items():
        if key not in accepted:
            hint = close_matches(str(key), accepted) if accepted else "it takes none"
            raise ArgumentError(f"{name}: unknown argument {quoted(key)}; {hint}", (str(key),))
        converted[key] = convert_argument(plugin, name, key, value)
    for argument in accepted.values():
        if argument.required and argument.name not in converted:
            raise ArgumentError(f"{name}: argument {argument.name!r} is missing", (argument.name,))
    try:
        return plugin(**converted)
    except PluginError as error:
        if error.path and error.path[0] in accepted:
            raise ArgumentError(f"{name}: argument {error}", error.path) from error
        raise PluginError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise PluginError(f"{name}: {import_problem(error, name)}") from error


def argument_types(plugin: type[Plugin], name: str) -> dict[str, Any]:
    """Return the annotations of the arguments of the plugin `name`.

    Raise `PluginError` if an annotation cannot be resolved.
    """
    try:
        return typing.get_type_hints(plugin.__init__)
    except NameError as error:
        raise PluginError(f"{name}: the annotations of its __init__ cannot be resolved: {error}") from error


def convert_argument(plugin: type[Plugin], name: str, key: str, value: Any) -> Any:
    """Return the value of the argument `key`, converted to the type of the argument's annotation.

    Raises `ArgumentError` if the value cannot be converted. The message starts with `name`, the name of the plugin, and
    says which values the annotation accepts.
    """
    # Import cattrs here, not at the top: the import would lengthen the estimator's start by a tenth, and the estimator
    # passes no arguments to plugins.
    import cattrs

    from kepler_core.strict import structure, structuring_problem

    hints = argument_types(plugin, name)
    try:
        return structure(value, hints[key]) if key in hints else value
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        path, problem = structuring_problem(error, (key,))
        raise ArgumentError(f"{name}: argument {path_text(path)}: {problem}", path) from error
