"""A time limit for a whole task, such as a download with all its reads.

The timeout of a socket limits each single read or write. A server that sends one byte from time to time never exceeds
that timeout. And a process that waits for a socket does not notice that it should stop. `Deadline` limits the whole
task instead:

    deadline = Deadline(30.0, stop=stop)

    def download() -> bytes:
        with urllib.request.urlopen(url, timeout=10) as response:
            return read_bounded(response, deadline, 2**20)

    content = deadline.run(download)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from kepler_core.errors import KeplerError

T = TypeVar("T")

_POLL_SECONDS = 0.1
"""Interval at which a waiting `Deadline` checks its stop events."""
_PIECE_BYTES = 2**16


class DeadlineError(KeplerError):
    """A task was not complete at its deadline, or was stopped earlier."""

    def __init__(self, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.stopped = stopped
        """True if the task was stopped, False if the deadline had passed."""


class TooLargeError(KeplerError):
    """The body of an HTTP answer, or an unpacked file, has more bytes than its reader accepts."""


class Deadline:
    """The time at which a task must be complete, and the events that end the task earlier.

    Several threads can use the same `Deadline` at the same time.
    """

    def __init__(self, seconds: float, *, stop: threading.Event | Iterable[threading.Event] = ()) -> None:
        """Start the time limit now. `stop` is one event or several events; setting any of them ends the task."""
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._stops = (stop,) if isinstance(stop, threading.Event) else tuple(stop)
        self._abandoned = False

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def stopped(self) -> bool:
        """Whether a stop event is set, or an exception (such as Ctrl-C) has interrupted the caller of `run`."""
        return self._abandoned or any(stop.is_set() for stop in self._stops)

    def check(self) -> None:
        """Raise `DeadlineError` if the deadline has passed or a stop event is set."""
        if self.stopped:
            raise DeadlineError("told to stop", stopped=True)
        if time.monotonic() >= self._end:
            raise DeadlineError(f"not complete within {self.seconds:g} s")

    def wait(self, seconds: float) -> None:
        """Wait `seconds`. Raise `DeadlineError` as soon as the deadline has passed or a stop event is set."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, self.remaining, _POLL_SECONDS))

    def run(self, work: Callable[[], T], *, cancel: Callable[[], None] = lambda: None) -> T:
        """Run the function `work` in a new thread, and return its result or raise its error.

        Raises `DeadlineError` as soon as the deadline has passed or a stop event is set. It does so even if `work` then
        waits for the name server, a connection, a TLS handshake or an answer. The thread of `work` is then abandoned,
        and `cancel` is called. `cancel` should make `work` end, for example by shutting down its socket. Without
        `cancel`, the thread ends when it next calls `check`, or when its socket times out. The process can exit
        while an abandoned thread still runs.
        """
        self.check()
        task = _Task(work)
        thread = threading.Thread(target=task.run, name="task with a deadline", daemon=True)
        thread.start()
        try:
            while not task.done.wait(min(self.remaining, _POLL_SECONDS) if self._stops else self.remaining):
                self.check()
        except BaseException as error:  # `Exception` would not include KeyboardInterrupt
            if not isinstance(error, DeadlineError):
                self._abandoned = True
            cancel()
            raise
        return task.result()


class _Task(Generic[T]):
    """A function that runs in a thread, and the result or error of that function."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # `result` raises this error in the thread that waits for the task
            self._error = error
        finally:
            self.done.set()

    def result(self) -> T:
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._results.pop()


class Readable(Protocol):
    """Interface to read the body of an HTTP answer, which `http.client` and `urllib3` answers implement."""

    def read1(self, amt: int, /) -> bytes:
        """Return the bytes that have arrived, at most `amt` bytes. Empty bytes mean the end of the body."""
        ...


def read_bounded(response: Readable, deadline: Deadline, max_bytes: int) -> bytes:
    """Return the whole body of an answer.

    Raises `TooLargeError` if the body is larger than `max_bytes`, and `DeadlineError` as `Deadline.check` does.
    The deadline is checked after each read, so that many slow reads do not exceed it. Call this function
    in `Deadline.run`: otherwise, a server that sends no byte delays the check until the socket times out.
    """
    return b"".join(read_pieces(response, deadline, max_bytes))


def read_pieces(response: Readable, deadline: Deadline, max_bytes: int) -> Iterator[bytes]:
    """Yield the body of an answer in the pieces in which it arrives, with the limits of `read_bounded`."""
    size = 0
    while piece := response.read1(_PIECE_BYTES):
        size += len(piece)
        if size > max_bytes:
            raise TooLargeError(f"more than {max_bytes} bytes")
        deadline.check()
        yield piece
