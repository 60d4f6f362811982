"""Plugins by name: one registry per entry-point namespace, on stevedore.

    trainers.names()                 listing imports no plugin
    trainers.get("min")              a plugin is imported when it is first asked for
    trainers.create("X", {"a": 1})   with its arguments checked

A name that two distributions claim is an error until one is chosen as `distribution:name`. What is
installed, and what of it is refused, `kepler_core.plugins.entries` finds out.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
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
    EnergySource,
    Extractor,
    Isolator,
    MetricSchema,
    ModelFormat,
    Plugin,
    Trainer,
)
from kepler_core.errors import PluginError, UnknownPluginError, close_matches, missing_extra, modules_of_extra
from kepler_core.plugins.entries import OWN, Claim, PluginEntry, exits_are_errors, installed, normalised

P = TypeVar("P", bound=Plugin)


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


if TYPE_CHECKING:
    _ExtensionManager = ExtensionManager[Any]
else:
    _ExtensionManager = ExtensionManager  # of older versions it is not generic


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


def import_problem(error: BaseException, what: str, distribution: str = "") -> str:
    """Why an import failed, one line; with the pip command where something is not installed."""
    if isinstance(error, ModuleNotFoundError):
        extra = missing_extra(error, what)
        if extra is not None:
            return str(extra)
        if command := _pip_command(error.name or "", distribution):
            return f"{one_line(error)}: {command}"
    return one_line(error)


def _pip_command(module: str, distribution: str) -> str:
    """How to install a missing module that a distribution says it needs; empty if it does not say so."""
    missing = normalised(module.partition(".")[0])
    try:
        requires = importlib.metadata.requires(distribution) if distribution else None
    except importlib.metadata.PackageNotFoundError:
        return ""
    for requirement in requires or ():
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        if found is None or normalised(found[0]) != missing:
            continue
        text, _, marker = requirement.partition(";")
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", marker)
        return f"pip install '{distribution}[{extra[1]}]'" if extra else f"pip install '{text.strip()}'"
    return ""


def required_versions(distribution: str) -> dict[str, str]:
    """Installed versions of what another's distribution needs besides kepler-core."""
    found: dict[str, str] = {}
    if distribution == OWN:
        return found
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires(distribution) or ():
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            if name is None or normalised(name[0]) == OWN or "extra ==" in requirement:
                continue
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[normalised(name[0])] = importlib.metadata.version(name[0])
    return found


def forget_entry_points() -> None:
    """Scan again at the next question, after distributions were installed or removed."""
    installed.cache_clear()
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
        for found in ("installed", "entries"):
            self.__dict__.pop(found, None)
        self._loaded.clear()
        self._broken.clear()

    @property
    def kind(self) -> str:
        """What one of them is called: "trainer", "energy source"."""
        return self.namespace.removeprefix("kepler.").removesuffix("s").replace("_", " ")

    @cached_property
    def installed(self) -> tuple[PluginEntry, ...]:
        """All that are installed, sorted by name, with those that are refused; nothing is imported for it."""
        aliases: dict[tuple[str, str], list[str]] = {}
        for alias in installed().claims(self.namespace + ".aliases"):
            aliases.setdefault((alias.distribution, alias.entry_point.value), []).append(alias.entry_point.name)
        entries = []
        for claim in installed().claims(self.namespace):
            own = tuple(sorted(aliases.get((claim.distribution, claim.entry_point.value), ())))
            entries.append(entry_of(claim, own))
        return tuple(sorted(entries))

    @cached_property
    def entries(self) -> tuple[PluginEntry, ...]:
        """Those that may be loaded."""
        return tuple(entry for entry in self.installed if not entry.refused)

    def names(self) -> list[str]:
        """The names (not the aliases), sorted."""
        return sorted({entry.name for entry in self.entries})

    def claims(self, word: str, distribution: str = "") -> list[PluginEntry]:
        """The entries that a name or alias stands for; a name goes before somebody else's alias."""
        return _claims(self.entries, word, distribution)

    def entry(self, name: str) -> PluginEntry:
        """The entry of a name, an alias or `distribution:name`; `PluginError` if unknown, refused or
        claimed by several distributions."""
        if not isinstance(name, str):
            raise PluginError(f"a {self.kind} is named by a string, not {name!r}")
        prefix, _, bare = name.rpartition(":")
        distribution = normalised(prefix)
        found = self.claims(bare, distribution)
        if not found:
            raise self._unknown(name, bare, distribution)
        if len(found) > 1:
            claims = " or ".join(repr(entry.full_name) for entry in found)
            raise PluginError(f"{self.kind} {name!r} stands for several plugins; write {claims}")
        return found[0]

    def _unknown(self, name: str, bare: str, distribution: str) -> PluginError:
        refused = _claims(self.installed, bare, distribution)
        if refused:
            return PluginError(str(BrokenPlugin(refused[0], refused[0].refused)))
        known = [word for entry in self.entries for word in (entry.name, *entry.aliases)]
        hint = close_matches(bare, known)
        if distribution and not is_installed(distribution):
            hint = f"{distribution} is not installed: pip install {distribution}"
        unreadable = "".join(
            f"; {entry.distribution} is no plugin: {entry.refused}"
            for entry in installed().unreadable
            if not entry.turned_off
        )
        return UnknownPluginError(self.namespace, name, f"unknown {self.kind} {name!r}; {hint}{unreadable}")

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
        """Every plugin that can be loaded, by name (of several kepler-core's own), and those that cannot."""
        loaded: dict[str, type[P]] = {}
        broken = [
            BrokenPlugin(entry, entry.refused) for entry in self.installed if entry.refused and not entry.turned_off
        ]
        for entry in self.entries:
            try:
                found = self.load(self.entry(entry.full_name))
            except PluginError:
                if entry.full_name in self._broken:
                    broken.append(self._broken[entry.full_name])
                continue
            if entry.name not in loaded or entry.distribution == OWN:
                loaded[entry.name] = found
        return loaded, broken

    def full_name(self, plugin: type[Plugin]) -> str:
        """`distribution:name` of a class; of one that is not installed, the name of the class."""
        target = f"{plugin.__module__}:{plugin.__qualname__}"
        return next((entry.full_name for entry in self.entries if entry.target == target), plugin.__name__)

    def preferred(self, name: str) -> type[P]:
        """The plugin of a full name where nobody can be asked to choose: of several, kepler-core's own."""
        claims = [entry for entry in self.entries if entry.name == name]
        if len(claims) < 2:
            return self.get(name)
        return self.load(next((entry for entry in claims if entry.distribution == OWN), claims[0]))

    def _import(self, entry: PluginEntry) -> type[P]:
        failures: list[BaseException] = []
        for claim in installed().claims(self.namespace):
            if (claim.distribution, claim.entry_point.name, claim.entry_point.value) != (
                entry.distribution,
                entry.name,
                entry.target,
            ):
                continue
            try:
                with exits_are_errors():
                    manager = _OneExtension(self.namespace, claim.entry_point, failures.append)
            except (SystemExit, AssertionError) as error:
                # stevedore hands these on; a plugin must not be able to end the program that asks
                failures.append(error)
            if failures:
                problem = import_problem(failures[0], entry.name, entry.distribution)
                raise PluginError(f"cannot be imported: {problem}") from failures[0]
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
        for attribute, hint in typing.get_type_hints(self.contract).items():
            if not hasattr(plugin, attribute):
                raise PluginError(f"breaks its contract: no attribute {attribute!r}")
            value = getattr(plugin, attribute)
            if typing.get_origin(hint) is typing.ClassVar and not _is_a(value, wanted := typing.get_args(hint)[0]):
                shown = "str" if wanted is str else wanted
                raise PluginError(f"breaks its contract: {attribute} is {value!r}, not {shown}")
        return plugin


def _is_a(value: object, wanted: Any) -> bool:
    """Whether an attribute is what its contract says: text, text or None, or a tuple of text."""
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(isinstance(word, str) for word in value)
    return isinstance(value, wanted)


def entry_of(claim: Claim, aliases: tuple[str, ...] = ()) -> PluginEntry:
    """What an entry point says of its plugin."""
    found = claim.entry_point
    return PluginEntry(found.group, found.name, aliases, claim.distribution, claim.version, found.value, claim.refused)


def missing_modules(plugin: type[Plugin]) -> list[str]:
    """Modules of the extra that a plugin names which are not installed."""
    extra = plugin.extra
    return [] if extra is None else [m for m in modules_of_extra(extra) if importlib.util.find_spec(m) is None]


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed, or a single file of that name is there."""
    if any(claim.distribution == distribution for claims in installed().groups.values() for claim in claims):
        return True
    try:
        importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _claims(entries: Iterable[PluginEntry], word: str, distribution: str) -> list[PluginEntry]:
    found = [
        entry
        for entry in entries
        if (word == entry.name or word in entry.aliases) and distribution in ("", entry.distribution)
    ]
    return [entry for entry in found if entry.name == word] or found


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


def structured(plugin: type[Plugin], name: str, key: str, value: Any) -> Any:
    """The value of an argument as its annotation wants it; `PluginError` says what would be right."""
    # imported here: it takes a tenth of the estimator's start, which gives no plugin an argument
    import cattrs

    from kepler_core.strict import structure, structuring_error

    try:
        hints = typing.get_type_hints(plugin.__init__)
    except NameError as error:
        raise PluginError(f"{name}: the annotations of its __init__ cannot be resolved: {error}") from error
    try:
        return structure(value, hints[key]) if key in hints else value
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise PluginError(f"{name}: argument {structuring_error(error, key)}") from error


def create(plugin: type[P], name: str, arguments: Mapping[str, Any]) -> P:
    """An instance of a plugin class; `PluginError` names the argument that is wrong."""
    known = {argument.name: argument for argument in arguments_of(plugin)}
    checked = {}
    for key, value in arguments.items():
        if key not in known:
            accepted = close_matches(str(key), known) if known else "it takes none"
            raise PluginError(f"{name}: unknown argument {key!r}; {accepted}")
        checked[key] = structured(plugin, name, key, value)
    for argument in known.values():
        if argument.required and argument.name not in checked:
            raise PluginError(f"{name}: argument {argument.name!r} is missing")
    try:
        return plugin(**checked)
    except (Exception, SystemExit) as error:  # somebody else's code
        raise PluginError(f"{name}: {import_problem(error, name)}") from error


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
    """The entries of any namespace, refused ones included, that a name, alias or `distribution:name` fits."""
    prefix, _, bare = name.rpartition(":")
    distribution = normalised(prefix)
    for registry in REGISTRIES.values():
        for entry in registry.installed:
            if (bare == entry.name or bare in entry.aliases) and distribution in ("", entry.distribution):
                yield entry
