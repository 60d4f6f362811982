"""Plugins by name: one registry per entry-point namespace, on stevedore.

    trainers.names()                 listing imports no plugin
    trainers.get("min")              a plugin is imported when it is first asked for
    trainers.create("X", {"a": 1})   with its arguments checked

A name that two distributions claim is an error until one is chosen as `distribution:name`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
from stevedore import ExtensionManager

from kepler_core.contracts import (
    CONTRACTS,
    PLUGIN_API,
    EnergySource,
    Extractor,
    Isolator,
    MetricSchema,
    ModelFormat,
    Plugin,
    Trainer,
)
from kepler_core.errors import PluginError, close_matches, missing_extra

P = TypeVar("P", bound=Plugin)


@attrs.frozen(order=True)
class PluginEntry:
    """What is known of a plugin without importing it."""

    namespace: str
    name: str
    aliases: tuple[str, ...]
    distribution: str
    version: str
    target: str

    @property
    def full_name(self) -> str:
        return f"{self.distribution}:{self.name}"


@attrs.frozen
class BrokenPlugin:
    """A plugin that cannot be used, and why."""

    entry: PluginEntry
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.entry.name} ({self.entry.namespace}, from {self.entry.distribution} "
            f"{self.entry.version}): {self.reason}"
        )


@attrs.frozen
class Argument:
    """One argument that a plugin takes in YAML."""

    name: str
    type: str
    default: Any
    required: bool


def entry_points_of(namespace: str) -> list[importlib.metadata.EntryPoint]:
    """The entry points of a group; scanned once a process."""
    # stevedore would keep a cache of these on disk; nothing is to be written behind the user's
    # back, and one scan a process is cheap. The same installed distribution can be on sys.path twice.
    cache = ExtensionManager.ENTRY_POINT_CACHE
    if namespace not in cache:
        found: dict[tuple[str, str, str], importlib.metadata.EntryPoint] = {}
        for entry_point in importlib.metadata.entry_points(group=namespace):
            found.setdefault((distribution_of(entry_point)[0], entry_point.name, entry_point.value), entry_point)
        cache[namespace] = list(found.values())
    found_here: list[importlib.metadata.EntryPoint] = cache[namespace]
    return found_here


def distribution_of(entry_point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Normalised name and version of the distribution that an entry point comes from."""
    dist = entry_point.dist
    # an interrupted uninstall leaves metadata behind that has no name
    name: str | None = None if dist is None else dist.metadata["Name"]
    if dist is None or not name:
        return "unknown", ""
    return _normalised(name), dist.metadata["Version"] or ""


if TYPE_CHECKING:
    _ExtensionManager = ExtensionManager[Any]
else:
    _ExtensionManager = ExtensionManager  # of older versions it is not generic


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


class _OneExtension(_ExtensionManager):
    """stevedore, asked for one entry point: its others are not imported."""

    def __init__(
        self,
        namespace: str,
        entry_point: importlib.metadata.EntryPoint,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._wanted = entry_point
        super().__init__(namespace, on_load_failure_callback=lambda manager, wanted, error: failed(error))

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return [self._wanted]


def import_problem(error: BaseException, what: str) -> str:
    """Why an import failed, one line; with the pip command where an extra is missing."""
    extra = missing_extra(error, what) if isinstance(error, ModuleNotFoundError) else None
    return str(extra) if extra is not None else one_line(error)


def forget_entry_points() -> None:
    """Scan again at the next question, after distributions were installed or removed."""
    for registry in REGISTRIES.values():
        registry.forget()


class Registry(Generic[P]):
    """The plugins of one namespace."""

    def __init__(self, namespace: str, contract: type[P]) -> None:
        self.namespace = namespace
        self.contract = contract
        self._loaded: dict[str, type[P]] = {}
        self._broken: dict[str, BrokenPlugin] = {}

    def forget(self) -> None:
        ExtensionManager.ENTRY_POINT_CACHE.pop(self.namespace, None)
        ExtensionManager.ENTRY_POINT_CACHE.pop(self.namespace + ".aliases", None)
        self.__dict__.pop("entries", None)
        self._loaded.clear()
        self._broken.clear()

    @property
    def kind(self) -> str:
        """What one of them is called: "trainer", "energy source"."""
        return self.namespace.removeprefix("kepler.").removesuffix("s").replace("_", " ")

    @cached_property
    def entries(self) -> tuple[PluginEntry, ...]:
        """All that are installed, sorted by name; nothing is imported for it."""
        aliases: dict[tuple[str, str], list[str]] = {}
        for alias in entry_points_of(self.namespace + ".aliases"):
            aliases.setdefault((distribution_of(alias)[0], alias.value), []).append(alias.name)
        entries = []
        for entry_point in entry_points_of(self.namespace):
            distribution, version = distribution_of(entry_point)
            own = tuple(sorted(aliases.get((distribution, entry_point.value), ())))
            entries.append(PluginEntry(self.namespace, entry_point.name, own, distribution, version, entry_point.value))
        return tuple(sorted(entries))

    def names(self) -> list[str]:
        """The names (not the aliases), sorted."""
        return sorted({entry.name for entry in self.entries})

    def claims(self, word: str, distribution: str = "") -> list[PluginEntry]:
        """The entries that a name or alias stands for; a name goes before somebody else's alias."""
        found = [
            entry
            for entry in self.entries
            if (word == entry.name or word in entry.aliases) and distribution in ("", entry.distribution)
        ]
        return [entry for entry in found if entry.name == word] or found

    def entry(self, name: str) -> PluginEntry:
        """The entry of a name, an alias or `distribution:name`; `PluginError` if unknown or claimed
        by several distributions."""
        if not isinstance(name, str):
            raise PluginError(f"a {self.kind} is named by a string, not {name!r}")
        prefix, _, bare = name.rpartition(":")
        distribution = _normalised(prefix)
        found = self.claims(bare, distribution)
        if not found:
            known = [word for entry in self.entries for word in (entry.name, *entry.aliases)]
            raise PluginError(f"unknown {self.kind} {name!r}; {close_matches(bare, known)}")
        if len(found) > 1:
            claims = " or ".join(repr(entry.full_name) for entry in found)
            raise PluginError(f"{self.kind} {name!r} stands for several plugins; write {claims}")
        return found[0]

    def canonical(self, name: str) -> str:
        """The name that an alias stands for."""
        return self.entry(name).name

    def get(self, name: str) -> type[P]:
        """The plugin class, imported now if it was not yet; `PluginError` says why it cannot be."""
        return self.load(self.entry(name))

    def load(self, entry: PluginEntry) -> type[P]:
        key = entry.full_name
        if key in self._broken:
            raise PluginError(str(self._broken[key]))
        if key not in self._loaded:
            try:
                self._loaded[key] = self._import(entry)
            except PluginError as error:
                self._broken[key] = BrokenPlugin(entry, str(error))
                raise PluginError(str(self._broken[key])) from error
        return self._loaded[key]

    def create(self, name: str, arguments: Mapping[str, Any] | None = None) -> P:
        """An instance, its arguments checked against the signature and annotations."""
        return create(self.get(name), name, arguments or {})

    def load_all(self) -> tuple[dict[str, type[P]], list[BrokenPlugin]]:
        """Every plugin that can be loaded by name, and those that cannot."""
        loaded: dict[str, type[P]] = {}
        broken = []
        for entry in self.entries:
            try:
                loaded[entry.name] = self.load(self.entry(entry.full_name))
            except PluginError:
                if entry.full_name in self._broken:
                    broken.append(self._broken[entry.full_name])
        return loaded, broken

    def _import(self, entry: PluginEntry) -> type[P]:
        failures: list[BaseException] = []
        for entry_point in entry_points_of(self.namespace):
            named = distribution_of(entry_point)[0], entry_point.name, entry_point.value
            if named != (entry.distribution, entry.name, entry.target):
                continue
            try:
                manager = _OneExtension(self.namespace, entry_point, failures.append)
            except (SystemExit, AssertionError) as error:
                # stevedore hands these on; a plugin must not be able to end the program that asks
                failures.append(error)
            if failures:
                raise PluginError(f"cannot be imported: {import_problem(failures[0], entry.name)}") from failures[0]
            return self._checked(manager.extensions[0].plugin)
        raise PluginError("its entry point is gone")

    def _checked(self, plugin: Any) -> type[P]:
        if not (isinstance(plugin, type) and issubclass(plugin, self.contract)):
            raise PluginError(
                f"breaks its contract: {plugin!r} is not a class that derives from "
                f"kepler_core.contracts.{self.contract.__name__}"
            )
        if missing := getattr(plugin, "__abstractmethods__", None):
            raise PluginError(f"breaks its contract: {', '.join(sorted(missing))} not implemented")
        for attribute in typing.get_type_hints(self.contract):
            if not hasattr(plugin, attribute):
                raise PluginError(f"breaks its contract: no attribute {attribute!r}")
        api = plugin.plugin_api
        if not (isinstance(api, tuple) and len(api) == 2 and api[0] == PLUGIN_API[0] and api[1] <= PLUGIN_API[1]):
            raise PluginError(f"was written for plugin API {api!r}; this kepler-core has {PLUGIN_API!r}")
        return plugin


def one_line(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def arguments_of(plugin: type[Plugin]) -> list[Argument]:
    """The arguments that a plugin takes, read from its `__init__`."""
    if plugin.__init__ is object.__init__:
        return []
    arguments = []
    for parameter in list(inspect.signature(plugin.__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        required = parameter.default is parameter.empty
        annotation = parameter.annotation
        shown = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        arguments.append(
            Argument(
                parameter.name,
                "" if annotation is parameter.empty else str(shown),
                None if required else parameter.default,
                required,
            )
        )
    return arguments


def create(plugin: type[P], name: str, arguments: Mapping[str, Any]) -> P:
    """An instance of a plugin class; `PluginError` names the argument that is wrong."""
    known = {argument.name: argument for argument in arguments_of(plugin)}
    checked = _checked_arguments(plugin, name, arguments, known) if arguments else {}
    for argument in known.values():
        if argument.required and argument.name not in checked:
            raise PluginError(f"{name}: argument {argument.name!r} is missing")
    try:
        return plugin(**checked)
    except (Exception, SystemExit) as error:  # somebody else's code
        raise PluginError(f"{name}: {import_problem(error, name)}") from error


def _checked_arguments(
    plugin: type[Plugin], name: str, arguments: Mapping[str, Any], known: Mapping[str, Argument]
) -> dict[str, Any]:
    # imported here: it takes a tenth of the estimator's start, which gives no plugin an argument
    import cattrs

    from kepler_core.strict import structure, structuring_error

    try:
        hints = typing.get_type_hints(plugin.__init__) if known else {}
    except NameError as error:
        raise PluginError(f"{name}: the annotations of its __init__ cannot be resolved: {error}") from error
    checked = {}
    for key, value in arguments.items():
        if key not in known:
            accepted = close_matches(str(key), known) if known else "it takes none"
            raise PluginError(f"{name}: unknown argument {key!r}; {accepted}")
        try:
            checked[key] = structure(value, hints[key]) if key in hints else value
        except (cattrs.BaseValidationError, ValueError, TypeError) as error:
            raise PluginError(f"{name}: argument {structuring_error(error, key)}") from error
    return checked


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


def entries_named(name: str) -> Iterable[PluginEntry]:
    """The entries of any namespace that a name, alias or `distribution:name` fits."""
    prefix, _, bare = name.rpartition(":")
    distribution = _normalised(prefix)
    for registry in REGISTRIES.values():
        for entry in registry.entries:
            if (bare == entry.name or bare in entry.aliases) and distribution in ("", entry.distribution):
                yield entry
