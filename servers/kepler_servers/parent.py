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
    """Stop this process soon after its parent is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS)
        log.error("the main process is gone; stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5 * _SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
