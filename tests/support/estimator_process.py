"""An estimator that runs as a process under test."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.estimator_clients import ask, connect
from support.process import ProcessUnderTest, wait_for

MAX_SOCKET_PATH = 107
"""Maximum length of the path of a unix socket in Linux, in bytes."""


class EstimatorProcess(ProcessUnderTest):
    """A process of `kepler-model serve estimator --socket …`."""

    def __init__(
        self, path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        assert len(str(path)) <= MAX_SOCKET_PATH
        self.path = path
        log_path = log or path.with_suffix(f".{time.monotonic_ns()}.log")
        super().__init__(["serve", "estimator", "--socket", path, *arguments], log_path, environ)

    def wait_ready(self) -> None:
        """Wait for the log line that says that the estimator listens."""
        self.wait_until(lambda: "listening on" in self.log, "the estimator does not listen")

    def ask(self, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """Send a request. Check the reply with `checked_reply` and return it."""
        return ask(self.path, request)

    def status(self) -> dict[str, Any]:
        """Return the estimator's reply to the command `status`."""
        with connect(self.path) as connection:
            connection.sendall(b'{"command":"status"}')
            content = b""
            while piece := connection.recv(65536):
                content += piece
        status: dict[str, Any] = json.loads(content)
        return status

    def providers_in_use(self) -> list[str]:
        """Return the names of the model providers whose models the estimator uses."""
        return sorted({model["origin"] for model in self.status()["models"] if "origin" in model})

    def wait_answer(self, request: Mapping[str, Any], powers: Mapping[str, Any]) -> None:
        """Repeat a request until its reply has the powers `powers`."""
        wait_for(lambda: self.ask(request)["powers"] == powers, f"never answered {powers}")


@contextmanager
def running_estimator(
    path: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> Iterator[EstimatorProcess]:
    """Start an estimator, and wait until it listens. At the end, stop the estimator and check its log and exit code."""
    estimator = EstimatorProcess(path, *arguments, environ=environ)
    try:
        estimator.wait_ready()
        yield estimator
    finally:
        code = estimator.stop()
    estimator.check_log()
    assert code == 0, estimator.log
    assert not os.path.lexists(path)
