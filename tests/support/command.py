"""Runs `kepler-model` in the process of the test, because a new process takes a second to start."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from kepler_core.cli.main import main


def kepler(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `kepler-model` with these arguments. Return the output and the exit code as `subprocess.run` does."""
    words = ["kepler-model", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or Path()),
    ):
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
