"""Checks that apply to plugins of any contract."""

from __future__ import annotations

import inspect
import pickle
import typing

from kepler_core.errors import PluginError
from kepler_core.messages import one_line
from kepler_core.plugins.arguments import arguments_of, convert_argument
from kepler_core.plugins.probe import import_alone
from kepler_core.testing.checks import CheckError, CheckFunction, Subject, require


def has_a_description(subject: Subject) -> None:
    """Check that the class has a docstring, which `plugins info` shows."""
    docstring = subject.plugin.__dict__.get("__doc__")
    require(
        docstring and docstring.strip(), "no docstring; describe the plugin in one line, which `plugins info` shows"
    )


def is_complete(subject: Subject) -> None:
    """Check that the class has all methods and attributes that its contract requires."""
    missing = sorted(getattr(subject.plugin, "__abstractmethods__", ()))
    require(not missing, f"not implemented: {', '.join(missing)}; see kepler_core.contracts")
    for contract in subject.plugin.__mro__:
        if contract.__module__ == "kepler_core.contracts":
            for attribute in contract.__annotations__:
                require(
                    hasattr(subject.plugin, attribute), f"no class attribute {attribute!r}; its contract requires it"
                )


def arguments_are_typed(subject: Subject) -> None:
    """Check that every argument of `__init__` has an annotation, which Kepler Core checks users' values against."""
    arguments = arguments_of(subject.plugin)
    if not arguments:
        return
    try:
        hints = typing.get_type_hints(subject.plugin.__init__)
    except NameError as error:
        raise CheckError(
            f"{error}: annotations of __init__ must be resolvable at run time, so import their types"
        ) from error
    for argument in arguments:
        require(
            argument.name in hints,
            f"argument {argument.name!r} has no annotation; write e.g. {argument.name}: float = 1.0, so that "
            f"Kepler Core can check the values of users",
        )
    kinds = [parameter.kind for parameter in inspect.signature(subject.plugin.__init__).parameters.values()]
    require(
        inspect.Parameter.VAR_KEYWORD not in kinds,
        "**kwargs of __init__ cannot be set by users; name the arguments that they may set",
    )


def defaults_can_be_written_in_yaml(subject: Subject) -> None:
    """Check that every default has the annotated type, because `plugins info` shows the defaults as example YAML."""
    for argument in arguments_of(subject.plugin):
        if argument.required:
            continue
        try:
            convert_argument(subject.plugin, subject.name, argument.name, argument.default)
        except PluginError as error:
            raise CheckError(f"the default does not have the annotated type: {error}") from error


def is_picklable(subject: Subject) -> None:
    """Check that instances can be pickled, because backends send them to other processes and machines."""
    try:
        content = pickle.dumps(subject.make())
    except Exception as error:
        raise CheckError(
            f"an instance cannot be pickled ({one_line(error)}); the backends loky and dask pickle plugins: "
            f"keep open files, locks and lambdas out of instances, and define classes at the top level of a module"
        ) from error
    pickle.loads(content)  # noqa: S301 - written above


def import_has_no_side_effects(subject: Subject) -> None:
    """Check that importing the plugin's module has no side effects; programs also import plugins they do not use."""
    result = import_alone(subject.plugin.__module__)
    if result.missing:
        return  # the class is defined in a test, so its module cannot be imported by name
    require(not result.problem, f"cannot be imported in a fresh process: {result.problem}")
    for effect in result.side_effects:
        raise CheckError(f"importing its module {effect}; do that in the method that needs it")


CHECKS: tuple[CheckFunction, ...] = (
    has_a_description,
    is_complete,
    arguments_are_typed,
    defaults_can_be_written_in_yaml,
    is_picklable,
    import_has_no_side_effects,
)
