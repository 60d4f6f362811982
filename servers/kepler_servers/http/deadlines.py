"""A time limit for many asyncio tasks, which is cheap to set for each task."""

from __future__ import annotations

import asyncio
import time
from typing import Any


class SharedDeadline:
    """A context manager that raises `TimeoutError` if a task stays in the `with` block for longer than the limit.

    It works like `asyncio.timeout`, but all tasks share one timer, because setting and cancelling a timer for each
    request would take a large part of the time of a quick answer. The shared timer may give a task up to 10 % more
    time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer_set = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ends[task] = time.monotonic() + self._seconds
        if not self._timer_set:
            self._set_timer()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ends.pop(task, None)
        if task in self._overdue:
            self._overdue.discard(task)
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise TimeoutError

    def _set_timer(self) -> None:
        self._timer_set = True
        asyncio.get_running_loop().call_later(self._seconds / 10, self._cancel_overdue)

    def _cancel_overdue(self) -> None:
        self._timer_set = False
        now = time.monotonic()
        for task in [task for task, end in self._ends.items() if end <= now]:
            del self._ends[task]
            self._overdue.add(task)
            task.cancel()
        if self._ends:
            self._set_timer()
