"""Importing plugins in a process of their own, and what that does: `plugins doctor` and the checks use it.

Run as a program (`python -m kepler_core.plugins.probe FD`) it reads one request as JSON from standard
input and answers with JSON on a descriptor that what is imported does not print to.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import attrs
import msgspec

from kepler_core.plugins.entries import OWN, PluginEntry

TIMEOUT = 120.0
"""Seconds after which an import counts as hanging."""

# what well-known libraries set for themselves when they are imported
_USUAL_VARIABLES = ("KMP_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "XGBOOST_", "LIGHTGBM_", "JOBLIB_", "TF_")


@attrs.frozen
class Imported:
    """What an import did."""

    problem: str = ""
    """Why it failed, one line."""
    missing: str = ""
    """The module that is not installed, if that is the problem."""
    seconds: float = 0.0
    """Of the import alone, without kepler-core and NumPy, and without waiting for a busy processor."""
    megabytes: float = 0.0
    """Memory that it added."""
    side_effects: tuple[str, ...] = ()
    """What it did besides."""
    failures: tuple[str, ...] = ()
    """Checks of its contract that failed."""
    notes: tuple[str, ...] = ()
    """What could not be looked at."""
    no_answer: bool = False
    """The process ended, or had to be ended, before it could say anything."""


@lru_cache(maxsize=256)
def import_alone(module: str) -> Imported:
    """Import a module in a fresh interpreter."""
    return _run({"modules": [module]}, TIMEOUT)[0]


def import_entries(entries: Sequence[PluginEntry], *, checks: bool, timeout: float = TIMEOUT) -> list[Imported]:
    """Load plugins of one module in a fresh interpreter, and run the checks of their contracts there.

    If that process ends early, each plugin is given one of its own.
    """
    request = {"entries": [attrs.asdict(entry) for entry in entries], "checks": checks}
    found = _run(request, timeout)
    if len(entries) > 1 and len(found) != len(entries):
        return [import_entries([entry], checks=checks, timeout=timeout)[0] for entry in entries]
    if checks and found[0].no_answer:
        alone = import_entries(entries, checks=False, timeout=timeout)[0]
        if not alone.problem:  # then it was not the import
            return [attrs.evolve(alone, failures=(found[0].problem.replace("imports", "checks"),))]
    return found


def _run(request: dict[str, Any], timeout: float) -> list[Imported]:
    # a file, not a pipe: nobody has to read while the other process writes
    with tempfile.TemporaryFile() as answers:
        with subprocess.Popen(
            [sys.executable, "-m", "kepler_core.plugins.probe", str(answers.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(answers.fileno(),),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            start_new_session=True,
        ) as process:
            try:
                process.communicate(json.dumps(request).encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return [Imported(f"does not end within {timeout:g} s", no_answer=True)]
        answers.seek(0)
        answer = answers.read()
    if not answer:
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [Imported(f"ends the process that imports it ({how})", no_answer=True)]
    return msgspec.json.decode(answer, type=list[Imported])


# --- in the other process ---------------------------------------------------------------------------


def main() -> None:
    """Answer one request, and end without anybody's exit handlers."""
    import kepler_core.plugins.hooks  # noqa: F401 - what every plugin may expect to be there

    answers = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    wanted = request.get("modules") or [
        PluginEntry(**{**entry, "aliases": tuple(entry["aliases"])}) for entry in request["entries"]
    ]
    # in one piece at the end: a process that ends before it has nothing said
    content = msgspec.json.encode([_imported(one, request.get("checks", False)) for one in wanted])
    with open(answers, "wb", closefd=False) as file:
        file.write(content)
    os._exit(0)


def _imported(wanted: PluginEntry | str, checks: bool) -> Imported:
    """Import one plugin, look at what that did, and run its checks if asked to."""
    import io
    import time

    from kepler_core.errors import PluginError
    from kepler_core.plugins import registry

    out, err = io.StringIO(), io.StringIO()
    problem = missing = ""
    loaded: Any = None
    before, memory, started = _state(), _memory(), time.perf_counter() - _waited()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            loaded = _load(wanted)
    except PluginError as error:
        # the cause is the reason without the plugin's name, which is known here
        reason = error.__cause__ if isinstance(error.__cause__, PluginError) else error
        problem = str(reason)
        cause = reason.__cause__
        missing = (cause.name or "") if isinstance(cause, ModuleNotFoundError) else ""
    except (Exception, SystemExit) as error:  # somebody else's code
        problem = registry.one_line(error)
        missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    seconds = round(max(time.perf_counter() - _waited() - started, 0.0), 3)
    after = _state()
    side_effects = [what for what, value in before.items() if after[what] != value]
    if out.tell() or err.tell():
        side_effects.append("prints")
    failures: list[str] = []
    notes: list[str] = []
    if isinstance(loaded, type) and isinstance(wanted, PluginEntry):
        if needed := registry.missing_modules(loaded):
            missing = needed[0]
            needs = f"needs {', '.join(needed)}: pip install 'kepler-core[{loaded.extra}]'"  # type: ignore[attr-defined]
            if wanted.distribution == OWN:  # what comes with kepler-core need not all be wanted
                notes.append(needs)
            else:
                problem = needs
        elif checks:
            failures, notes, missing = _check(loaded, wanted)
    return Imported(
        problem=problem,
        missing=missing,
        seconds=seconds,
        megabytes=round(max(_memory() - memory, 0.0), 1),
        side_effects=tuple(side_effects),
        failures=tuple(failures),
        notes=tuple(notes),
    )


def _load(wanted: PluginEntry | str) -> Any:
    import importlib

    from kepler_core.errors import PluginError
    from kepler_core.plugins import registry
    from kepler_core.plugins.hooks import GROUP, Events

    if isinstance(wanted, str):
        return importlib.import_module(wanted)
    if wanted.namespace != GROUP:
        return registry.REGISTRIES[wanted.namespace].load(wanted)
    for reason in Events(only=wanted.full_name).broken.values():
        raise PluginError(reason)
    return None


def _check(plugin: type[Any], entry: PluginEntry) -> tuple[list[str], list[str], str]:
    """What the checks of its contract find, what could not be checked, and the module that is missing."""
    import io

    from kepler_core.plugins import registry

    try:
        from kepler_core.testing import CheckError, checks_of
    except ModuleNotFoundError as error:
        note = f"not checked against its contract: that needs {error.name}: pip install 'kepler-core[train]'"
        return [], [note], ""
    required = [argument.name for argument in registry.arguments_of(plugin) if argument.required]
    if required:
        note = f"not checked against its contract: it needs the argument {required[0]!r}; its own tests must"
        return [], [note], ""
    found: dict[str, list[str]] = {}
    for check in checks_of(plugin):
        if check.name == "import_has_no_side_effects":
            continue  # seen at the import
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                check()
        except CheckError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError):
                return [registry.import_problem(cause, entry.name, entry.distribution)], [], cause.name or ""
            # after the plugin's name and the check's
            reason = " ".join(str(error).split(": ", 2)[-1].split())[:500]
            found.setdefault(reason, []).append(check.name)
    return (
        [
            f"{names[0]}: {reason}" if len(names) == 1 else f"{reason} ({len(names)} checks: {', '.join(names)})"
            for reason, names in found.items()
        ],
        [],
        "",
    )


def _state() -> dict[str, Any]:
    import logging
    import signal
    import threading
    import warnings

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
    return {
        "changes the working directory": os.getcwd(),
        "changes environment variables": {
            key: value for key, value in os.environ.items() if not key.startswith(_USUAL_VARIABLES)
        },
        "changes sys.path": list(sys.path),
        "changes signal handlers": {int(number): signal.getsignal(number) for number in numbers},
        "starts a thread": {thread.ident for thread in threading.enumerate()},
        "configures logging": (list(logging.getLogger().handlers), logging.getLogger().level),
        "changes sys.excepthook": sys.excepthook,
        "replaces warnings.showwarning": warnings.showwarning,
    }


def _waited() -> float:
    """Seconds that this thread was ready to run while others had the processor; 0 where nobody counts."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _memory() -> float:
    """The most megabytes of memory that this process has had."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
