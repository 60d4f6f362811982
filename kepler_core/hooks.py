"""Events that anyone may listen to, on pluggy.

A listener is a module or an object (not a class) with functions of these names, marked with
`hookimpl`, and named by an entry point in the group `kepler.hooks`:

    kepler.hooks =
        audit = my_package.audit

The progress bar is such a listener. A listener that raises is reported and does not stop what it
listens to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pluggy

from kepler_core.errors import PluginError
from kepler_core.registry import PluginEntry, distribution_of, entry_points_of, import_problem, one_line

if TYPE_CHECKING:
    import click

    from kepler_core.dataset import Dataset
    from kepler_core.recording.columns import Recording
    from kepler_core.recording.observations import Observations

GROUP = "kepler.hooks"

hookspec = pluggy.HookspecMarker("kepler")
hookimpl = pluggy.HookimplMarker("kepler")

log = logging.getLogger(__name__)


def hook_entries() -> list[PluginEntry]:
    """The installed listeners; none is imported for it."""
    return sorted(
        PluginEntry(GROUP, entry_point.name, (), *distribution_of(entry_point), entry_point.value)
        for entry_point in entry_points_of(GROUP)
    )


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

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("kepler")
        self.manager.add_hookspecs(HookSpecs)
        self.broken: dict[str, str] = {}
        self._said: set[str] = set()
        self._load()

    def _load(self) -> None:
        for entry_point in entry_points_of(GROUP):
            name = f"{distribution_of(entry_point)[0]}:{entry_point.name}"
            try:
                self._register(entry_point.load(), name)
            except (Exception, SystemExit) as error:  # somebody else's code
                self.broken[name] = import_problem(error, name)
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
        """Tell all listeners; what one of them raises is logged once, with its name."""
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            try:
                implementation.function(*[arguments[name] for name in implementation.argnames])
            except (Exception, SystemExit) as error:  # somebody else's code
                failure = f"hook {implementation.plugin_name}: {event} failed: {one_line(error)}"
                if failure not in self._said:
                    self._said.add(failure)
                    log.warning("%s", failure)


@lru_cache(maxsize=1)
def events() -> Events:
    """The events of this process, with the installed listeners."""
    return Events()
