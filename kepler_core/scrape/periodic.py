"""Do something once per interval, until a time has passed or the process is told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType


def every(
    interval: float, duration: float, stop: threading.Event, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Yield the seconds since the start, at once and then at each multiple of `interval`, up to `duration`.

    Multiples that passed while the caller worked are left out. Ends when `stop` is set.
    """
    started = clock()
    number = 0
    while not stop.is_set():
        yield clock() - started
        number = max(number + 1, int((clock() - started) / interval) + 1)
        due = number * interval
        if due > duration + 1e-9:
            return
        if stop.wait(max(started + due - clock(), 0.0)):
            return


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set. A second SIGINT raises `KeyboardInterrupt` as usual."""
    stop = threading.Event()
    before: dict[signal.Signals, object] = {}

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for kind in (signal.SIGINT, signal.SIGTERM):
        before[kind] = signal.signal(kind, end)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)  # type: ignore[arg-type]
