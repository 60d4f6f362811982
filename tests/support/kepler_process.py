"""A simulated Kepler 0.10 or later that is read over HTTP.

Each request for /metrics gets the next window, as in a Kepler with the setting `monitor.interval: 0s`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kepler_core import kepler_names as names
from support.prometheus_process import Reply, answering
from support.simulated_host import SimulatedHost


class SimulatedKepler:
    """Serves the metrics of a simulated host. Each request for /metrics gets the next time window."""

    def __init__(self, host: SimulatedHost, **changes: Any) -> None:
        self._content = host.recording()
        self._lock = threading.Lock()
        self._window = 0
        self.changes: Mapping[str, Any] = changes
        """Series that replace the series of a metric in /metrics, by the metric's name. None removes the metric."""

    def reply(self, path: str, headers: Mapping[str, str]) -> Reply:
        if path != "/metrics":
            return 404, {}, b""
        with self._lock:
            window, self._window = self._window, self._window + 1
        content = {**self._content, **self.changes}
        lines = []
        for metric, all_series in content.items():
            lines.append(f"# TYPE {metric} untyped")
            for series in all_series or ():
                labels = {key: value for key, value in series["metric"].items() if key != "instance"}
                text = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
                lines.append(f"{metric}{{{text}}} {series['values'][window][1]}")
        return 200, {"Content-Type": "text/plain"}, ("\n".join(lines) + "\n").encode()


@contextmanager
def simulated_kepler(host: SimulatedHost, **changes: Any) -> Iterator[str]:
    """Run a simulated Kepler. Yield its URL without a path."""
    with answering(SimulatedKepler(host, **changes).reply) as url:
        yield url


def without_power() -> dict[str, None]:
    """Return changes that remove all power from /metrics, as if Kepler could not read the executables of processes."""
    kept = (names.BUILD_INFO, names.CPU_INFO)
    return {metric: None for metric in SimulatedHost().recording() if metric not in kept}


def wait_for_file(path: Any, seconds: float = 30.0) -> None:
    """Wait until a file exists."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.05)
