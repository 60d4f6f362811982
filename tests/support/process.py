"""A `kepler-model` command as a real process under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 30.0
"""Seconds until a test fails because something did not happen: not what anything is expected to take."""

SETTINGS_KEYS = (
    "MODEL_PATH", "MODEL_CONFIG", "MODEL_SERVER_PORT", "MODEL_SERVER_URL", "MODEL_SERVER_ENABLE",
    "MODEL_SERVER_MODEL_REQ_PATH", "INITIAL_PIPELINE_URL", "NODE_TOTAL_INIT_URL", "NODE_COMPONENTS_INIT_URL",
    "CONTAINER_TOTAL_INIT_URL", "CONTAINER_COMPONENTS_INIT_URL", "PROCESS_TOTAL_INIT_URL",
    "PROCESS_COMPONENTS_INIT_URL", "ERROR_KEY", "CONFIG_PATH", "PROMETHEUS_MULTIPROC_DIR", "HTTP_PROXY", "http_proxy",
)  # fmt: skip
"""Settings of the machine that the tests run on, which must not reach the processes under test."""

DEFECTS = ("Traceback", "panicked", "defect of", "Unexpected exit", "Logging error")
"""What the log of a process never holds unless the process has a defect."""


class ProcessUnderTest:
    """A `kepler-model` command whose output goes to a log file."""

    def __init__(self, arguments: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if key not in SETTINGS_KEYS}
        # the machine's configuration folder must not reach the process either
        clean["CONFIG_PATH"] = str(log.parent / "no-such-folder")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kepler_core", *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, **(environ or {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], message: str) -> None:
        """Wait until the condition holds; fail if the process ends before."""

        def alive_and_true() -> bool:
            assert self.process.poll() is None, self.log
            return condition()

        wait_for(alive_and_true, message)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def check_log(self) -> None:
        """Fail if the log reports a defect of the process; errors of others may be in it."""
        for word in DEFECTS:
            assert word not in self.log, self.log[-3000:]


def wait_for(condition: Callable[[], bool], message: str, seconds: float = PATIENCE) -> None:
    """Wait until the condition holds; fail with the message after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.05)
