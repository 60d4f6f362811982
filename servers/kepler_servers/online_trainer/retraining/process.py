"""Run a retraining in a process of its own.

Its memory is returned to the system when it ends, and no trainer plugin can end the online trainer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import Any

import msgspec

from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.process_group import SessionProcess

MODULE = "kepler_servers.online_trainer.retraining.run"
_POLL_SECONDS = 0.1


def run_in_process(task: RetrainingTask, *, timeout: float, stop: threading.Event) -> dict[str, Any] | None:
    """Run a retraining and return its decision, `{"error": …}` if it failed.

    The process is killed after `timeout` seconds, or when `stop` is set; then the result is None.
    """
    process = SessionProcess([sys.executable, "-m", MODULE])
    answer: list[bytes] = []
    content = msgspec.json.encode(task)

    def exchange() -> None:
        with contextlib.suppress(OSError, ValueError):  # the process has ended; its exit code tells why
            process.stdin.write(content)
            process.stdin.close()
            answer.append(process.stdout.read())

    exchanging = threading.Thread(target=exchange, name="retraining", daemon=True)
    exchanging.start()
    deadline = time.monotonic() + timeout
    while exchanging.is_alive():
        exchanging.join(_POLL_SECONDS)
        if stop.is_set() or time.monotonic() > deadline:
            process.kill()
            process.end()
            return None if stop.is_set() else {"error": f"not done in {timeout:g} s"}
    code = process.end()
    if code != 0 or not answer or not answer[0]:
        return {"error": f"the retraining process ended with exit code {code}; the log says more"}
    return msgspec.json.decode(answer[0], type=dict[str, Any])
