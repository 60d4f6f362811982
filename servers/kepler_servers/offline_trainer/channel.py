"""The connection of a training process to the HTTP process, and the listener that sends progress reports."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

import msgspec

from kepler_core.parent_watch import kill_own_group
from kepler_core.plugins.hooks import hookimpl
from kepler_servers.offline_trainer.messages import (
    Command,
    FitsPlanned,
    LogLine,
    MayPublish,
    Message,
    ModelTrained,
    ReadyToPublish,
    StageStarted,
)

MAX_FIRST_LINES = 1000
"""Number of log lines that a training process sends at once. Of all later lines, it sends only the last
`MAX_LAST_LINES`, when the training ends."""
MAX_LAST_LINES = 1000

MAX_LINE_CHARACTERS = 1000


class Channel:
    """A training process' connection to the HTTP process.

    When the connection closes, the training process kills itself and all processes that it started.
    """

    def __init__(self, commands: BinaryIO, messages: BinaryIO) -> None:
        self._commands = commands
        self._messages = messages
        self._sending = threading.Lock()
        self._received: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=self._read_commands, name="commands", daemon=True).start()

    def receive(self) -> Command:
        """Wait for the next command of the HTTP process, and return it."""
        return self._received.get()

    def send(self, message: Message) -> None:
        """Send a message to the HTTP process. This method is thread-safe."""
        with self._sending:
            self._messages.write(msgspec.json.encode(message) + b"\n")
            self._messages.flush()

    def _read_commands(self) -> None:
        decoder = msgspec.json.Decoder(Command)
        with contextlib.suppress(OSError):
            for line in self._commands:
                self._received.put(decoder.decode(line))
        kill_own_group()


class ProgressReporter(logging.Handler):
    """A listener and log handler that sends the training's progress to the HTTP process."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel
        self._lines = 0
        self._last_lines: collections.deque[LogLine] = collections.deque(maxlen=MAX_LAST_LINES)
        self.may_publish = False
        """Whether the HTTP process has permitted the training to publish (with `MayPublish`)."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.name}: {record.getMessage()}"
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            line = LogLine(record.levelname.lower(), text[:MAX_LINE_CHARACTERS])
            self._lines += 1
            if self._lines <= MAX_FIRST_LINES:
                self._channel.send(line)
            else:
                self._last_lines.append(line)
        except Exception:
            self.handleError(record)

    def send_last_lines(self) -> None:
        """Send the last log lines of a training that logged more than `MAX_FIRST_LINES` lines."""
        if (omitted := self._lines - MAX_FIRST_LINES - len(self._last_lines)) > 0:
            self._channel.send(LogLine("warning", f"{omitted} log lines are left out here"))
        while self._last_lines:
            self._channel.send(self._last_lines.popleft())

    @hookimpl
    def kepler_training_started(self, models: int) -> None:
        self._channel.send(FitsPlanned(models))
        self._channel.send(StageStarted("fitting"))

    @hookimpl
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        self._channel.send(ModelTrained(json_content(model)))

    @hookimpl(trylast=True)
    def kepler_publishing(self) -> None:
        # This listener must be called last: as soon as it returns, the pipeline is written to the store. If the job was
        # cancelled, this listener does not return, because the HTTP process does not send MayPublish, but kills this
        # process.
        self._channel.send(ReadyToPublish())
        assert isinstance(self._channel.receive(), MayPublish)
        self.may_publish = True


def json_content(content: Any) -> Any:
    """Convert content to JSON types: lists for tuples, numbers for NumPy scalars, None for NaN and infinity."""
    return msgspec.json.decode(msgspec.json.encode(content, enc_hook=lambda value: value.item()))
