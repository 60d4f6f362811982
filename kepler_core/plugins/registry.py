"""Plugins by name: one registry per entry-point namespace.

    trainers.names()                 list the names; imports no plugin
    trainers.get("min")              import a plugin at its first use and return its class
    trainers.create("X", {"a": 1})   return an instance, with checked arguments

If two distributions use one name, that name is an error until the user writes `distribution:name`.
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
from kepler_core.plugins.arguments import create
from kepler_core.plugins.entries import PluginEntry, installed_plugins
from kepler_core.plugins.loading import load_entry
from kepler_core.plugins.problems import BrokenPlugin, import_problem
from kepler_core.plugins.settings import OWN, normalised

P = TypeVar("P", bound=Plugin)


class Registry(Generic[P]):
    """The plugins of one namespace."""

    def __init__(self, namespace: str, contract: type[P]) -> None:
        self.namespace = namespace
        self.contract = contract
        self._loaded: dict[str, type[P]] = {}
        self._broken: dict[str, BrokenPlugin] = {}

    def forget(self) -> None:
        """Drop the entries and the loaded classes, so that the next use reads them again."""
        for attribute in ("installed", "entries"):
            self.__dict__.pop(attribute, None)
        self._loaded.clear()
        self._broken.clear()

    @property
    def kind(self) -> str:
        """The kind of plugin, for messages: "trainer", "energy source"."""
        return self.namespace.removeprefix("kepler.").removesuffix("s").replace("_", " ")

    @cached_property
    def installed(self) -> tuple[PluginEntry, ...]:
        """All installed plugins, refused ones included, sorted by name."""
        return installed_plugins().of(self.namespace)

    @cached_property
    def entries(self) -> tuple[PluginEntry, ...]:
        """The plugins that may be loaded, sorted by name."""
        return tuple(entry for entry in self.installed if entry.refusal is None)

    def names(self) -> list[str]:
        """Return the sorted names, without aliases."""
        return sorted({entry.name for entry in self.entries})

    def claims(self, name_or_alias: str, distribution: str = "") -> list[PluginEntry]:
        """Return the entries that a name or an alias stands for.

        A name takes precedence over another plugin's alias of the same spelling.
        """
        return _claims(self.entries, name_or_alias, distribution)

    def entry(self, name: str) -> PluginEntry:
        """Return the entry of a name, an alias or `distribution:name`.

        Raises `PluginError` if the plugin is unknown, refused, or one of several with that name.
        """
        if not isinstance(name, str):
            raise PluginError(f"a {self.kind} is named by a string, not {name!r}")
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
        return UnknownPluginError(self.namespace, name, f"unknown {self.kind} {name!r}; {hint}")

    def canonical(self, name: str) -> str:
        """Return the name of the plugin that a name or an alias stands for."""
        return self.entry(name).name

    def get(self, name: str) -> type[P]:
        """Return a plugin's class, imported at the first call.

        Raises `PluginError` with the distribution and the reason if the plugin cannot be used.
        """
        return self.load(self.entry(name))

    def load(self, entry: PluginEntry) -> type[P]:
        """Return the class of an entry, as `get`."""
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
        """Return an instance, with the arguments checked against the signature and its annotations."""
        return create(self.get(name), name, arguments or {})

    def load_all(self) -> tuple[dict[str, type[P]], list[BrokenPlugin]]:
        """Return every plugin that can be loaded, by name, and the broken ones.

        Of several plugins with one name the result holds kepler-core's own. Plugins that a setting
        turns off count neither as loaded nor as broken.
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
        """Return `distribution:name` of a class, or the name of a class that no entry point names."""
        target = f"{plugin.__module__}:{plugin.__qualname__}"
        return next((entry.full_name for entry in self.entries if entry.target == target), plugin.__name__)

    def preferred(self, name: str) -> type[P]:
        """Return the class of a plugin's name where no user can choose: of several, kepler-core's own."""
        claims = [entry for entry in self.entries if entry.name == name]
        if len(claims) < 2:
            return self.get(name)
        return self.load(next((entry for entry in claims if entry.distribution == OWN), claims[0]))

    def _imported(self, entry: PluginEntry) -> Any:
        try:
            return load_entry(entry)
        except (Exception, SystemExit) as error:  # third-party code; it must not end the program that loads it
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
    """Return whether a class attribute has the type of its contract: str, str | None, or tuple[str, ...]."""
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

REGISTRIES: dict[str, Registry[Any]] = {
    registry.namespace: registry
    for registry in (trainers, isolators, extractors, energy_sources, metric_schemas, model_formats)
}
assert REGISTRIES.keys() == CONTRACTS.keys()


def entries_named(name: str) -> Iterator[PluginEntry]:
    """Yield the entries, refused ones included, that a name, an alias or `distribution:name` stands for."""
    prefix, _, bare = name.rpartition(":")
    distribution = normalised(prefix)
    for registry in REGISTRIES.values():
        for entry in registry.installed:
            if bare in (entry.name, *entry.aliases) and distribution in ("", entry.distribution):
                yield entry


def forget_entry_points() -> None:
    """Scan the metadata again at the next use, after distributions were installed or removed."""
    installed_plugins.cache_clear()
    for registry in REGISTRIES.values():
        registry.forget()
