"""Checks of every plugin."""

from __future__ import annotations

import inspect
import pickle
import typing

from kepler_core.contracts import Plugin
from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.plugins.probe import import_alone
from kepler_core.testing.checks import CheckError, Subject, check_of, require


@check_of(Plugin)
def has_a_description(subject: Subject) -> None:
    """`plugins info` shows it."""
    own = subject.plugin.__dict__.get("__doc__")
    require(own and own.strip(), "no docstring; say in one line what it does: `plugins info` shows it")


@check_of(Plugin)
def is_complete(subject: Subject) -> None:
    """All that the contract wants is there."""
    missing = sorted(getattr(subject.plugin, "__abstractmethods__", ()))
    require(not missing, f"not implemented: {', '.join(missing)}; see kepler_core.contracts")
    for contract in subject.plugin.__mro__:
        if contract.__module__ == "kepler_core.contracts":
            for attribute in contract.__annotations__:
                require(hasattr(subject.plugin, attribute), f"no class attribute {attribute!r}; its contract wants one")


@check_of(Plugin)
def arguments_are_typed(subject: Subject) -> None:
    """Users write arguments in YAML; annotations are what they are checked by."""
    arguments = registry.arguments_of(subject.plugin)
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
            f"argument {argument.name!r} has no annotation; write e.g. {argument.name}: float = 1.0, so that what "
            f"users write is checked",
        )
    kinds = [parameter.kind for parameter in inspect.signature(subject.plugin.__init__).parameters.values()]
    require(
        inspect.Parameter.VAR_KEYWORD not in kinds,
        "**kwargs of __init__ cannot be set by users; name the arguments that they may set",
    )


@check_of(Plugin)
def defaults_can_be_written_in_yaml(subject: Subject) -> None:
    """`plugins info` shows an example with the defaults."""
    for argument in registry.arguments_of(subject.plugin):
        if argument.required:
            continue
        try:
            registry.structured(subject.plugin, subject.name, argument.name, argument.default)
        except PluginError as error:
            raise CheckError(f"the default is not of the annotated type: {error}") from error


@check_of(Plugin)
def is_picklable(subject: Subject) -> None:
    """Backends send work to other processes and machines."""
    try:
        content = pickle.dumps(subject.make())
    except Exception as error:
        raise CheckError(
            f"an instance cannot be pickled ({registry.one_line(error)}); the backends loky and dask need that: keep "
            f"open files, locks and lambdas out of it, and classes at the top level of a module"
        ) from error
    pickle.loads(content)  # noqa: S301 - its own


@check_of(Plugin)
def import_has_no_side_effects(subject: Subject) -> None:
    """A program imports plugins that its user never asked for."""
    done = import_alone(subject.plugin.__module__)
    if done.missing:
        return  # defined in a test or a single file: nothing is imported by name
    require(not done.problem, f"cannot be imported in a fresh process: {done.problem}")
    for effect in done.side_effects:
        raise CheckError(f"importing its module {effect}; do that in the method that needs it")
