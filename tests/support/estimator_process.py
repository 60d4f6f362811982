"""An estimator as a process under test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.estimator_clients import ask, connect
from support.server_process import PATIENCE, wait_for

# The test machine's own settings must not reach the estimators under test.
_KEYS = (
    "MODEL_PATH", "MODEL_CONFIG", "MODEL_SERVER_URL", "MODEL_SERVER_ENABLE", "MODEL_SERVER_MODEL_REQ_PATH",
    "NODE_TOTAL_INIT_URL", "NODE_COMPONENTS_INIT_URL", "CONTAINER_TOTAL_INIT_URL", "CONTAINER_COMPONENTS_INIT_URL",
    "PROCESS_TOTAL_INIT_URL", "PROCESS_COMPONENTS_INIT_URL", "ERROR_KEY", "CONFIG_PATH", "HTTP_PROXY", "http_proxy",
)  # fmt: skip


class EstimatorProcess:
    """`kepler-model serve estimator --socket …`."""

    def __init__(
        self, path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        assert len(str(path)) < 108, "longer than the path of a socket can be"
        self.path = path
        self.log_path = log or path.with_suffix(f".{time.monotonic_ns()}.log")
        clean = {key: value for key, value in os.environ.items() if key not in _KEYS}
        clean["CONFIG_PATH"] = str(path.parent / "no-such-folder")
        command = [sys.executable, "-m", "kepler_core", "serve", "estimator", "--socket", str(path)]
        with self.log_path.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean, **(environ or {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Wait for the log line that says that the estimator listens."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return "listening on" in self.log

        wait_for(ready, "the estimator does not listen")

    def ask(self, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """Return the checked reply to a request."""
        return ask(self.path, request)

    def status(self) -> dict[str, Any]:
        """Return the reply to the command `status`."""
        with connect(self.path) as connection:
            connection.sendall(b'{"command":"status"}')
            content = b""
            while piece := connection.recv(65536):
                content += piece
        status: dict[str, Any] = json.loads(content)
        return status

    def providers_in_use(self) -> list[str]:
        """Return the names of the providers whose models are in use."""
        return sorted({model["origin"] for model in self.status()["models"] if "origin" in model})

    def wait_answer(self, request: Mapping[str, Any], powers: Mapping[str, Any]) -> None:
        """Repeat a request until its reply has these powers."""
        wait_for(lambda: self.ask(request)["powers"] == powers, f"never answered {powers}")

    def descriptors(self) -> int:
        """Return the number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self) -> int:
        """Return the resident memory in KiB."""
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
        """Fail if the log shows a defect. Warnings about clients and providers are fine."""
        for word in ("Traceback", "defect of the estimator", "Logging error"):
            assert word not in self.log, self.log[-3000:]


@contextmanager
def running_estimator(
    path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> Iterator[EstimatorProcess]:
    """Start an estimator, and wait until it listens. At the end, stop it and check its log and exit code."""
    estimator = EstimatorProcess(path, *arguments, environ=environ)
    try:
        estimator.wait_ready()
        yield estimator
    finally:
        code = estimator.stop()
    estimator.check_log()
    assert code == 0, estimator.log
    assert not os.path.lexists(path)
