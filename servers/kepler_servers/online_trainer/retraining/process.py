"""Run a retraining in a separate process.

When that process ends, all memory that the retraining used is returned to the system. If a trainer plugin crashes, only
that process ends, not the online trainer.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_object
from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.process_group import SessionProcess

MODULE = "kepler_servers.online_trainer.retraining.run"
_POLL_SECONDS = 0.1


def run_in_process(task: RetrainingTask, *, timeout: float, stop: threading.Event) -> dict[str, Any] | None:
    """Run a retraining and return its decision, or `{"error": reason}` if it failed.

    After `timeout` seconds, the process is killed, and the retraining counts as failed. If `stop` is set, the process
    is also killed, and the result is None.
    """
    process = SessionProcess([sys.executable, "-m", MODULE])
    answer: list[bytes] = []
    content = msgspec.json.encode(task)

    def exchange() -> None:
        # OSError and ValueError mean that the process has ended; its exit code is checked below
        with contextlib.suppress(OSError, ValueError):
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
            return None if stop.is_set() else {"error": f"the time limit of {timeout:g} s was exceeded"}
    code = process.end()
    if code != 0 or not answer or not answer[0]:
        return {"error": f"the retraining process ended with exit code {code}; see the log"}
    try:
        return decode_object(answer[0])
    except DocumentError as error:
        return {"error": f"the retraining process wrote no decision: {error}"}
