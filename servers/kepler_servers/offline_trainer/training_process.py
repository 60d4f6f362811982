"""Start a training process, send commands to it and receive its messages. The HTTP process uses this module."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from kepler_core.messages import printable
from kepler_servers.offline_trainer.messages import Command, Message
from kepler_servers.offline_trainer.settings import SETTINGS_VARIABLE
from kepler_servers.process_group import SessionProcess

log = logging.getLogger(__name__)

STATE_VARIABLE = "KEPLER_OFFLINE_TRAINER_OF"
"""Environment variable with the path of the state folder. It is set in training processes and their children."""

KILL_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals with which a user or systemd ends a process. The kernel sends SIGKILL, too, if memory runs out."""

_MODULE = "kepler_servers.offline_trainer.training_main"
_STDERR_LINES = 20
_KILL_TIMEOUT_SECONDS = 5.0


class ProcessEndedError(Exception):
    """The training process has ended, and has sent no further message."""


class TrainingProcess(SessionProcess):
    """A training process. The HTTP process uses this class to send it commands and to receive its messages."""

    def __init__(self, state: str, memory_limit: int) -> None:
        """Start the process. `state` is the path of the state folder; `memory_limit` is the process' limit in bytes."""
        environ = {name: value for name, value in os.environ.items() if name != SETTINGS_VARIABLE}
        super().__init__(
            [sys.executable, "-m", _MODULE, str(memory_limit)],
            stderr=subprocess.PIPE,
            env={**environ, STATE_VARIABLE: state},
        )
        self.last_used = time.monotonic()
        """Time (`time.monotonic`) when a command was last sent, or a check last ended."""
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stderr_lines: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        for target in (self._read_messages, self._read_stderr):
            threading.Thread(target=target, name=f"training {self.pid}", daemon=True).start()

    def send(self, command: Command) -> None:
        """Send a command. If the process has ended, do nothing: the next `receive` then raises `ProcessEndedError`."""
        self.last_used = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self.stdin.write(msgspec.json.encode(command) + b"\n")
            self.stdin.flush()

    def receive(self, timeout: float) -> Message:
        """Wait for the next message of the process, and return it.

        Raises `TimeoutError` after `timeout` seconds, and `ProcessEndedError` if no message will follow.
        """
        try:
            message = self._messages.get(timeout=max(0.0, timeout))
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            raise ProcessEndedError
        return message

    def last_error_line(self) -> str:
        """Return the last line that the process wrote to standard error, or an empty text."""
        return printable(self._stderr_lines[-1]) if self._stderr_lines else ""

    def _read_messages(self) -> None:
        decoder = msgspec.json.Decoder(Message)
        with contextlib.suppress(OSError, ValueError):
            for line in self.stdout:
                try:
                    self._messages.put(decoder.decode(line))
                except msgspec.DecodeError:
                    break  # the message is incomplete, because the process was killed while it wrote
        self._messages.put(None)

    def _read_stderr(self) -> None:
        assert self.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self.stderr.readline(4096):
                if text := line.decode("utf-8", "replace").strip():
                    self._stderr_lines.append(text)
                    log.debug("training process %d: %s", self.pid, printable(text))


def kill_orphans(state: str) -> int:
    """Kill the training processes that an ended server of this state folder has left running; return their number."""
    variable = f"{STATE_VARIABLE}={state}".encode()
    killed: set[int] = set()
    deadline = time.monotonic() + _KILL_TIMEOUT_SECONDS
    while orphans := [pid for pid in _other_processes() if variable in _environ_of(pid)]:
        for pid in orphans:
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            log.error("killed training processes of an earlier server do not end; process ids: %s", orphans)
            break
        time.sleep(0.05)
    return len(killed)


def _other_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # the process may have ended, or belongs to another user
        return []
