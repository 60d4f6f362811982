"""Descriptions of the installed plugins, read from the metadata of their distributions.

No plugin is imported. A process scans the metadata once and keeps the result.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import attrs

from kepler_core.contracts import PLUGIN_API
from kepler_core.messages import one_line
from kepler_core.plugins.settings import normalised, read_settings

log = logging.getLogger(__name__)

API_GROUP = "kepler.plugin_api"
"""Entry-point group whose names are the plugin API versions that a distribution was written for."""
UNDECLARED_API = "1.0"
"""Plugin API version that is assumed for a distribution that declares no plugin API version."""

_ALIASES = ".aliases"


@attrs.frozen
class Refusal:
    """The reason why an installed plugin is not loaded."""

    kind: Literal["turned off", "plugin API"]
    """"turned off" if a setting forbids the plugin, "plugin API" if it was written for an incompatible version."""
    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.frozen(order=True)
class PluginEntry:
    """An installed plugin, described by its entry point."""

    namespace: str
    name: str
    aliases: tuple[str, ...]
    distribution: str
    version: str
    target: str
    """What the entry point names: `module:attribute`. For a listener, it can also be only `module`."""
    refusal: Refusal | None = attrs.field(default=None, order=False)
    """Why the plugin is not loaded; None if it may be loaded."""

    @property
    def full_name(self) -> str:
        """The unambiguous name of the plugin: `distribution:name`."""
        return f"{self.distribution}:{self.name}"

    @property
    def turned_off(self) -> bool:
        """True if a setting forbids the plugin. A plugin that is turned off is not reported as broken."""
        return self.refusal is not None and self.refusal.kind == "turned off"

    @property
    def entry_point(self) -> importlib.metadata.EntryPoint:
        """The plugin's entry point. Its name is the plugin's full name, because two plugins may have the same name."""
        return importlib.metadata.EntryPoint(self.full_name, self.target, self.namespace)


@attrs.frozen(eq=False)
class InstalledPlugins:
    """The plugins that one scan of the installed distributions found."""

    namespaces: dict[str, tuple[PluginEntry, ...]]
    """Maps each namespace to the sorted entries of its plugins, including refused plugins."""
    plugin_apis: dict[str, tuple[str, ...]]
    """Maps each distribution to the plugin API versions that it declares."""
    unreadable: dict[str, str]
    """Maps each distribution whose `entry_points.txt` cannot be read to the reason."""

    def of(self, namespace: str) -> tuple[PluginEntry, ...]:
        """Return the sorted entries of a namespace's plugins, including refused plugins."""
        return self.namespaces.get(namespace, ())

    def has_distribution(self, distribution: str) -> bool:
        """Return whether a distribution with this name is installed, with or without plugins."""
        if any(entry.distribution == distribution for entries in self.namespaces.values() for entry in entries):
            return True
        try:
            importlib.metadata.version(distribution)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            return False
        return True


@attrs.frozen
class _Declaration:
    """One entry point, as a line of a distribution's `entry_points.txt` declares it."""

    group: str
    name: str
    target: str
    distribution: str
    version: str


@lru_cache(maxsize=1)
def installed_plugins() -> InstalledPlugins:
    """Return the installed plugins. The first call in a process scans the metadata of all distributions."""
    unreadable: dict[str, str] = {}
    declarations = _declarations(unreadable)
    for distribution, reason in sorted(unreadable.items()):
        log.warning("the plugins of distribution %s cannot be used: %s", distribution, reason)
    apis: dict[str, tuple[str, ...]] = {}
    aliases: dict[tuple[str, str, str], list[str]] = {}
    plugins = []
    for declared in declarations:
        if declared.group == API_GROUP:
            apis[declared.distribution] = (*apis.get(declared.distribution, ()), declared.name)
        elif declared.group.endswith(_ALIASES):
            key = declared.group.removesuffix(_ALIASES), declared.distribution, declared.target
            aliases.setdefault(key, []).append(declared.name)
        else:
            plugins.append(declared)
    settings = read_settings()
    namespaces: dict[str, list[PluginEntry]] = {}
    for plugin in plugins:
        refusal = None
        if reason := settings.reason_against(plugin.distribution, plugin.name):
            refusal = Refusal("turned off", reason)
        elif reason := api_problem(apis.get(plugin.distribution, (UNDECLARED_API,))):
            refusal = Refusal("plugin API", reason)
        own_aliases = tuple(sorted(aliases.get((plugin.group, plugin.distribution, plugin.target), ())))
        namespaces.setdefault(plugin.group, []).append(
            PluginEntry(
                plugin.group, plugin.name, own_aliases, plugin.distribution, plugin.version, plugin.target, refusal
            )
        )
    return InstalledPlugins({group: tuple(sorted(entries)) for group, entries in namespaces.items()}, apis, unreadable)


def _declarations(unreadable: dict[str, str]) -> list[_Declaration]:
    """Return the entry points of all distributions.

    A distribution whose `entry_points.txt` cannot be read is added to `unreadable`, with the reason.
    """
    declarations: dict[_Declaration, None] = {}
    scanned: set[str] = set()
    for dist in importlib.metadata.distributions():
        try:
            distribution, of_distribution = _declarations_of(dist)
        # importlib.metadata (Python 3.11 to 3.13) raises errors of many types for files that are no INI files
        except Exception as error:
            reason = f"its entry_points.txt cannot be read ({one_line(error, 100)})"
            unreadable.setdefault(_folder_name(dist), f"{reason}; reinstall the distribution")
            continue
        if not of_distribution or distribution in scanned:
            continue  # no plugins, or a second copy of the distribution (Python imports the first on sys.path)
        scanned.add(distribution)
        declarations |= dict.fromkeys(of_distribution)
    return list(declarations)


def _declarations_of(dist: importlib.metadata.Distribution) -> tuple[str, list[_Declaration]]:
    """Return a distribution's name and its entry points for Kepler Core; ("", []) if it has no such entry points."""
    # skip distributions without plugins early, because parsing their metadata is the slow part of the scan
    if "[kepler." not in (dist.read_text("entry_points.txt") or ""):
        return "", []
    distribution, version = _name_and_version(dist)
    return distribution, [
        _Declaration(entry_point.group, entry_point.name, entry_point.value, distribution, version)
        for entry_point in dist.entry_points
        if entry_point.group.startswith("kepler.")
    ]


def _folder_name(dist: importlib.metadata.Distribution) -> str:
    """Return a distribution's name, taken from the name of its metadata folder.

    The metadata are not read, because they may be damaged.
    """
    folder = getattr(dist, "_path", None)
    return normalised(re.split(r"-\d|\.(?:dist|egg)-info", folder.name)[0]) if folder is not None else "unknown"


def _name_and_version(dist: importlib.metadata.Distribution) -> tuple[str, str]:
    # if an uninstall was interrupted, the metadata that it left behind may have no name
    metadata: Any = dist.metadata
    name = None if metadata is None else metadata["Name"]
    return (normalised(name), metadata["Version"] or "") if name else ("unknown", "")


def api_problem(declared: Iterable[str]) -> str:
    """Return why a distribution that declares these plugin API versions cannot be used, or "" if it can.

    A plugin that declares "1.2" works with the plugin API versions from 1.2 up to, but not including, 2.0. A
    distribution that works with several major versions declares one version for each major version.
    """
    versions = sorted(declared)
    for version in versions:
        numbers = re.fullmatch(r"(\d+)\.(\d+)", version)
        if numbers is None:
            return f"declares plugin API {version!r}, which is not a version like 1.0"
        major, minor = map(int, numbers.groups())
        if major == PLUGIN_API[0] and minor <= PLUGIN_API[1]:
            return ""
    ours = ".".join(map(str, PLUGIN_API))
    all_newer = all(tuple(map(int, version.split("."))) > PLUGIN_API for version in versions)
    remedy = "update kepler-core" if all_newer else "look for a newer version of the plugin"
    return f"was written for plugin API {' and '.join(versions)}; this kepler-core has {ours}: {remedy}"
