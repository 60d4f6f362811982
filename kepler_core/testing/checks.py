"""What a check is, how the checks of a contract are collected, and how they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from kepler_core.contracts import CONTRACTS, Plugin
from kepler_core.errors import PluginError, close_matches
from kepler_core.plugins import registry

F = TypeVar("F", bound=Callable[..., None])


class CheckError(AssertionError):
    """A plugin breaks its contract. The message says what was found, and what to do."""


@attrs.frozen(eq=False)
class Subject:
    """The plugin that is checked, and with what."""

    plugin: type[Any]
    name: str
    """What users write, if it is installed; else the name of the class."""
    arguments: Mapping[str, Any]
    given: Mapping[str, Any]
    """What the author gives besides, e.g. a regressor for a model format."""

    def make(self) -> Any:
        """A new instance."""
        return registry.create(self.plugin, self.name, self.arguments)


@attrs.frozen(eq=False)
class Check:
    """One check of one plugin; call it."""

    name: str
    subject: Subject
    function: Callable[[Subject], None]

    def __call__(self) -> None:
        """`CheckError` if the plugin breaks this part of its contract."""
        try:
            self.function(self.subject)
        except CheckError as error:
            raise CheckError(f"{self.subject.name}: {self.name}: {error}") from error.__cause__
        except (Exception, SystemExit) as error:  # somebody else's code
            raise CheckError(f"{self.subject.name}: {self.name}: it raised {registry.one_line(error)}") from error

    def __str__(self) -> str:
        return self.name


_CHECKS: dict[type[Plugin], list[tuple[str, Callable[[Subject], None]]]] = {}


def check_of(contract: type[Plugin]) -> Callable[[F], F]:
    """Makes a function a check of all plugins of a contract, named as it is."""

    def add(function: F) -> F:
        _CHECKS.setdefault(contract, []).append((function.__name__, function))
        return function

    return add


def require(true: object, problem: str) -> None:
    """`CheckError` unless something is true."""
    if not true:
        raise CheckError(problem)


def checks_of(plugin: type[Any] | str, arguments: Mapping[str, Any] | None = None, **given: Any) -> list[Check]:
    """The checks for a plugin: a class, or the name of an installed one (`distribution:name`, an alias).

    `arguments` are its own, as users write them. `given` is what a contract's checks need besides:
    `context` for an isolator, `regressor` for a model format, `metrics` for a metric schema.
    """
    from kepler_core.testing import contracts

    found, name = _resolved(plugin)
    contract = next((contract for contract in CONTRACTS.values() if issubclass(found, contract)), None)
    if contract is None:
        wanted = ", ".join(sorted(contract.__name__ for contract in CONTRACTS.values()))
        raise PluginError(f"{found.__name__} derives from no contract of kepler_core.contracts: {wanted}")
    accepted = contracts.GIVEN.get(contract, ())
    for key in given:
        if key not in accepted:
            hint = close_matches(key, accepted) if accepted else "nothing can be given"
            raise PluginError(f"checks of a {contract.__name__}: unknown {key!r}; {hint}")
    subject = Subject(found, name, dict(arguments or {}), given)
    return [Check(check, subject, function) for check, function in [*_CHECKS[Plugin], *_CHECKS[contract]]]


def _resolved(plugin: type[Any] | str) -> tuple[type[Any], str]:
    if isinstance(plugin, type):
        return plugin, plugin.__name__
    entries = list(registry.entries_named(plugin))
    if not entries:
        known = [word for r in registry.REGISTRIES.values() for e in r.entries for word in (e.name, *e.aliases)]
        raise PluginError(f"no plugin {plugin!r} is installed; {close_matches(plugin, known)}")
    if len(entries) > 1:
        names = " or ".join(f"{entry.full_name} ({entry.namespace})" for entry in entries)
        raise PluginError(f"{plugin!r} stands for several plugins: {names}; give the class")
    return registry.REGISTRIES[entries[0].namespace].get(entries[0].full_name), entries[0].name


def check_all(checks: Sequence[Check]) -> None:
    """Run checks; one `CheckError` that says all that failed."""
    failures = []
    for check in checks:
        try:
            check()
        except CheckError as error:
            failures.append(str(error))
    if failures:
        raise CheckError("\n".join(failures))


def parametrize_with_checks(
    plugin: type[Any] | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    **given: Any,
) -> Any:
    """A decorator: the test runs once for each check of the plugin, which it gets as `check`.

    `expected_failures` are checks that are known to fail, with the reason; one that passes all the
    same is a failure.
    """
    import pytest

    checks = checks_of(plugin, arguments, **given)
    expected = dict(expected_failures or {})
    for name in expected:
        if name not in {check.name for check in checks}:
            raise PluginError(f"no check {name!r}; {close_matches(name, [check.name for check in checks])}")
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                check,
                id=check.name,
                marks=[pytest.mark.xfail(reason=expected[check.name], raises=CheckError, strict=True)]
                if check.name in expected
                else [],
            )
            for check in checks
        ],
    )
