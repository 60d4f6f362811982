"""The health and the readiness of a meter, which the output `prometheus` serves at `/healthz` and `/readyz`."""

from __future__ import annotations

import time
from typing import Any

from kepler_core import __version__
from kepler_core.messages import printable
from kepler_servers.meter.prometheus_metrics import MeterState

LATE_INTERVALS = 3
LATE_SECONDS = 5.0
"""A meter is not healthy if its latest period ended longer ago than `LATE_INTERVALS` intervals plus this time.

The alert KeplerMeterIsLate has the same limit.
"""
_MAX_PROBLEM_CHARACTERS = 1000


def health(state: MeterState) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the answer of `/healthz`. The status is 503 if the latest period ended too long ago.

    A meter that has no estimate counts as healthy, because a restart would not help.
    """
    status = state.status
    late = None
    if status is not None:
        age = time.time() - status.time
        if age > LATE_INTERVALS * status.interval + LATE_SECONDS:
            late = f"the latest period ended {age:.0f} s ago"
    body = {"status": "failed" if late else "ok", "version": __version__, "problem": late}
    return (503 if late else 200), body


def readiness(state: MeterState) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the answer of `/readyz`. The status is 503 while there is no estimate."""
    reason = None if state.published is not None else printable(state.reason, _MAX_PROBLEM_CHARACTERS)
    return (200 if reason is None else 503), {"not_ready": reason}
