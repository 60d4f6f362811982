"""Import plugins in a separate process and run the checks of their contracts there.

`plugins doctor` calls `probe_plugins`, which starts this module as a program in the separate process. The
program imports and checks the plugins and sends the results back; see `kepler_core.plugins.probe`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import msgspec

from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import arguments_of
from kepler_core.plugins.entries import PluginEntry
from kepler_core.plugins.hooks import GROUP, Hooks
from kepler_core.plugins.probe import TIMEOUT_SECONDS, ImportResult, answer_request, observe_import, run_probe
from kepler_core.plugins.problems import import_problem, missing_modules
from kepler_core.plugins.settings import OWN

_PROGRAM = "kepler_core.cli.plugin_probe"
_REASON_CHARACTERS = 500


def probe_plugins(
    entries: Sequence[PluginEntry], *, checks: bool, timeout: float = TIMEOUT_SECONDS
) -> list[ImportResult]:
    """Import the plugins of one module in a fresh interpreter and, if `checks` is true, check them there.

    If the fresh interpreter ends before it has returned the results of all plugins, each plugin is imported (and
    checked) again in an interpreter of its own.
    """
    request = {"entries": [attrs.asdict(entry) for entry in entries], "checks": checks}
    results = run_probe(_PROGRAM, request, timeout)
    if len(entries) > 1 and len(results) != len(entries):
        return [probe_plugins([entry], checks=checks, timeout=timeout)[0] for entry in entries]
    ended = results[0]
    if checks and ended.ending:
        imported = probe_plugins(entries, checks=False, timeout=timeout)[0]
        if not imported.problem:  # without checks, the import succeeds, so a check has ended the process
            timed_out = ended.ending == "timeout"
            failure = ended.problem if timed_out else f"ends the process that checks it ({ended.ending})"
            return [attrs.evolve(imported, failures=(failure,))]
    return results


# --- functions of the program in the separate process -----------------------------------------------


def _probe(request: dict[str, Any]) -> list[ImportResult]:
    entries = msgspec.convert(request["entries"], list[PluginEntry])
    return [_probe_entry(entry, checks=request["checks"]) for entry in entries]


def _probe_entry(entry: PluginEntry, *, checks: bool) -> ImportResult:
    plugin, result = observe_import(partial(_load, entry))
    if not isinstance(plugin, type):  # it is a listener, or None because the import failed
        return result
    if missing := missing_modules(plugin):
        needs = f"needs {', '.join(missing)}: pip install 'kepler-core[{plugin.extra}]'"  # type: ignore[attr-defined]
        # users need not install every extra of kepler-core, so a missing extra is a note and not a problem
        if entry.distribution == OWN:
            return attrs.evolve(result, missing=missing[0], notes=(needs,))
        return attrs.evolve(result, missing=missing[0], problem=needs)
    return _check(plugin, entry, result) if checks else result


def _load(entry: PluginEntry) -> Any:
    if entry.namespace != GROUP:
        return registry.REGISTRIES[entry.namespace].load(entry)
    for reason in Hooks(only=entry.full_name).broken.values():
        raise PluginError(reason)
    return None


def _check(plugin: type[Any], entry: PluginEntry, result: ImportResult) -> ImportResult:
    """Check a plugin and return `result` with the failed checks, or with a note if the checks cannot run."""
    try:
        from kepler_core.testing import CheckError, checks_of
    except ModuleNotFoundError as error:
        note = f"not checked against its contract, because {error.name} is missing: pip install 'kepler-core[train]'"
        return attrs.evolve(result, notes=(note,))
    required = [argument.name for argument in arguments_of(plugin) if argument.required]
    if required:
        note = f"not checked against its contract, because it needs the argument {required[0]!r}; check it in its tests"
        return attrs.evolve(result, notes=(note,))
    checks_by_reason: dict[str, list[str]] = {}
    for check in checks_of(plugin):
        if check.name == "import_has_no_side_effects":
            continue  # `_probe_entry` has imported the plugin already and put the side effects into `result`
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                check()
        except CheckError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError):
                failure = import_problem(cause, entry.name, entry.distribution)
                return attrs.evolve(result, failures=(failure,), missing=cause.name or "")
            reason = " ".join(error.reason.split())[:_REASON_CHARACTERS]
            checks_by_reason.setdefault(reason, []).append(check.name)
    failures = tuple(
        f"{names[0]}: {reason}" if len(names) == 1 else f"{reason} ({len(names)} checks: {', '.join(names)})"
        for reason, names in checks_by_reason.items()
    )
    return attrs.evolve(result, failures=failures)


if __name__ == "__main__":
    answer_request(_probe)
