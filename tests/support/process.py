"""Runs a `kepler-model` command as a real process under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 30.0
"""Seconds that a test waits for an event before it fails. No event is expected to take that long."""

SETTINGS_KEYS = (
    "MODEL_PATH", "MODEL_CONFIG", "MODEL_SERVER_PORT", "MODEL_SERVER_URL", "MODEL_SERVER_ENABLE",
    "MODEL_SERVER_MODEL_REQ_PATH", "INITIAL_PIPELINE_URL", "NODE_TOTAL_INIT_URL", "NODE_COMPONENTS_INIT_URL",
    "CONTAINER_TOTAL_INIT_URL", "CONTAINER_COMPONENTS_INIT_URL", "PROCESS_TOTAL_INIT_URL",
    "PROCESS_COMPONENTS_INIT_URL", "ERROR_KEY", "CONFIG_PATH", "PROMETHEUS_MULTIPROC_DIR", "HTTP_PROXY", "http_proxy",
    "MODEL_TOPURL",
)  # fmt: skip
"""Environment variables that processes under test do not inherit, because the variables change their behaviour."""

DEFECTS = ("Traceback", "panicked", "defect of", "Unexpected exit", "Logging error")
"""Words in the log of a process that show that the process has a defect."""


class ProcessUnderTest:
    """A process of a `kepler-model` command, or of another `program`. Its output goes to a log file."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        environ: Mapping[str, str] | None = None,
        *,
        program: Sequence[str | Path] = (sys.executable, "-m", "kepler_core"),
    ) -> None:
        self.log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if key not in SETTINGS_KEYS}
        # Name a folder that does not exist, so that the process does not read this machine's configuration folder.
        clean["CONFIG_PATH"] = str(log.parent / "no-such-folder")
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*map(str, program), *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, **(environ or {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], message: str) -> None:
        """Wait until the condition is true. Fail if the process ends before the condition is true."""

        def alive_and_true() -> bool:
            assert self.process.poll() is None, self.log
            return condition()

        wait_for(alive_and_true, message)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self) -> int:
        return self._memory_kib("VmRSS")

    def peak_resident_kib(self) -> int:
        return self._memory_kib("VmHWM")

    def _memory_kib(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise AssertionError(f"no {name}")

    def stop(self) -> int:
        """Send SIGTERM, wait until the process has ended, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def check_log(self) -> None:
        """Fail if the log shows a defect of the process. Messages about other errors are allowed."""
        for word in DEFECTS:
            assert word not in self.log, self.log[-3000:]


def wait_for(
    condition: Callable[[], bool], message: str, seconds: float = PATIENCE, *, pause_seconds: float = 0.05
) -> None:
    """Wait until the condition is true. Fail with `message` if it is still false after `seconds`.

    The function waits `pause_seconds` between two evaluations of the condition. Use a longer pause for a condition that
    starts a process.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(pause_seconds)
