"""A training process, as the HTTP process holds it."""

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

MARK_VARIABLE = "KEPLER_OFFLINE_TRAINER_OF"
"""In the environment of training processes and all that they start: the state folder that they work for."""

_MODULE = "kepler_servers.offline_trainer.trainer_process"
_LAST_LINES = 20
_ENDING_SECONDS = 5.0


class EndedError(Exception):
    """The process has ended without a further message."""


class TrainerProcess(SessionProcess):
    """A training process, and what it says."""

    def __init__(self, mark: str, memory_limit: int) -> None:
        environ = {name: value for name, value in os.environ.items() if name != SETTINGS_VARIABLE}
        super().__init__(
            [sys.executable, "-m", _MODULE, str(memory_limit)],
            stderr=subprocess.PIPE,
            env={**environ, MARK_VARIABLE: mark},
        )
        self.used_at = time.monotonic()
        """When it last had something to do."""
        self._come: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        for target in (self._listen, self._overhear):
            threading.Thread(target=target, name=f"training {self.pid}", daemon=True).start()

    def send(self, command: Command) -> None:
        """A command; one that has ended does not read it, which `receive` will tell."""
        self.used_at = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            self.stdin.write(msgspec.json.encode(command) + b"\n")
            self.stdin.flush()

    def receive(self, seconds: float) -> Message:
        """Its next message; TimeoutError, `EndedError`."""
        try:
            message = self._come.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            raise EndedError
        return message

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        return printable(self._last_lines[-1]) if self._last_lines else ""

    def _listen(self) -> None:
        decoder = msgspec.json.Decoder(Message)
        with contextlib.suppress(OSError, ValueError):
            for line in self.stdout:
                try:
                    self._come.put(decoder.decode(line))
                except msgspec.DecodeError:
                    break  # it was killed while it wrote
        self._come.put(None)

    def _overhear(self) -> None:
        assert self.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self.stderr.readline(4096):
                if text := line.decode("utf-8", "replace").strip():
                    self._last_lines.append(text)
                    log.debug("training process %d: %s", self.pid, printable(text))


def kill_left_over(mark: str) -> int:
    """Kill training processes that outlived the server that they worked for; how many there were."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    killed: set[int] = set()
    until = time.monotonic() + _ENDING_SECONDS
    while found := [pid for pid in _processes() if wanted in _environ_of(pid)]:
        for pid in found:
            killed.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            log.error("training processes of an earlier run do not end: %s", found)
            break
        time.sleep(0.05)
    return len(killed)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _environ_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or not ours
        return []
