"""Functions that collect the checks of a plugin, run the checks, or pass them to pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kepler_core.contracts import (
    CONTRACTS,
    Collector,
    EnergySource,
    Extractor,
    Isolator,
    MetricSchema,
    ModelFormat,
    Output,
    Plugin,
    Trainer,
)
from kepler_core.errors import PluginError, close_matches
from kepler_core.plugins import registry
from kepler_core.testing import (
    collectors,
    energy_sources,
    extractors,
    isolators,
    metric_schemas,
    model_formats,
    outputs,
    plugins,
    trainers,
)
from kepler_core.testing.checks import Check, CheckError, CheckFunction, Subject

CHECKS: dict[type[Plugin], tuple[CheckFunction, ...]] = {
    Trainer: trainers.CHECKS,
    Isolator: isolators.CHECKS,
    Extractor: extractors.CHECKS,
    EnergySource: energy_sources.CHECKS,
    MetricSchema: metric_schemas.CHECKS,
    ModelFormat: model_formats.CHECKS,
    Collector: collectors.CHECKS,
    Output: outputs.CHECKS,
}
"""For each contract, its own checks. They run after `plugins.CHECKS`, the checks for all contracts."""

EXTRAS: dict[type[Plugin], tuple[str, ...]] = {
    Isolator: ("context",),
    ModelFormat: ("regressor",),
    MetricSchema: ("metrics", "scrape"),
}
"""For each contract, the names of the additional objects that users can pass to its checks."""


def checks_of(plugin: type[Any] | str, arguments: Mapping[str, Any] | None = None, **extras: Any) -> list[Check]:
    """Return the checks of a plugin.

    `plugin` is a class, or the name, alias or `distribution:name` of an installed plugin. `arguments` are
    passed to the plugin's `__init__`, as users write them in a pipeline file. `extras` are additional
    objects for the checks of some contracts: `context` for an isolator, `regressor` for a model format,
    `metrics` and `scrape` for a metric schema.
    """
    plugin_class, name = _resolved(plugin)
    contract = next((contract for contract in CONTRACTS.values() if issubclass(plugin_class, contract)), None)
    if contract is None:
        contracts = ", ".join(sorted(contract.__name__ for contract in CONTRACTS.values()))
        raise PluginError(f"{plugin_class.__name__} derives from no contract of kepler_core.contracts: {contracts}")
    accepted = EXTRAS.get(contract, ())
    for key in extras:
        if key not in accepted:
            hint = close_matches(key, accepted) if accepted else "no extra objects are accepted"
            raise PluginError(f"checks of a {contract.__name__}: unknown {key!r}; {hint}")
    subject = Subject(plugin_class, name, dict(arguments or {}), extras)
    return [Check(function.__name__, subject, function) for function in (*plugins.CHECKS, *CHECKS[contract])]


def check_all(checks: Sequence[Check]) -> None:
    """Run checks and raise one `CheckError` with a line for each failed check."""
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
    **extras: Any,
) -> Any:
    """Return a decorator that runs a test once for each check of the plugin; the test's argument is `check`.

    `expected_failures` maps the names of checks that are known to fail to the reasons why they fail. If an
    expected failure does not occur, the test fails.
    """
    import pytest

    checks = checks_of(plugin, arguments, **extras)
    reasons = dict(expected_failures or {})
    for name in reasons:
        if name not in {check.name for check in checks}:
            raise PluginError(f"no check {name!r}; {close_matches(name, [check.name for check in checks])}")

    def marks(check: Check) -> list[Any]:
        if check.name not in reasons:
            return []
        return [pytest.mark.xfail(reason=reasons[check.name], raises=CheckError, strict=True)]

    return pytest.mark.parametrize(
        "check", [pytest.param(check, id=check.name, marks=marks(check)) for check in checks]
    )


def _resolved(plugin: type[Any] | str) -> tuple[type[Any], str]:
    """Return the class of a plugin, and the name of the plugin for error messages."""
    if isinstance(plugin, type):
        return plugin, plugin.__name__
    entries = list(registry.entries_named(plugin))
    if not entries:
        words = [word for r in registry.REGISTRIES.values() for e in r.entries for word in (e.name, *e.aliases)]
        raise PluginError(f"no plugin {plugin!r} is installed; {close_matches(plugin, words)}")
    if len(entries) > 1:
        names = " or ".join(f"{entry.full_name} ({entry.namespace})" for entry in entries)
        raise PluginError(f"{plugin!r} stands for several plugins: {names}; pass the class instead")
    return registry.REGISTRIES[entries[0].namespace].get(entries[0].full_name), entries[0].name
