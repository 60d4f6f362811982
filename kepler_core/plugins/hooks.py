"""The hooks of Kepler Core and the calls of their listeners, implemented with pluggy.

A listener is a module or an object (not a class) with functions that are named like hooks and marked
with `hookimpl`. An entry point in the group `kepler.hooks` names the listener:

    kepler.hooks =
        audit = my_package.audit

For example, the progress bar and the audit log are listeners. If a listener's function raises an exception,
the exception is logged and the program continues, unless the function is marked with `hookimpl(strict=True)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    from kepler_core.comparison.comparison import Comparison
    from kepler_core.dataset import Dataset
    from kepler_core.pipeline.evidence import Evidence
    from kepler_core.recording.columns import Recording
    from kepler_core.recording.observations import Observations

GROUP = "kepler.hooks"

NEVER_STRICT = frozenset({"kepler_model_selected", "kepler_prediction_failed", "kepler_register_commands"})
"""Hooks in which `strict` has no effect.

If a listener fails in one of these hooks, the server still answers the client, and the command of `kepler-model`
continues.
"""

F = TypeVar("F", bound=Callable[..., Any])

hookspec = pluggy.HookspecMarker("kepler")
_pluggy_hookimpl = pluggy.HookimplMarker("kepler")

log = logging.getLogger(__name__)


@overload
def hookimpl(function: F) -> F: ...
@overload
def hookimpl(*, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Callable[[F], F]: ...
def hookimpl(function: Any = None, *, strict: bool = False, tryfirst: bool = False, trylast: bool = False) -> Any:
    """Mark a function as a listener's implementation of the hook that has the function's name.

    `strict`: if the function raises an exception, the code that called the hook gets a `HookError`.
    `tryfirst`, `trylast`: call the function before or after the functions of the other listeners.
    """

    def mark(implementation: F) -> F:
        implementation.kepler_strict = strict  # type: ignore[attr-defined]
        return _pluggy_hookimpl(tryfirst=tryfirst, trylast=trylast)(implementation)

    return mark if function is None else mark(function)


class HookSpecs:
    """All hooks with their arguments. A listener's function can leave out arguments that it does not use."""

    @hookspec
    def kepler_recording_loaded(self, recording: Recording) -> None:
        """Called after each recording was read."""

    @hookspec
    def kepler_dataset_ready(self, dataset: Dataset) -> None:
        """Called before models are trained on a data set."""

    @hookspec
    def kepler_training_started(self, models: int) -> None:
        """Called before a training fits its models; `models` is the number of models."""

    @hookspec
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        """Called after a model was trained and validated, or after its training failed.

        `model` has the keys of a model in the report of `train --json`. If the training failed, it has
        the keys of a failure in that report, among them `reason`.
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
        evidence: Sequence[Evidence],
        report: Mapping[str, Any],
        document: Mapping[str, Any],
    ) -> None:
        """Called before a pipeline is published.

        `files` is empty at first, and listeners can add files to it. Each key is a path below the pipeline's
        folder, and the value is the content of the file. `profile` is the profile of the node type: the profile
        that the user passed to the training, or else the profile in the store. `evidence` has the predictions of
        each trained model for held-out samples. `report` has the keys of the report of `train --json`, without the
        version. `document` is the content of the pipeline file, with all defaults.
        """

    @hookspec
    def kepler_model_published(self, pipeline: str, version: int, path: str) -> None:
        """Called after a pipeline's models were published as version `version`.

        `path` is the location of the store, followed by "/" and the name of the pipeline.
        """

    @hookspec
    def kepler_store_changed(self, store: str, pipeline: str, action: str, version: int) -> None:
        """Called after another version of a pipeline became its current version.

        `action` is "publish" or "roll back".
        """

    @hookspec
    def kepler_pipelines_compared(self, comparison: Comparison, files: dict[str, bytes]) -> None:
        """Called by `kepler-model store compare --report FILE.html`.

        `files` is empty at first. A listener adds the page `report.html` to it.
        """

    @hookspec
    def kepler_retraining_decided(self, retraining: Mapping[str, Any], files: dict[str, bytes]) -> None:
        """Called by the online trainer before it publishes a version, or records that it publishes no version.

        `retraining` has the keys `pipeline`, `decision` (the record that is stored), `earlier` (the decisions that were
        recorded before, the oldest first) and `samples`. `samples` has the samples on which models were evaluated, by
        path and kind of the model: their times, measured watts and predicted watts. `files` is empty at first. A
        listener adds the page `report.html` to it.
        """

    @hookspec
    def kepler_model_selected(self, model: Mapping[str, Any]) -> None:
        """Called after a model was selected for a request; `model` is the model's metadata."""

    @hookspec
    def kepler_prediction_failed(self, reason: str) -> None:
        """Called after the estimator could not answer a request for watts."""

    @hookspec
    def kepler_register_commands(self, cli: click.Group) -> None:
        """Called before the commands of `kepler-model` are listed. Listeners can add commands to the group `cli`."""


@attrs.frozen
class HookCall:
    """One call of one listener's function, as `Hooks.trace` receives it."""

    hook: str
    listener: str
    """`distribution:name` of an installed listener, or the class name of a listener that `Hooks.listen` registered."""
    seconds: float
    failure: str | None
    """The exception that the listener raised, on one line; None if it raised none."""


class Hooks:
    """The registered listeners. A listener that raises an exception does not break the caller, unless it is strict."""

    def __init__(self, only: str | None = None) -> None:
        """Register all installed listeners, or only the listener whose full name is `only`."""
        self.manager = pluggy.PluginManager("kepler")
        self.manager.add_hookspecs(HookSpecs)
        self.broken: dict[str, str] = {}
        """Maps the full name of each listener that cannot be used to the reason."""
        self.trace: Callable[[HookCall], None] | None = None
        """Function that is called after each call of a listener, e.g. for `--trace-hooks`; None for no function."""
        self._reported: set[str] = set()
        self._register_installed(only)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call all listeners of a hook.

        If a listener that is not strict raises an exception, the exception is logged with the listener's name.
        Equal messages are logged only once. If a strict listener raises an exception, the other listeners are
        still called, and then the exception is raised as `HookError`. Of several such exceptions, the first is raised.
        """
        errors: list[HookError] = getattr(self.manager.hook, hook)(**arguments)
        for error in errors:
            raise error

    def has_listeners(self, hook: str) -> bool:
        """Return whether at least one registered listener implements a hook."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def listen(self, listener: object) -> None:
        """Register a listener that is not an installed plugin, such as the progress bar.

        Raises `PluginError` if the object is no listener, or is already registered.
        """
        try:
            self._register(listener)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{listener!r} cannot listen: {one_line(error)}") from error

    @contextmanager
    def listening(self, listener: object) -> Iterator[None]:
        """Register a listener until the context ends. Raises `PluginError` as `listen` does."""
        self.listen(listener)
        try:
            yield
        finally:
            self.manager.unregister(listener)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Do not call the installed listener with this full name until the context ends."""
        listener = self.manager.unregister(name=name) if self.manager.has_plugin(name) else None
        try:
            yield
        finally:
            if listener is not None:
                self._register(listener, name)

    def listeners(self) -> list[str]:
        """Return the full names of the installed listeners that are registered, sorted."""
        return sorted(name for name, plugin in self.manager.list_name_plugin() if plugin is not None and ":" in name)

    def hooks_of(self, name: str) -> dict[str, bool]:
        """Map each hook that a listener implements to whether the listener's function is strict.

        The exception of a strict function is raised to the caller of the hook.
        """
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
            except (Exception, SystemExit) as error:  # third-party code may raise anything
                reason = str(error) if isinstance(error, PluginError) else ""
                self.broken[name] = reason or import_problem(error, name, entry.distribution)
                log.warning("hook %s cannot be used: %s", name, self.broken[name])

    def _register(self, listener: object, name: str | None = None) -> None:
        if isinstance(listener, type):
            raise PluginError(f"{listener.__name__} is a class; a listener must be a module or an object")
        self.manager.register(listener, name)
        try:
            self.manager.check_pending()
            for hook, implementation in self._implementations(listener):
                if implementation.wrapper or implementation.hookwrapper:
                    raise PluginError(f"{hook}: hook wrappers of pluggy are not supported")
                # If a function raises an exception, pluggy does not call the remaining listeners. So each
                # function is replaced by a function that raises no exception.
                implementation.function = self._isolated(hook, implementation)  # type: ignore[misc]
        except Exception:
            # if this listener stayed registered, pluggy's check_pending would fail for every later listener, too
            self.manager.unregister(listener)
            raise

    def _implementations(self, listener: object) -> Iterator[tuple[str, pluggy.HookImpl]]:
        """Yield the name of each hook that a registered listener implements, with pluggy's record of the function."""
        for caller in self.manager.get_hookcallers(listener) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is listener:
                    yield caller.name, implementation

    def _isolated(self, hook: str, implementation: pluggy.HookImpl) -> Callable[..., HookError | None]:
        """Return a function that calls a listener's function and catches its exceptions.

        If the listener's function is strict, the returned function returns the exception as `HookError`, which
        pluggy puts into the results of the call. Otherwise, it logs the exception and returns None, and pluggy
        leaves None out of the results.
        """
        function = implementation.function
        # if a listener was registered without a name, pluggy uses a number as its name
        number = implementation.plugin_name.isdigit()
        listener = type(implementation.plugin).__name__ if number else implementation.plugin_name
        strict = bool(getattr(function, "kepler_strict", False))

        def isolated(*arguments: Any, **keywords: Any) -> HookError | None:
            started = time.perf_counter()
            failure = None
            try:
                function(*arguments, **keywords)
            except (Exception, SystemExit) as error:  # third-party code may raise anything
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
    """Return the entries of the installed listeners, including refused listeners, sorted by name."""
    return installed_plugins().of(GROUP)


@lru_cache(maxsize=1)
def hooks() -> Hooks:
    """Return the `Hooks` of this process, in which all installed listeners are registered."""
    return Hooks()
