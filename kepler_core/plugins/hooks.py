"""Events that anyone may listen to, on pluggy.

A listener is a module or an object (not a class) with functions of these names, marked with
`hookimpl`, and named by an entry point in the group `kepler.hooks`:

    kepler.hooks =
        audit = my_package.audit

The progress bar, the audit log, the metrics and the report are such listeners. A listener that
raises is reported and does not stop what it listens to, unless it is marked with
`hookimpl(strict=True)`. `Events.trace` is told of every call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs
import pluggy

from kepler_core.errors import HookError, PluginError, close_matches
from kepler_core.plugins.entries import PluginEntry, exits_are_errors, installed
from kepler_core.plugins.registry import entry_of, import_problem, one_line

if TYPE_CHECKING:
    import click

    from kepler_core.dataset import Dataset
    from kepler_core.recording.columns import Recording
    from kepler_core.recording.observations import Observations

GROUP = "kepler.hooks"

NEVER_STRICT = frozenset({"kepler_model_selected", "kepler_prediction_failed", "kepler_register_commands"})
"""Events at which nothing is stopped by a strict listener: an answer is not withheld for it."""

F = TypeVar("F", bound=Callable[..., Any])

hookspec = pluggy.HookspecMarker("kepler")
_mark = pluggy.HookimplMarker("kepler")

log = logging.getLogger(__name__)


@overload
def hookimpl(function: F) -> F: ...
@overload
def hookimpl(*, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Callable[[F], F]: ...
def hookimpl(function: Any = None, *, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Any:
    """Marks a function that listens to the event of its name.

    `strict`: what it raises stops what it listens to. `tryfirst`, `trylast`: called before or after
    the other listeners.
    """

    def marked(found: F) -> F:
        found.kepler_strict = strict  # type: ignore[attr-defined]
        return _mark(tryfirst=tryfirst, trylast=trylast)(found)

    return marked if function is None else marked(function)


@attrs.frozen
class HookCall:
    """One call of one listener."""

    event: str
    listener: str
    """`distribution:name`, or the class of a listener that the program itself registered."""
    seconds: float
    failure: str | None
    """What it raised, one line."""


def hook_entries() -> list[PluginEntry]:
    """The installed listeners, those that are refused included; none is imported for it."""
    return sorted(entry_of(claim) for claim in installed().claims(GROUP))


class HookSpecs:
    """What can be listened to. Listeners may leave out arguments that they do not use."""

    @hookspec
    def kepler_recording_loaded(self, recording: Recording) -> None:
        """A recording was read."""

    @hookspec
    def kepler_dataset_ready(self, dataset: Dataset) -> None:
        """A data set is about to be trained on."""

    @hookspec
    def kepler_training_started(self, models: int) -> None:
        """So many models are going to be trained."""

    @hookspec
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        """One model is trained and validated (`model` as in `train --json`), or it failed (it has
        a `reason`)."""

    @hookspec
    def kepler_publishing(
        self,
        pipeline: str,
        files: dict[str, bytes],
        observations: Observations,
        idle: Observations | None,
        node_type: int,
        machine_spec: Mapping[str, Any],
        profile: Mapping[str, Any] | None,
    ) -> None:
        """A pipeline is about to be published: put files of your own into `files` (empty), by path below
        the pipeline. `profile` is the node type's, as it was given or stored before."""

    @hookspec
    def kepler_model_published(self, pipeline: str, version: int, path: str) -> None:
        """A pipeline's models are in the store."""

    @hookspec
    def kepler_store_changed(self, store: str, pipeline: str, action: str, version: int) -> None:
        """Another version of a pipeline is the current one; `action` is "publish" or "roll back"."""

    @hookspec
    def kepler_model_selected(self, model: Mapping[str, Any]) -> None:
        """A model was chosen for use."""

    @hookspec
    def kepler_prediction_failed(self, reason: str) -> None:
        """A request for watts could not be answered."""

    @hookspec
    def kepler_register_commands(self, cli: click.Group) -> None:
        """Add commands to `kepler-model`."""


class Events:
    """Calls the listeners of one event after the other; none of them can break the caller."""

    def __init__(self, only: str | None = None) -> None:
        """With the installed listeners, or `only` the one of that full name."""
        self.manager = pluggy.PluginManager("kepler")
        self.manager.add_hookspecs(HookSpecs)
        self.broken: dict[str, str] = {}
        self.trace: Callable[[HookCall], None] | None = None
        """Told of every call after it; for `--trace-hooks`."""
        self._said: set[str] = set()
        self._load(only)

    def _load(self, only: str | None) -> None:
        known = [entry.full_name for entry in hook_entries()]
        if only is not None and only not in known:
            raise PluginError(f"no hook {only!r}; {close_matches(only, known)}")
        for claim in installed().claims(GROUP):
            entry = entry_of(claim)
            name = entry.full_name
            if entry.turned_off or only not in (None, name):
                continue
            try:
                if entry.refused:
                    raise PluginError(entry.refused)
                with exits_are_errors():
                    listener = claim.entry_point.load()
                self._register(listener, name)
            except (Exception, SystemExit) as error:  # somebody else's code
                reason = str(error) if isinstance(error, PluginError) else None
                self.broken[name] = reason or import_problem(error, name, entry.distribution)
                log.warning("hook %s cannot be used: %s", name, self.broken[name])

    def _register(self, listener: object, name: str | None = None) -> None:
        if isinstance(listener, type):
            raise PluginError(f"{listener.__name__} is a class; name a module or an object")
        self.manager.register(listener, name)
        try:
            self.manager.check_pending()
            for caller in self.manager.get_hookcallers(listener) or ():
                for implementation in caller.get_hookimpls():
                    if implementation.plugin is listener and (implementation.wrapper or implementation.hookwrapper):
                        raise PluginError(f"{caller.name}: wrappers are not supported, listeners only")
        except Exception:
            # or every later check would find it and blame another listener
            self.manager.unregister(listener)
            raise

    def listen(self, listener: object) -> None:
        """Register a listener for the life of these events; `PluginError` if it cannot listen."""
        try:
            self._register(listener)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{listener!r} cannot listen: {one_line(error)}") from error

    def send(self, event: str, **arguments: Any) -> None:
        """Tell all listeners; what one of them raises is logged once, with its name.

        `HookError` if one that raises is strict; the others were told all the same.
        """
        strict: HookError | None = None
        # pluggy keeps them in the reverse of the order in which they are to be called
        for implementation in reversed(getattr(self.manager.hook, event).get_hookimpls()):
            name = self._name(implementation)
            started = time.perf_counter()
            failure = None
            try:
                implementation.function(*[arguments[argument] for argument in implementation.argnames])
            except (Exception, SystemExit) as error:  # somebody else's code
                failure = one_line(error)
                said = f"hook {name}: {event} failed: {failure}"
                if getattr(implementation.function, "kepler_strict", False) and event not in NEVER_STRICT:
                    strict = strict or HookError(said)
                elif said not in self._said:
                    self._said.add(said)
                    log.warning("%s", said)
            if self.trace is not None:
                self.trace(HookCall(event, name, time.perf_counter() - started, failure))
        if strict is not None:
            raise strict

    def heard(self, event: str) -> bool:
        """Whether anybody listens to an event."""
        return bool(getattr(self.manager.hook, event).get_hookimpls())

    def listeners(self) -> list[str]:
        """The names of the installed listeners that are in use, sorted."""
        return sorted(name for name, plugin in self.manager.list_name_plugin() if plugin is not None and ":" in name)

    def events_of(self, name: str) -> dict[str, bool]:
        """The events that a listener listens to -> whether it is strict there."""
        found = {}
        for caller in self.manager.get_hookcallers(self.manager.get_plugin(name)) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin_name == name:
                    found[caller.name] = bool(getattr(implementation.function, "kepler_strict", False))
        return found

    def _name(self, implementation: pluggy.HookImpl) -> str:
        # one that the program registered has no name but a number
        name = implementation.plugin_name
        return type(implementation.plugin).__name__ if name.isdigit() else name


@lru_cache(maxsize=1)
def events() -> Events:
    """The events of this process, with the installed listeners."""
    return Events()
