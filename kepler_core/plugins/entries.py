"""The installed plugins, as the metadata of their distributions describes them.

Nothing is imported. One scan of the metadata serves a process.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import attrs

from kepler_core.contracts import PLUGIN_API
from kepler_core.plugins.settings import normalised, read_settings

API_GROUP = "kepler.plugin_api"
"""Entry-point group whose names are the plugin API versions that a distribution was written for."""
UNDECLARED_API = "1.0"
"""The plugin API version of a distribution that declares none."""

_ALIASES = ".aliases"


@attrs.frozen
class Refusal:
    """Why an installed plugin is not loaded."""

    kind: Literal["turned off", "plugin API"]
    """"turned off": a setting forbids it. "plugin API": it was written for another version."""
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
    """`module:attribute`, or a module for a listener."""
    refusal: Refusal | None = attrs.field(default=None, order=False)
    """None if the plugin may be loaded."""

    @property
    def full_name(self) -> str:
        """`distribution:name`."""
        return f"{self.distribution}:{self.name}"

    @property
    def turned_off(self) -> bool:
        """Whether a setting forbids the plugin; such a plugin is not broken."""
        return self.refusal is not None and self.refusal.kind == "turned off"

    @property
    def entry_point(self) -> importlib.metadata.EntryPoint:
        """The entry point, under the full name, so that two distributions may use one name."""
        return importlib.metadata.EntryPoint(self.full_name, self.target, self.namespace)


@attrs.frozen(eq=False)
class InstalledPlugins:
    """The result of one scan."""

    namespaces: dict[str, tuple[PluginEntry, ...]]
    """Namespace -> its plugins, refused ones included, sorted."""
    plugin_apis: dict[str, tuple[str, ...]]
    """Distribution -> the plugin API versions that it declares."""

    def of(self, namespace: str) -> tuple[PluginEntry, ...]:
        """Return the plugins of a namespace, refused ones included."""
        return self.namespaces.get(namespace, ())

    def has_distribution(self, distribution: str) -> bool:
        """Return whether a distribution of this name is installed, with or without plugins."""
        if any(entry.distribution == distribution for entries in self.namespaces.values() for entry in entries):
            return True
        try:
            importlib.metadata.version(distribution)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            return False
        return True


@attrs.frozen
class _Declaration:
    """One line of a distribution's `entry_points.txt`."""

    group: str
    name: str
    target: str
    distribution: str
    version: str


@lru_cache(maxsize=1)
def installed_plugins() -> InstalledPlugins:
    """Scan the installed distributions, at the first call in a process."""
    declarations = _declarations()
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
    return InstalledPlugins({group: tuple(sorted(entries)) for group, entries in namespaces.items()}, apis)


def _declarations() -> list[_Declaration]:
    declarations: dict[_Declaration, None] = {}
    scanned: set[str] = set()
    for dist in importlib.metadata.distributions():
        # parsing the metadata of every distribution would take longer than all else here
        if "[kepler." not in (dist.read_text("entry_points.txt") or ""):
            continue
        distribution, version = _name_and_version(dist)
        if distribution in scanned:
            continue  # installed twice: Python imports the one that is first on sys.path
        scanned.add(distribution)
        for entry_point in dist.entry_points:
            if entry_point.group.startswith("kepler."):
                declaration = _Declaration(
                    entry_point.group, entry_point.name, entry_point.value, distribution, version
                )
                declarations[declaration] = None
    return list(declarations)


def _name_and_version(dist: importlib.metadata.Distribution) -> tuple[str, str]:
    # an interrupted uninstall leaves metadata without a name
    metadata: Any = dist.metadata
    name = None if metadata is None else metadata["Name"]
    return (normalised(name), metadata["Version"] or "") if name else ("unknown", "")


def api_problem(declared: Iterable[str]) -> str:
    """Return why a distribution that declares these plugin API versions cannot be used, or "" if it can.

    "1.2" means from 1.2 up to, but without, 2.0. A distribution that works with several major versions
    declares one version of each.
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
