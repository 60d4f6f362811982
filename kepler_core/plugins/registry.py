"""Registries, which find and load plugins by name: one registry per entry-point namespace.

    trainers.names()                 list the names; imports no plugin
    trainers.get("min")              import a plugin at its first use and return its class
    trainers.create("X", {"a": 1})   return an instance, with checked arguments

If plugins of two distributions have the same name, users must write `distribution:name` instead of the name alone.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from kepler_core.contracts import (
    CONTRACTS,
    EnergySource,
    Extractor,
    Isolator,
    MetricSchema,
    ModelFormat,
    Plugin,
    Trainer,
)
from kepler_core.errors import PluginError, UnknownPluginError, close_matches
from kepler_core.messages import quoted
from kepler_core.metering import Collector, Output
from kepler_core.plugins.arguments import create
from kepler_core.plugins.entries import PluginEntry, installed_plugins
from kepler_core.plugins.loading import load_entry
from kepler_core.plugins.problems import BrokenPlugin, import_problem
from kepler_core.plugins.settings import OWN, normalised

P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """The plugins of one namespace, found and loaded by name."""

    def __init__(self, namespace: str, contract: type[P]) -> None:
        self.namespace = namespace
        self.contract = contract
        self._loaded: dict[str, type[P]] = {}
        self._broken: dict[str, BrokenPlugin] = {}

    def forget(self) -> None:
        """Forget the plugins' entries and classes, so that the next use of the registry looks them up again."""
        for attribute in ("installed", "entries"):
            self.__dict__.pop(attribute, None)
        self._loaded.clear()
        self._broken.clear()

    @property
    def kind(self) -> str:
        """The kind of the plugins, for messages, e.g. "trainer" or "energy source"."""
        return self.namespace.removeprefix("kepler.").removesuffix("s").replace("_", " ")

    @cached_property
    def installed(self) -> tuple[PluginEntry, ...]:
        """The entries of all installed plugins, including refused plugins, sorted by name."""
        return installed_plugins().of(self.namespace)

    @cached_property
    def entries(self) -> tuple[PluginEntry, ...]:
        """The entries of the plugins that may be loaded, sorted by name."""
        return tuple(entry for entry in self.installed if entry.refusal is None)

    def names(self) -> list[str]:
        """Return the sorted names of the plugins that may be loaded, without aliases."""
        return sorted({entry.name for entry in self.entries})

    def claims(self, name_or_alias: str, distribution: str = "") -> list[PluginEntry]:
        """Return the entries of the plugins whose name or alias is `name_or_alias`.

        Names take precedence: plugins with this alias are returned only if no plugin has this name. If
        `distribution` is not empty, only plugins of this distribution are considered.
        """
        return _claims(self.entries, name_or_alias, distribution)

    def entry(self, name: str) -> PluginEntry:
        """Return the entry of the plugin that has this name, alias or full name (`distribution:name`).

        Raises `PluginError` if no plugin or more than one plugin has this name, or if the plugin is refused.
        """
        if not isinstance(name, str):
            raise PluginError(f"{self.kind}: the name must be a string, not {name!r}")
        prefix, _, bare = name.rpartition(":")
        distribution = normalised(prefix)
        claims = self.claims(bare, distribution)
        if not claims:
            raise self._unknown(name, bare, distribution)
        if len(claims) > 1:
            choices = " or ".join(repr(entry.full_name) for entry in claims)
            raise PluginError(f"{self.kind} {name!r} stands for several plugins; write {choices}")
        return claims[0]

    def _unknown(self, name: str, bare: str, distribution: str) -> PluginError:
        for entry in _claims(self.installed, bare, distribution):
            return PluginError(str(BrokenPlugin(entry, str(entry.refusal))))
        hint = close_matches(bare, [word for entry in self.entries for word in (entry.name, *entry.aliases)])
        if distribution and not installed_plugins().has_distribution(distribution):
            hint = f"{distribution} is not installed: pip install {distribution}"
        return UnknownPluginError(self.namespace, name, f"unknown {self.kind} {quoted(name)}; {hint}")

    def canonical(self, name: str) -> str:
        """Return the name of the plugin that has this name, alias or full name (`distribution:name`)."""
        return self.entry(name).name

    def get(self, name: str) -> type[P]:
        """Return the class of the plugin with this name or alias; the first call imports the plugin.

        Raises `PluginError` with the distribution and the reason if the plugin cannot be used.
        """
        return self.load(self.entry(name))

    def load(self, entry: PluginEntry) -> type[P]:
        """Return the class of the plugin that an entry describes; the first call imports the plugin.

        Raises `PluginError` with the distribution and the reason if the plugin cannot be used.
        """
        key = entry.full_name
        if key in self._broken:
            raise PluginError(str(self._broken[key]))
        if key not in self._loaded:
            try:
                self._loaded[key] = self._checked(self._imported(entry))
            except PluginError as error:
                self._broken[key] = BrokenPlugin(entry, str(error))
                raise PluginError(str(self._broken[key])) from error
        return self._loaded[key]

    def create(self, name: str, arguments: Mapping[str, Any] | None = None) -> P:
        """Return an instance of a plugin, made with arguments that were checked against its `__init__`."""
        return create(self.get(name), name, arguments or {})

    def load_all(self) -> tuple[dict[str, type[P]], list[BrokenPlugin]]:
        """Load all plugins. Return the classes of the plugins that can be loaded, by name, and the broken plugins.

        If several loaded plugins have the same name, the class of kepler-core's plugin is returned. If kepler-core has
        no plugin of this name, the class of the plugin that comes first in `entries` is returned. Plugins that a
        setting turns off are in neither result.
        """
        loaded: dict[str, type[P]] = {}
        broken = [
            BrokenPlugin(entry, str(entry.refusal))
            for entry in self.installed
            if entry.refusal and not entry.turned_off
        ]
        for entry in self.entries:
            try:
                plugin = self.load(self.entry(entry.full_name))
            except PluginError:
                if entry.full_name in self._broken:
                    broken.append(self._broken[entry.full_name])
                continue
            if entry.name not in loaded or entry.distribution == OWN:
                loaded[entry.name] = plugin
        return loaded, broken

    def full_name(self, plugin: type[Plugin]) -> str:
        """Return `distribution:name` of a plugin class, or the class name if no entry point names the class."""
        target = f"{plugin.__module__}:{plugin.__qualname__}"
        return next((entry.full_name for entry in self.entries if entry.target == target), plugin.__name__)

    def preferred(self, name: str) -> type[P]:
        """Return the class of the plugin with a name; kepler-core's own plugin is preferred.

        If kepler-core has no plugin of this name, the plugin that comes first in `entries` is taken. The user cannot
        choose between plugins of one name, because the estimator's requests and stored models name energy sources
        without a distribution.
        """
        claims = [entry for entry in self.entries if entry.name == name]
        if len(claims) < 2:
            return self.get(name)
        return self.load(next((entry for entry in claims if entry.distribution == OWN), claims[0]))

    def _imported(self, entry: PluginEntry) -> Any:
        try:
            return load_entry(entry)
        except (Exception, SystemExit) as error:  # third-party code must not end the program
            problem = import_problem(error, entry.name, entry.distribution)
            raise PluginError(f"cannot be imported: {problem}") from error

    def _checked(self, plugin: Any) -> type[P]:
        if not (isinstance(plugin, type) and issubclass(plugin, self.contract)):
            raise PluginError(
                f"breaks its contract: {plugin!r} is not a class that derives from "
                f"kepler_core.contracts.{self.contract.__name__}"
            )
        if missing := getattr(plugin, "__abstractmethods__", None):
            raise PluginError(f"breaks its contract: {', '.join(sorted(missing))} not implemented")
        for attribute, hint in typing.get_type_hints(self.contract).items():
            if not hasattr(plugin, attribute):
                raise PluginError(f"breaks its contract: no attribute {attribute!r}")
            value = getattr(plugin, attribute)
            if typing.get_origin(hint) is not typing.ClassVar:
                continue
            (expected,) = typing.get_args(hint)
            if not _has_type(value, expected):
                type_name = "str" if expected is str else expected
                raise PluginError(f"breaks its contract: {attribute} is {value!r}, not {type_name}")
        return plugin


def _has_type(value: object, expected: Any) -> bool:
    """Return whether the value of a class attribute has the type that the plugin's contract declares.

    The declared types are str, str | None and tuple[str, ...].
    """
    if typing.get_origin(expected) is tuple:
        return isinstance(value, tuple) and all(isinstance(word, str) for word in value)
    return isinstance(value, expected)


def _claims(entries: Iterable[PluginEntry], name_or_alias: str, distribution: str) -> list[PluginEntry]:
    claims = [
        entry
        for entry in entries
        if name_or_alias in (entry.name, *entry.aliases) and distribution in ("", entry.distribution)
    ]
    return [entry for entry in claims if entry.name == name_or_alias] or claims


trainers = Registry("kepler.trainers", Trainer)  # type: ignore[type-abstract]
isolators = Registry("kepler.isolators", Isolator)  # type: ignore[type-abstract]
extractors = Registry("kepler.extractors", Extractor)  # type: ignore[type-abstract]
energy_sources = Registry("kepler.energy_sources", EnergySource)
metric_schemas = Registry("kepler.metric_schemas", MetricSchema)  # type: ignore[type-abstract]
model_formats = Registry("kepler.model_formats", ModelFormat)  # type: ignore[type-abstract]
collectors = Registry("kepler.collectors", Collector)  # type: ignore[type-abstract]
outputs = Registry("kepler.outputs", Output)  # type: ignore[type-abstract]

REGISTRIES: dict[str, Registry[Any]] = {
    registry.namespace: registry
    for registry in (
        trainers,
        isolators,
        extractors,
        energy_sources,
        metric_schemas,
        model_formats,
        collectors,
        outputs,
    )
}
assert REGISTRIES.keys() == CONTRACTS.keys()


def entries_named(name: str) -> Iterator[PluginEntry]:
    """Yield the entries of all plugins whose name, alias or full name is `name`, including refused plugins."""
    prefix, _, bare = name.rpartition(":")
    distribution = normalised(prefix)
    for registry in REGISTRIES.values():
        for entry in registry.installed:
            if bare in (entry.name, *entry.aliases) and distribution in ("", entry.distribution):
                yield entry


def forget_entry_points() -> None:
    """Forget all installed plugins, so that the next use finds distributions that were installed in the meantime."""
    installed_plugins.cache_clear()
    for registry in REGISTRIES.values():
        registry.forget()
