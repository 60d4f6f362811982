"""The output `prometheus`, which serves the watts as Prometheus metrics on a TCP port."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from kepler_core.errors import OutputError, UsageError
from kepler_core.metering import Output, Reading
from kepler_servers.meter.health import health, readiness
from kepler_servers.meter.kepler_names import usage_ratio
from kepler_servers.meter.prometheus_metrics import MeterState, Published, metrics_application
from kepler_servers.meter.status import MeterStatus

DEFAULT_PORT = 8104


class PrometheusOutput(Output):
    """Output that serves watts, intervals, energy, features and problems as Prometheus metrics."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, kepler_names: bool = False, root: str = "/"
    ) -> None:
        """`host` and `port` are the address to listen on; port 0: any free port.

        With `kepler_names`, the output also has Kepler's metrics of a node, for dashboards that read Kepler's metrics
        on machines without Kepler. `root` is the folder that contains `proc`.
        """
        self.host = host
        self.port = port
        self.kepler_names = kepler_names
        self.root = root
        self._state = MeterState(kepler_names=kepler_names, root=root, node=socket.gethostname())

    def open(self) -> None:
        """Listen on the port. Raises `OutputError` if the address cannot be used."""
        from kepler_servers.http.side_port import start_side_port, with_health

        checks = {"/healthz": lambda: health(self._state), "/readyz": lambda: readiness(self._state)}
        application = with_health(metrics_application(self._state), checks)
        try:
            self.port = start_side_port(application, self.host, self.port)
        except UsageError as error:
            raise OutputError(f"cannot serve metrics: {error.message}") from error

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        if self.kepler_names:
            self._state.node_energy.add(joules, usage_ratio(reading) or 0.0)
        self._state.published = Published(reading, dict(joules), time.monotonic())

    def withdraw(self, reason: str) -> None:
        self._state.published = None
        self._state.reason = reason

    def report(self, status: MeterStatus) -> None:
        """Keep the meter's status: the durations and problems in it are served, too."""
        self._state.status = status

    def close(self) -> None:
        """Serve no watts any more. The port is closed when the process ends."""
        self.withdraw("the meter has ended")
