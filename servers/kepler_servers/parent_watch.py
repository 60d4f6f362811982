"""A worker process that ends with the process that started it: nobody else would stop it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

log = logging.getLogger(__name__)

_SECONDS = 1.0


def end_with_parent() -> None:
    """Stop this process soon after its parent is gone; if it leads a process group, that with it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        log.error("the main process is gone; stopping")
        if os.getpgrp() == os.getpid():
            kill_own_group()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5 * _SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def kill_own_group() -> None:
    """End this process and all that it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
