"""The output `prometheus`, which serves the watts as Prometheus metrics and as a page on a TCP port."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from kepler_core.errors import OutputError, UsageError
from kepler_core.metering import Output, Reading
from kepler_servers.meter.health import health, readiness
from kepler_servers.meter.kepler_names import usage_ratio
from kepler_servers.meter.prometheus_metrics import MeterState, Published, metrics_application
from kepler_servers.meter.status import MeterStatus

if TYPE_CHECKING:
    from kepler_servers.http.side_port import WsgiApplication

log = logging.getLogger(__name__)

DEFAULT_PORT = 8104


class PrometheusOutput(Output):
    """Output that serves watts, intervals, energy, features and problems as Prometheus metrics."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, kepler_names: bool = False, root: str = "/"
    ) -> None:
        """The server listens at the address `host` and on `port`; port 0 means any free port.

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
        application = with_health(_application(self._state), checks)
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
        """Store the meter's status. The metrics contain its durations and problems."""
        self._state.status = status

    def advise_with(self, advise: Callable[[Reading], Sequence[str]]) -> None:
        """Show advice on the page: the sentences that `advise` returns for a reading."""
        self._state.advise = advise

    def close(self) -> None:
        """Stop serving watts. The port is closed when the process ends."""
        self.withdraw("the meter has ended")


def _application(state: MeterState) -> WsgiApplication:
    """Return the WSGI application of the port: the page for people under `/`, and the metrics everywhere else."""
    metrics = metrics_application(state)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if path != "/" and not path.startswith("/ui/"):
            return metrics(environ, start_response)
        return _page(state, environ, start_response)

    return application


def _page(state: MeterState, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    from kepler_servers.meter.watts_page import answer  # the page's libraries are imported at the first visit

    try:
        page = answer(state, environ)
        status, headers, body = page.status, dict(page.headers), page.body
        assert isinstance(body, bytes)
    except Exception:  # a defect of the page must not end the connection without an answer
        log.exception("the page of the meter failed; this is a defect of the meter")
        status, headers, body = 500, {"Content-Type": "text/plain; charset=utf-8"}, b"a defect of the meter\n"
    headers["Content-Length"] = str(len(body))
    start_response(f"{status} {HTTPStatus(status).phrase}", list(headers.items()))
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
