"""Run code in a fresh interpreter in which some modules cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from kepler_core.plugins.probe import probe_environment

TRAINING_LIBRARIES = ("sklearn", "pandas", "scipy", "xgboost", "lightgbm")

_BLOCK = "import sys\nfor name in {modules!r}:\n    sys.modules[name] = None  # makes an import of it fail\n"


def error_without(modules: Sequence[str], code: str, *arguments: str) -> str:
    """Run Python code in a fresh interpreter in which importing any of the modules fails.

    Returns the last line of the traceback, or "" if the code ends without an error. The code can read
    `arguments` from `sys.argv[1:]`.
    """
    done = subprocess.run(
        [sys.executable, "-c", _BLOCK.format(modules=tuple(modules)) + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=probe_environment(),
    )
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["no message"])[-1]
