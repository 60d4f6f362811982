"""Runs a model server as a real process, with an HTTP client for the server."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

from support.process import PATIENCE, ProcessUnderTest

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values of the samples in /metrics. A key is (name, labels)."""


def check_one_line(error: Exception, longest: int = 1000) -> None:
    """Check that the message of an error is one line of at most `longest` characters."""
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) <= longest


@attrs.frozen
class Answer:
    """An HTTP answer as the client received it."""

    status: int
    headers: Mapping[str, str]
    """Values of the headers. The keys are the names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess(ProcessUnderTest):
    """A process of `kepler-model serve model-server …` on a free port of this machine."""

    SERVER = "model-server"

    def __init__(
        self,
        store: Path | str | None,
        log: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        port: int | None = None,
        port_option: bool = True,
    ) -> None:
        self.port = free_port() if port is None else port
        command = ["serve", self.SERVER, "--host", "127.0.0.1", *arguments]
        if store is not None:
            command += ["--store", str(store)]
        if port_option:
            command += ["--port", str(self.port)]
        super().__init__(command, log, environ)

    def wait_ready(self, path: str = "/readyz") -> None:
        """Wait until the server answers a `GET` request of `path` with status 200."""

        def ready() -> bool:
            try:
                return self.get(path).status == 200
            except OSError:
                return False

        self.wait_until(ready, "the server is not ready")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a new connection, and return the answer."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, request: Any, path: str = "/model") -> Answer:
        """Send a POST request with `request` as JSON. If `request` is bytes, they are the body."""
        return self.ask("POST", path, request if isinstance(request, bytes) else json.dumps(request).encode())

    def raw(self) -> socket.socket:
        """Open a connection for requests that an HTTP client cannot send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def metrics(self) -> Samples:
        """Return all samples of the server's /metrics."""
        text = self.get("/metrics").body.decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@contextmanager
def serving(
    store: Path | str | None,
    log: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    port: int | None = None,
    port_option: bool = True,
    ready_path: str = "/readyz",
) -> Iterator[ServerProcess]:
    """Run a server during the `with` block. The block begins when the server is ready.

    After the block, stop the server and check its log.
    """
    server = ServerProcess(store, log, *arguments, environ=environ, port=port, port_option=port_option)
    try:
        server.wait_ready(ready_path)
        yield server
    finally:
        code = server.stop()
    server.check_log()
    assert code == 0, server.log


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request on a connection that stays open, and return the answer."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


SHORT_BODIES = (
    b"Content-Length: 500\r\n\r\n{",
    b"Content-Length: 3000000\r\n\r\n{",
    b"Content-Length: 5\r\n\r\n",
)
"""Ends of requests whose body is shorter than their header Content-Length states."""


def status_of_half_closed(port: int, method: str, path: str, end: bytes) -> int:
    """Send a request that ends with `end`, close the connection for sending, and return the status of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + end)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            version, _, rest = answer.readline().partition(b" ")
            assert version.startswith(b"HTTP/1."), (version, rest)
            return int(rest[:3])


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
