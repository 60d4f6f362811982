"""A child process in its own session. Killing it also kills all processes that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

_EXIT_TIMEOUT_SECONDS = 5.0
"""Time in which a process can exit by itself before it is killed."""


class SessionProcess:
    """A command that runs as the leader of a new session, with pipes to its standard input and output."""

    def __init__(
        self, command: Sequence[str], *, stderr: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start the command. `stderr` and `env` are passed to `subprocess.Popen`."""
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
        """Whether the process is still running."""
        # Popen.poll() would reap the process. The kernel could then reuse its id before `kill` uses it.
        if self._process.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self) -> None:
        """Send SIGKILL to the process and to all other processes of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait a few seconds until the process exits, kill all processes of its group, and return its exit code.

        If a signal has ended the process, the exit code is the negative signal number.
        """
        with self._ending:
            deadline = time.monotonic() + _EXIT_TIMEOUT_SECONDS
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.02)
            self.kill()
            code = self._process.wait()
            for pipe in (self.stdin, self.stdout, self.stderr):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            return code
