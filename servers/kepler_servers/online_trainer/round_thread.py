"""Runs the rounds of the online trainer until the process gets a signal to stop."""

from __future__ import annotations

import logging
import os
import threading

from kepler_servers.online_trainer.rounds import Rounds

STOP_SECONDS = 1.5
"""After SIGTERM or SIGINT, the process waits at most this time for the running round to end. It then exits."""

_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


def run_until_stopped(rounds: Rounds, stop: threading.Event) -> None:
    """Run rounds until `stop` is set. If the running round then takes more than `STOP_SECONDS`, end the process.

    A round usually ends in time. It takes longer only while it waits for the model store or calculates.
    It is safe to end the process at any point of a round, because the files in the sample store and in the
    model store are always replaced as a whole.
    """
    errors: list[BaseException] = []

    def work() -> None:
        try:
            rounds.run()
        except BaseException as error:  # the main thread raises the error again at the end of `_run`
            errors.append(error)

    thread = threading.Thread(target=work, name="rounds", daemon=True)
    thread.start()
    # The loop does not call `stop.wait`. The signal handler that sets `stop` runs in this thread. If it ran while this
    # thread held the lock of `stop`, it would wait for ever.
    while thread.is_alive() and not stop.is_set():
        thread.join(_POLL_SECONDS)
    thread.join(STOP_SECONDS)
    if thread.is_alive():
        log.warning("stopped in the middle of a round; the next start continues from the stored samples")
        logging.shutdown()
        os._exit(0)
    if errors:
        raise errors[0]
