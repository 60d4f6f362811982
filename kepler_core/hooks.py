"""Events that anyone may listen to, on pluggy.

A listener is a module or object with functions of these names, marked with `hookimpl`, and named by
an entry point in the group `kepler.hooks`. The progress bar is such a listener. A listener that
raises is reported and does not stop what it listens to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pluggy

from kepler_core.errors import PluginError
from kepler_core.registry import _distribution, _entry_points, _one_line

if TYPE_CHECKING:
    import click

    from kepler_core.dataset import Dataset
    from kepler_core.recording.columns import Recording

GROUP = "kepler.hooks"

hookspec = pluggy.HookspecMarker("kepler")
hookimpl = pluggy.HookimplMarker("kepler")

log = logging.getLogger(__name__)


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
        self._load()

    def _load(self) -> None:
        for entry_point in _entry_points(GROUP):
            name = f"{_distribution(entry_point)[0]}:{entry_point.name}"
            try:
                self.manager.register(entry_point.load(), name)
                self.manager.check_pending()
            except (Exception, SystemExit) as error:
                self.broken[name] = _one_line(error)
                log.warning("hook %s cannot be used: %s", name, self.broken[name])

    def listen(self, listener: object) -> None:
        """Register a listener for the life of these events."""
        try:
            self.manager.register(listener)
            self.manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{listener!r} cannot listen: {error}") from error

    def send(self, event: str, **arguments: Any) -> None:
        """Tell all listeners; what one of them raises is logged with its name."""
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            given = {name: arguments[name] for name in implementation.argnames}
            try:
                implementation.function(*[given[name] for name in implementation.argnames])
            except Exception as error:
                log.warning("hook %s: %s failed: %s", implementation.plugin_name, event, _one_line(error))


@lru_cache(maxsize=1)
def events() -> Events:
    """The events of this process, with the installed listeners."""
    return Events()
