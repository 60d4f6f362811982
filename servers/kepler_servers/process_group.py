"""A process of its own session: it is ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

_ENDING_SECONDS = 5.0


class SessionProcess:
    """What runs a command and talks to it through pipes."""

    def __init__(
        self, command: Sequence[str], *, stderr: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """`stderr` and `env` as `subprocess.Popen` has them."""
        self._process = subprocess.Popen(  # noqa: S603 - our own modules
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True, env=env
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin: IO[bytes] = self._process.stdin
        self.stdout: IO[bytes] = self._process.stdout
        self.stderr = self._process.stderr
        self._ending = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        # not poll(): that would reap it, and its process group might be another's when we kill it
        if self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self) -> None:
        """End it and all that it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait until it has ended, kill what it left running; its exit code (negative: the signal)."""
        with self._ending:
            until = time.monotonic() + _ENDING_SECONDS
            while self.alive and time.monotonic() < until:
                time.sleep(0.02)
            self.kill()
            code = self._process.wait()
            for pipe in (self.stdin, self.stdout, self.stderr):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            return code
