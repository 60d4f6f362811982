"""A time limit for each operation on a remote file system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kepler_core.deadlines import Deadline, DeadlineError

READ_SECONDS = 300.0
WRITE_SECONDS = 900.0
"""Time limit for writing all files of a version, or for removing them."""

_WRITING = ("pipe", "pipe_file", "rm", "rm_file")


class TimeLimitedFiles:
    """An fsspec file system whose methods raise `TimeoutError` if they are not complete within a time limit.

    The timeouts of fsspec's libraries limit each read from a socket. A server that sends a byte from time to
    time never exceeds these timeouts.
    """

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._filesystem, name)
        seconds = WRITE_SECONDS if name in _WRITING else READ_SECONDS

        def limited(*arguments: Any, **keywords: Any) -> Any:
            return _run(lambda: method(*arguments, **keywords), seconds)

        return limited

    def read_start(self, path: str, max_bytes: int) -> bytes:
        """Open a file, and return its first bytes."""

        def read() -> bytes:
            with self._filesystem.open(path, "rb") as file:
                return bytes(file.read(max_bytes))

        content: bytes = _run(read, READ_SECONDS)
        return content


def _run(work: Callable[[], Any], seconds: float) -> Any:
    try:
        return Deadline(seconds).run(work)
    except DeadlineError as error:
        raise TimeoutError(error.message) from error
