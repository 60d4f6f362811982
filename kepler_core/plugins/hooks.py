"""The hooks that listeners implement, on pluggy.

A listener is a module or an object (not a class) with functions that are named like hooks and marked
with `hookimpl`. An entry point in the group `kepler.hooks` names it:

    kepler.hooks =
        audit = my_package.audit

The progress bar, the audit log, the metrics and the report are listeners. A listener that raises is
reported in the log and stops nothing, unless its function is marked with `hookimpl(strict=True)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs
import pluggy

from kepler_core.errors import HookError, PluginError, close_matches
from kepler_core.messages import one_line
from kepler_core.plugins.entries import PluginEntry, installed_plugins
from kepler_core.plugins.loading import load_entry
from kepler_core.plugins.problems import import_problem

if TYPE_CHECKING:
    import click

    from kepler_core.dataset import Dataset
    from kepler_core.recording.columns import Recording
    from kepler_core.recording.observations import Observations

GROUP = "kepler.hooks"

NEVER_STRICT = frozenset({"kepler_model_selected", "kepler_prediction_failed", "kepler_register_commands"})
"""Hooks in which `strict` has no effect: a listener cannot withhold an answer from a client."""

F = TypeVar("F", bound=Callable[..., Any])

hookspec = pluggy.HookspecMarker("kepler")
_pluggy_hookimpl = pluggy.HookimplMarker("kepler")

log = logging.getLogger(__name__)


@overload
def hookimpl(function: F) -> F: ...
@overload
def hookimpl(*, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Callable[[F], F]: ...
def hookimpl(function: Any = None, *, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Any:
    """Mark a function as the implementation of the hook of its name.

    `strict`: an exception of the function becomes a `HookError` that ends the caller of the hook.
    `tryfirst`, `trylast`: call the function before or after those of the other listeners.
    """

    def mark(implementation: F) -> F:
        implementation.kepler_strict = strict  # type: ignore[attr-defined]
        return _pluggy_hookimpl(tryfirst=tryfirst, trylast=trylast)(implementation)

    return mark if function is None else mark(function)


class HookSpecs:
    """All hooks with their arguments. Listeners may leave out arguments that they do not use."""

    @hookspec
    def kepler_recording_loaded(self, recording: Recording) -> None:
        """Called after a recording was read."""

    @hookspec
    def kepler_dataset_ready(self, dataset: Dataset) -> None:
        """Called before models are trained on a data set."""

    @hookspec
    def kepler_training_started(self, models: int) -> None:
        """Called before a training fits its models; `models` is their number."""

    @hookspec
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        """Called after a model was trained and validated, or failed.

        `model` has the keys of a model in `train --json`; a failed one has the key `reason`.
        """

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
        """Called before a pipeline is published.

        `files` is empty. A listener adds files to it, by path below the pipeline. `profile` is the
        profile of the node type: the one passed to the training, or else the stored one.
        """

    @hookspec
    def kepler_model_published(self, pipeline: str, version: int, path: str) -> None:
        """Called after a pipeline's models were published."""

    @hookspec
    def kepler_store_changed(self, store: str, pipeline: str, action: str, version: int) -> None:
        """Called after another version of a pipeline became the current one.

        `action` is "publish" or "roll back".
        """

    @hookspec
    def kepler_model_selected(self, model: Mapping[str, Any]) -> None:
        """Called after a model was selected for use; `model` is its metadata."""

    @hookspec
    def kepler_prediction_failed(self, reason: str) -> None:
        """Called after the estimator could not answer a request for watts."""

    @hookspec
    def kepler_register_commands(self, cli: click.Group) -> None:
        """Called before the commands of `kepler-model` are listed; add yours to `cli`."""


@attrs.frozen
class HookCall:
    """One call of one listener."""

    hook: str
    listener: str
    """`distribution:name`, or the class of a listener that the program itself registered."""
    seconds: float
    failure: str | None
    """The exception that the listener raised, on one line."""


class Hooks:
    """Calls hooks. A listener that fails cannot break the caller."""

    def __init__(self, only: str | None = None) -> None:
        """Register the installed listeners, or only the one with the full name `only`."""
        self.manager = pluggy.PluginManager("kepler")
        self.manager.add_hookspecs(HookSpecs)
        self.broken: dict[str, str] = {}
        """Full name of a listener that cannot be used -> the reason."""
        self.trace: Callable[[HookCall], None] | None = None
        """Receives every call of a listener after the call, for `--trace-hooks`."""
        self._reported: set[str] = set()
        self._register_installed(only)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call all listeners of a hook.

        Logs the exception of a listener once, with the listener's name. Raises `HookError` for the first
        strict listener that failed, after all listeners were called.
        """
        errors: list[HookError] = getattr(self.manager.hook, hook)(**arguments)
        for error in errors:
            raise error

    def has_listeners(self, hook: str) -> bool:
        """Return whether any listener implements a hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def listen(self, listener: object) -> None:
        """Register a listener of the program itself; raise `PluginError` if it is not one."""
        try:
            self._register(listener)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{listener!r} cannot listen: {one_line(error)}") from error

    def listeners(self) -> list[str]:
        """Return the full names of the installed listeners that are registered, sorted."""
        return sorted(name for name, plugin in self.manager.list_name_plugin() if plugin is not None and ":" in name)

    def hooks_of(self, name: str) -> dict[str, bool]:
        """Return the hooks that a listener implements, each with whether it is strict there."""
        return {
            caller_name: bool(getattr(implementation.function, "kepler_strict", False))
            for caller_name, implementation in self._implementations(self.manager.get_plugin(name))
        }

    def _register_installed(self, only: str | None) -> None:
        entries = hook_entries()
        names = [entry.full_name for entry in entries]
        if only is not None and only not in names:
            raise PluginError(f"no hook {only!r}; {close_matches(only, names)}")
        for entry in entries:
            name = entry.full_name
            if entry.turned_off or only not in (None, name):
                continue
            try:
                if entry.refusal is not None:
                    raise PluginError(str(entry.refusal))
                self._register(load_entry(entry), name)
            except (Exception, SystemExit) as error:  # third-party code
                reason = str(error) if isinstance(error, PluginError) else ""
                self.broken[name] = reason or import_problem(error, name, entry.distribution)
                log.warning("hook %s cannot be used: %s", name, self.broken[name])

    def _register(self, listener: object, name: str | None = None) -> None:
        if isinstance(listener, type):
            raise PluginError(f"{listener.__name__} is a class; name a module or an object")
        self.manager.register(listener, name)
        try:
            self.manager.check_pending()
            for hook, implementation in self._implementations(listener):
                if implementation.wrapper or implementation.hookwrapper:
                    raise PluginError(f"{hook}: wrappers are not supported, listeners only")
                # pluggy stops at the first implementation that raises. So each function is replaced by
                # one that does not raise; all else is pluggy's own call.
                implementation.function = self._isolated(hook, implementation)  # type: ignore[misc]
        except Exception:
            # otherwise check_pending would fail for every later listener, too
            self.manager.unregister(listener)
            raise

    def _implementations(self, listener: object) -> Iterator[tuple[str, pluggy.HookImpl]]:
        """Yield the hooks of a registered listener with its implementations."""
        for caller in self.manager.get_hookcallers(listener) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is listener:
                    yield caller.name, implementation

    def _isolated(self, hook: str, implementation: pluggy.HookImpl) -> Callable[..., HookError | None]:
        """Return a listener's function that logs its exceptions instead of raising them.

        If the function is strict it returns the `HookError`, which pluggy puts into the results of the
        call. It returns None otherwise, and pluggy drops that.
        """
        function = implementation.function
        # pluggy names a listener that the program registered by a number
        number = implementation.plugin_name.isdigit()
        listener = type(implementation.plugin).__name__ if number else implementation.plugin_name
        strict = bool(getattr(function, "kepler_strict", False))

        def isolated(*arguments: Any, **keywords: Any) -> HookError | None:
            started = time.perf_counter()
            failure = None
            try:
                function(*arguments, **keywords)
            except (Exception, SystemExit) as error:  # third-party code
                failure = one_line(error)
            if self.trace is not None:
                self.trace(HookCall(hook, listener, time.perf_counter() - started, failure))
            if failure is None:
                return None
            message = f"hook {listener}: {hook} failed: {failure}"
            if strict and hook not in NEVER_STRICT:
                return HookError(message)
            if message not in self._reported:
                self._reported.add(message)
                log.warning("%s", message)
            return None

        isolated.kepler_strict = strict  # type: ignore[attr-defined]
        return isolated


def hook_entries() -> tuple[PluginEntry, ...]:
    """Return the installed listeners, refused ones included, sorted by name."""
    return installed_plugins().of(GROUP)


@lru_cache(maxsize=1)
def hooks() -> Hooks:
    """Return the hooks of this process, with the installed listeners."""
    return Hooks()
