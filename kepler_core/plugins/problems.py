"""Descriptions of plugins that cannot be used, with the pip command if a module is not installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator

import attrs

from kepler_core.contracts import Plugin
from kepler_core.errors import missing_extra, modules_of_extra
from kepler_core.messages import one_line
from kepler_core.plugins.entries import PluginEntry
from kepler_core.plugins.settings import OWN, normalised

_REQUIRED_NAME = re.compile(r"[A-Za-z0-9._-]+")


@attrs.frozen
class BrokenPlugin:
    """An installed plugin that cannot be used, and the reason."""

    entry: PluginEntry
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.entry.name} ({self.entry.namespace}, from {self.entry.distribution} "
            f"{self.entry.version}): {self.reason}"
        )


def import_problem(error: BaseException, plugin: str, distribution: str = "") -> str:
    """Return one line that says why a plugin's code raised an error.

    A missing module may come from an extra of kepler-core, or from a requirement of the plugin's distribution. Then the
    line ends with the pip command that installs the module.
    """
    if isinstance(error, ModuleNotFoundError):
        extra = missing_extra(error, plugin)
        if extra is not None:
            return str(extra)
        if command := _pip_command(error.name or "", distribution):
            return f"{one_line(error)}: {command}"
    return one_line(error)


def missing_modules(plugin: type[Plugin]) -> list[str]:
    """Return the modules that the plugin's extra (`Plugin.extra`) would install and that are missing."""
    if plugin.extra is None:
        return []
    return [module for module in modules_of_extra(plugin.extra) if importlib.util.find_spec(module) is None]


def required_versions(distribution: str) -> dict[str, str]:
    """Return the installed version of each distribution that a third-party distribution requires.

    Optional requirements (extras) and kepler-core are left out. For kepler-core itself, the result is empty.
    """
    versions: dict[str, str] = {}
    if distribution == OWN:
        return versions
    for name, _, marker in _requirements(distribution):
        if normalised(name) == OWN or "extra ==" in marker:
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[normalised(name)] = importlib.metadata.version(name)
    return versions


def _pip_command(module: str, distribution: str) -> str:
    """Return the pip command that installs a missing module, or "" if the distribution does not require it."""
    missing = normalised(module.partition(".")[0])
    for name, specifier, marker in _requirements(distribution):
        if normalised(name) != missing:
            continue
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        return f"pip install '{distribution}[{extra[1]}]'" if extra else f"pip install '{specifier}'"
    return ""


def _requirements(distribution: str) -> Iterator[tuple[str, str, str]]:
    """Yield each requirement of a distribution: its name, the name with the versions, and the environment marker."""
    try:
        requirements = importlib.metadata.requires(distribution) if distribution else None
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements or ():
        specifier, _, marker = requirement.partition(";")
        if name := _REQUIRED_NAME.match(specifier):
            yield name[0], specifier.strip(), marker
