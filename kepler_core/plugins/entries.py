"""Which plugins are installed, from metadata alone: nothing is imported for it.

Plugins come from the entry points of installed distributions, and from the single files of a folder
that is given explicitly (`KEPLER_PLUGIN_DIR`). A file says what a distribution says in its
entry points, as a literal that is read without running the file:

    ENTRY_POINTS = {
        "kepler.plugin_api": ["1.0"],
        "kepler.trainers": {"HuberRegressorTrainer": "HuberRegressorTrainer"},
    }

Settings, from the environment or the configuration folder (`kepler_core.configuration`):

    KEPLER_DISABLE_PLUGIN_AUTOLOAD=1   only kepler-core's own plugins, and those that are allowed by name
    KEPLER_PLUGINS_ALLOW=a b           only these distributions, besides kepler-core
    KEPLER_PLUGINS_DENY=a b:Name       not these distributions or plugins; goes before all else
    KEPLER_PLUGIN_DIR=/folder          its *.py files are plugins, too
"""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import attrs

from kepler_core.configuration import Configuration
from kepler_core.contracts import PLUGIN_API
from kepler_core.errors import UsageError

OWN = "kepler-core"
API_GROUP = "kepler.plugin_api"
"""Entry-point group whose names are the plugin API versions that a distribution was written for."""
UNDECLARED_API = "1.0"
"""What a distribution was written for that does not say."""
FILES = "kepler.files"
"""Namespace of single files that cannot be read as plugins."""

AUTOLOAD = "KEPLER_DISABLE_PLUGIN_AUTOLOAD"
ALLOW = "KEPLER_PLUGINS_ALLOW"
DENY = "KEPLER_PLUGINS_DENY"
FOLDER = "KEPLER_PLUGIN_DIR"


@attrs.frozen(order=True)
class PluginEntry:
    """What is known of a plugin without importing it."""

    namespace: str
    name: str
    aliases: tuple[str, ...]
    distribution: str
    version: str
    target: str
    refused: str = ""
    """Why it is not loaded; empty if it may be."""

    @property
    def full_name(self) -> str:
        return f"{self.distribution}:{self.name}"

    @property
    def turned_off(self) -> bool:
        """Refused because somebody wished so, not because something is wrong."""
        return self.refused.startswith("turned off")


@attrs.frozen
class PluginSettings:
    """Which plugins may be loaded."""

    autoload: bool = True
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    folder: Path | None = None

    def refusal(self, distribution: str, name: str) -> str:
        """Why a plugin is not to be loaded; empty if it is."""
        if _named(self.deny, distribution, name):
            return f"turned off: {DENY} names it"
        if distribution == OWN or _named(self.allow or (), distribution, name):
            return ""
        if self.allow is not None:
            return f"turned off: {ALLOW} does not name it"
        # who gives a folder has named what is in it
        if not self.autoload and not distribution.endswith(".py"):
            return f"turned off: {AUTOLOAD} is set, and {ALLOW} does not name it"
        return ""


def _named(words: Iterable[str], distribution: str, name: str) -> bool:
    for word in words:
        wanted, _, of_it = word.partition(":")
        if fnmatchcase(normalised(distribution), normalised(wanted)) and (not of_it or fnmatchcase(name, of_it)):
            return True
    return False


def read_settings(configuration: Configuration | None = None) -> PluginSettings:
    """The settings of this process."""
    found = configuration or Configuration()

    def words(key: str) -> tuple[str, ...] | None:
        text = found.text(key)
        return None if text is None else tuple(word for word in re.split(r"[\s,]+", text) if word)

    folder = found.text(FOLDER)
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"{FOLDER}: {folder} is no folder")
    disabled = (found.text(AUTOLOAD) or "").casefold() in ("1", "true", "yes", "on")
    return PluginSettings(not disabled, words(ALLOW), words(DENY) or (), None if folder is None else Path(folder))


@attrs.frozen(eq=False)
class Claim:
    """One entry point, with what its distribution is called and why it is refused."""

    entry_point: importlib.metadata.EntryPoint
    distribution: str
    version: str
    refused: str


@attrs.frozen(eq=False)
class Installed:
    """All that one scan found."""

    groups: dict[str, list[Claim]]
    apis: dict[str, tuple[str, ...]]
    """Distribution -> the plugin API versions that it declares."""
    unreadable: tuple[PluginEntry, ...]
    """Single files that are no plugins."""

    def claims(self, group: str) -> list[Claim]:
        return self.groups.get(group, [])


@lru_cache(maxsize=1)
def installed() -> Installed:
    """What is installed; scanned once a process."""
    settings = read_settings()
    raw: dict[tuple[str, str, str, str], tuple[importlib.metadata.EntryPoint, str]] = {}
    seen: set[str] = set()
    for dist in importlib.metadata.distributions():
        # most distributions have nothing to do with us, and parsing their metadata takes longer than this
        if "[kepler." not in (dist.read_text("entry_points.txt") or ""):
            continue
        distribution, version = _name_and_version(dist)
        if distribution in seen:
            continue  # installed twice: what is first on sys.path is what is imported
        seen.add(distribution)
        for entry_point in dist.entry_points:
            if entry_point.group.startswith("kepler."):
                raw[entry_point.group, distribution, entry_point.name, entry_point.value] = (entry_point, version)
    unreadable = []
    if settings.folder is not None:
        for path in sorted(settings.folder.glob("*.py")):
            try:
                for own in _entry_points_of(path):
                    raw[own.group, path.name, own.name, own.value] = (own, "")
            except (OSError, SyntaxError, ValueError) as error:
                reason = settings.refusal(path.name, "") or f"{path}: {' '.join(str(error).split())}"
                unreadable.append(PluginEntry(FILES, path.stem, (), path.name, "", str(path), reason))
    apis: dict[str, tuple[str, ...]] = {}
    for group, distribution, name, _ in raw:
        if group == API_GROUP:
            apis[distribution] = (*apis.get(distribution, ()), name)
    groups: dict[str, list[Claim]] = {}
    for (group, distribution, name, _), (entry_point, version) in raw.items():
        if group == API_GROUP:
            continue
        refused = settings.refusal(distribution, name) or api_problem(apis.get(distribution, (UNDECLARED_API,)))
        groups.setdefault(group, []).append(Claim(entry_point, distribution, version, refused))
    return Installed(groups, apis, tuple(unreadable))


def api_problem(written_for: Iterable[str]) -> str:
    """Why a distribution that was written for these versions of the plugin API cannot be used.

    "1.2" is the range from 1.2 up to, but without, 2.0. One that knows several major versions declares
    one for each.
    """
    written_for = sorted(written_for)
    for word in written_for:
        found = re.fullmatch(r"(\d+)\.(\d+)", word)
        if found is None:
            return f"declares plugin API {word!r}, which is not a version like 1.0"
        major, minor = map(int, found.groups())
        if major == PLUGIN_API[0] and minor <= PLUGIN_API[1]:
            return ""
    ours = ".".join(map(str, PLUGIN_API))
    newer = all(tuple(map(int, word.split("."))) > PLUGIN_API for word in written_for)
    what = "update kepler-core" if newer else "look for a newer version of the plugin"
    return f"was written for plugin API {' and '.join(written_for)}; this kepler-core has {ours}: {what}"


def _name_and_version(dist: importlib.metadata.Distribution) -> tuple[str, str]:
    # an interrupted uninstall leaves metadata behind that has no name
    metadata: Any = dist.metadata
    name = None if metadata is None else metadata["Name"]
    return (normalised(name), metadata["Version"] or "") if name else ("unknown", "")


def normalised(distribution: str) -> str:
    """A distribution's name as all spellings of it have it; a file's stays."""
    if distribution.endswith(".py"):
        return distribution
    return re.sub(r"[-_.]+", "-", distribution).lower()


class FileEntryPoint(importlib.metadata.EntryPoint):
    """An entry point into a single file."""

    def load(self) -> Any:
        path = Path(self.module)
        module = _module_of(path)
        return getattr(module, self.attr) if self.attr else module

    @property
    def module(self) -> str:
        return self.value.rpartition(":")[0]

    @property
    def attr(self) -> str:
        return self.value.rpartition(":")[2]


def _module_of(path: Path) -> ModuleType:
    name = f"kepler_plugin_file_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


_importing: Counter[int] = Counter()
"""Threads that import somebody else's module, and how deep."""
_changing = threading.Lock()


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """For the import of somebody else's module: `os._exit` raises `SystemExit`, as `sys.exit` does.

    In this thread and process only. A process that ends itself otherwise cannot be stopped.
    """
    thread = threading.get_ident()
    with _changing:
        if not _importing:
            _replace_exit()
        _importing[thread] += 1
    try:
        yield
    finally:
        with _changing:
            _importing[thread] -= 1
            if not _importing[thread]:
                del _importing[thread]
            if not _importing:
                os._exit = os._exit.real  # type: ignore[attr-defined]


def _replace_exit() -> None:
    exit_now, process = os._exit, os.getpid()

    def raising(status: int) -> NoReturn:
        if os.getpid() == process and threading.get_ident() in _importing:
            raise SystemExit(status)
        exit_now(status)

    raising.real = exit_now  # type: ignore[attr-defined]
    os._exit = raising


def _entry_points_of(path: Path) -> list[FileEntryPoint]:
    tree = ast.parse(path.read_bytes(), str(path))
    for statement in tree.body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == "ENTRY_POINTS" for target in targets):
            value = getattr(statement, "value", None)
            return _read_groups(ast.literal_eval(value) if value is not None else None, path)
    raise ValueError('declares no ENTRY_POINTS = {"kepler.trainers": {"Name": "Class"}}')


def _read_groups(groups: Any, path: Path) -> list[FileEntryPoint]:
    shape = 'ENTRY_POINTS must be {group: {name: "Class"}}, e.g. {"kepler.trainers": {"MyTrainer": "MyTrainer"}}'
    if not isinstance(groups, dict):
        raise ValueError(shape)
    found = []
    for group, names in groups.items():
        if isinstance(names, list | tuple):  # versions of the plugin API, which point at nothing
            names = dict.fromkeys(names, "")
        if not isinstance(group, str) or not isinstance(names, dict):
            raise ValueError(shape)
        if not group.startswith("kepler."):
            raise ValueError(f"ENTRY_POINTS: {group!r} is no group of plugins; e.g. kepler.trainers")
        for name, target in names.items():
            if not isinstance(name, str) or not isinstance(target, str):
                raise ValueError(shape)
            found.append(FileEntryPoint(name, f"{path.resolve()}:{target}", group))
    return found
