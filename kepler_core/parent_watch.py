"""Worker processes that end when their parent process dies."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_WATCHED = threading.Lock()
"""Held as soon as the thread of `end_with` has started."""
_TERM_TIMEOUT_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL, in which this process can end by itself."""


def end_with_parent() -> None:
    """Start a thread that ends this process soon after its parent has died.

    If this process leads a process group, the whole group is killed.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        log.error("the main process is gone; stopping")
        if os.getpgrp() == os.getpid():
            kill_own_group()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_TERM_TIMEOUT_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def end_with(parent: int) -> None:
    """Start a thread that kills this process soon after its parent process has died.

    `parent` is the process id of the parent. The function does nothing if it is called in the process `parent` itself,
    or if the thread is running already. Workers of loky need this: if the main process is killed, they wait forever
    until somebody reads their results, because each worker inherits the reading end of the pipe (loky 3.5).
    """
    if os.getpid() == parent or _WATCHED.locked():
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    if _WATCHED.acquire(blocking=False):
        threading.Thread(target=watch, name="parent watch", daemon=True).start()


def kill_own_group() -> None:
    """Kill this process. If it leads a process group, kill the whole group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
