"""Worker processes that end when their parent process dies."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_TERM_TIMEOUT_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL, in which this process can end by itself."""


def end_with_parent() -> None:
    """Start a thread that ends this process soon after its parent has died.

    If this process leads a process group, the whole group is killed.
    """

    def end() -> None:
        log.error("the main process is gone; stopping")
        if os.getpgrp() == os.getpid():
            kill_own_group()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_TERM_TIMEOUT_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    _watch(os.getppid(), end)


def end_with(parent: int) -> None:
    """Start a thread that kills this process soon after its parent process has died.

    `parent` is the process id of the parent. The function does nothing if it is called in the process `parent` itself,
    or if the thread is running already. Workers of loky (3.5) need this thread: each worker inherits the reading end of
    the pipe for its results. So if the main process is killed, the workers wait forever until a process reads the
    results.
    """
    if os.getpid() != parent:
        _kill_with(parent)


@cache
def _kill_with(parent: int) -> None:
    _watch(parent, lambda: os.kill(os.getpid(), signal.SIGKILL))


def _watch(parent: int, end: Callable[[], None]) -> None:
    """Start a thread that calls `end` when `parent` is no longer the parent of this process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        end()

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def kill_own_group() -> None:
    """Kill this process. If it leads a process group, kill the whole group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
