"""Import modules in a separate process and report the effects of the imports.

`run_probe` starts a program in a separate process and reads the program's results. This module is such a
program: `python -m kepler_core.plugins.probe FD` reads a JSON list of module names from standard input,
imports the modules, and writes the results as JSON to the file descriptor FD. FD is not standard output,
because the imported modules may print. `plugins doctor` runs another program,
`kepler_core.cli.plugin_probe`, which also checks plugins against their contracts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import attrs
import msgspec

from kepler_core.errors import PluginError
from kepler_core.messages import one_line

TIMEOUT_SECONDS = 120.0
"""Default time after which a probe program is stopped, in seconds."""

# prefixes of environment variables that well-known libraries set when they are imported
_LIBRARY_VARIABLES = ("KMP_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "XGBOOST_", "LIGHTGBM_", "JOBLIB_", "TF_")


@attrs.frozen
class ImportResult:
    """The result of importing a plugin or module, and of the checks that ran after the import."""

    problem: str = ""
    """Why the import failed, on one line; "" if it succeeded."""
    missing: str = ""
    """Name of the missing module, if a module is not installed; otherwise ""."""
    seconds: float = 0.0
    """Duration of the import in seconds, without the imports of kepler-core and NumPy."""
    megabytes: float = 0.0
    """Increase of the process's peak memory during the import, in MiB."""
    side_effects: tuple[str, ...] = ()
    """Side effects of the import, as verb phrases, e.g. "starts a thread"."""
    failures: tuple[str, ...] = ()
    """One message for each check of the plugin's contract that failed."""
    notes: tuple[str, ...] = ()
    """Remarks that are not problems, for example why the checks could not run."""
    ending: str = ""
    """How the process ended without results, e.g. "exit code 9" or "timeout"; "" if it wrote its results."""


@lru_cache(maxsize=256)
def import_alone(module: str) -> ImportResult:
    """Import a module in a fresh interpreter and return the result."""
    return run_probe("kepler_core.plugins.probe", [module])[0]


def run_probe(program: str, request: Any, timeout: float = TIMEOUT_SECONDS) -> list[ImportResult]:
    """Run a probe program in a fresh interpreter and return its results.

    If the program ends early or takes longer than `timeout` seconds, the list has a single result, whose
    `ending` says how the program ended.
    """
    # the program writes to a file, because a pipe would have to be read while the program runs
    with tempfile.TemporaryFile() as results:
        with subprocess.Popen(
            [sys.executable, "-m", program, str(results.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(results.fileno(),),
            env=probe_environment(),
            start_new_session=True,
        ) as process:
            try:
                process.communicate(json.dumps(request).encode(), timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                return [ImportResult(f"does not end within {timeout:g} s", ending="timeout")]
        results.seek(0)
        content = results.read()
    if not content:
        code = process.returncode
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [ImportResult(f"ends the process that imports it ({ending})", ending=ending)]
    return msgspec.json.decode(content, type=list[ImportResult])


def probe_environment() -> dict[str, str]:
    """Return environment variables with which a new process imports modules from the folders in `sys.path`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


# --- functions of the program in the separate process -----------------------------------------------


def observe_import(load: Callable[[], Any]) -> tuple[Any, ImportResult]:
    """Call `load` to import a plugin or module. Return the return value of `load`, and the result of the import."""
    from kepler_core.plugins.entries import installed_plugins

    # scan before the import: what the scan logs about other distributions must not count as output of the import
    installed_plugins()
    out, err = io.StringIO(), io.StringIO()
    problem = missing = ""
    loaded: Any = None
    state, megabytes, started = _process_state(), _peak_megabytes(), time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            loaded = load()
    except PluginError as error:
        # The error of `Registry.load` names the plugin. Its cause is a PluginError that has only the reason.
        reason = error.__cause__ if isinstance(error.__cause__, PluginError) else error
        problem, missing = str(reason), _missing_module(reason.__cause__)
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        problem, missing = one_line(error), _missing_module(error)
    seconds = time.perf_counter() - started
    new_state = _process_state()
    side_effects = [change for change, value in state.items() if new_state[change] != value]
    if out.tell() or err.tell():
        side_effects.append("prints")
    return loaded, ImportResult(
        problem=problem,
        missing=missing,
        seconds=round(seconds, 3),
        megabytes=round(max(_peak_megabytes() - megabytes, 0.0), 1),
        side_effects=tuple(side_effects),
    )


def answer_request(probe: Callable[[Any], Sequence[ImportResult]]) -> None:
    """Read a request from standard input, pass it to `probe`, write the results, and end the process.

    The results go to the file descriptor in `sys.argv[1]`. All results are written together at the end, so a process
    that ends earlier writes no results. Exit handlers of the imported modules do not run.
    """
    import kepler_core.plugins.hooks  # noqa: F401 - imported now, so that no plugin's import includes this import

    descriptor = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    content = msgspec.json.encode(list(probe(request)))
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os._exit(0)


def _import_modules(modules: Sequence[str]) -> list[ImportResult]:
    import importlib
    from functools import partial

    return [observe_import(partial(importlib.import_module, module))[1] for module in modules]


def _missing_module(error: BaseException | None) -> str:
    return (error.name or "") if isinstance(error, ModuleNotFoundError) else ""


def _process_state() -> dict[str, Any]:
    """Return, for each side effect that an import may have, the part of this process's state that it changes."""
    import logging
    import signal
    import threading
    import warnings

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
    return {
        "changes the working directory": os.getcwd(),
        "changes environment variables": {
            key: value for key, value in os.environ.items() if not key.startswith(_LIBRARY_VARIABLES)
        },
        "changes sys.path": list(sys.path),
        "changes signal handlers": {int(number): signal.getsignal(number) for number in numbers},
        "starts a thread": {thread.ident for thread in threading.enumerate()},
        "configures logging": (list(logging.getLogger().handlers), logging.getLogger().level),
        "changes sys.excepthook": sys.excepthook,
        "replaces warnings.showwarning": warnings.showwarning,
    }


def _peak_megabytes() -> float:
    """Return the peak memory of this process so far, in MiB; 0 if the kernel does not report it."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    answer_request(_import_modules)
