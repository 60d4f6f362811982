"""A small HTTP server for health checks and metrics, inside a process whose main task is not HTTP.

The server limits the number of connections and the duration of each connection, and answers one request per connection.
So the clients of this server cannot use up the file descriptors and threads that the process needs for its main task.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec

from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_servers.http.app import App  # importing it at run time would cost the estimator 7 MB of memory

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Maximum number of simultaneous connections.

If one more client connects, the server shuts down the connection that has waited longest for its request. So a client
that sends its request at once, e.g. a health probe, gets an answer even if other clients hold idle connections open.
"""
CONNECTION_SECONDS = 5.0
"""Time limit for a whole connection, from its acceptance to the last byte of the answer."""

_POLL_SECONDS = 0.25

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

HealthCheck = Callable[[], tuple[int, Mapping[str, Any]]]
"""Function that checks the health of the process. It returns the HTTP status and the JSON object of the answer."""

_STATUS_LINES = {200: "200 OK", 503: "503 Service Unavailable"}


def with_health(metrics: WsgiApplication, checks: Mapping[str, HealthCheck]) -> WsgiApplication:
    """Add health checks to the application `metrics`.

    The returned application answers requests for a path in `checks` with the result of the check. It passes all other
    requests on to `metrics`.
    """

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        check = checks.get(environ.get("PATH_INFO", ""))
        if check is None:
            return metrics(environ, start_response)
        status, body = check()
        start_response(_STATUS_LINES[status], [("Content-Type", "application/json")])
        return [msgspec.json.encode(body)]

    return application


def start_side_port(app: App | WsgiApplication, host: str, port: int) -> int:
    """Serve the application in daemon threads and return the port. If `port` is 0, take any free port.

    Raises `UsageError` if the address cannot be used.
    """
    try:
        server = _BoundedServer(host, port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from error
    server.set_app(app if callable(app) else app.wsgi)
    threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="side port", daemon=True).start()
    return int(server.server_port)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Do not log requests, because health probes come every few seconds."""

    def parse_request(self) -> bool:
        """Read the request's headers, and tell the server that the connection no longer waits for its request."""
        complete = super().parse_request()
        self.server.request_read(self.connection)  # type: ignore[attr-defined]
        return complete


class _BoundedServer(WSGIServer):
    """WSGI server with one thread per connection, and with at most `MAX_CONNECTIONS` connections at a time."""

    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        self._ends: dict[socket.socket, float] = {}
        """The time at which the time limit of each open connection ends. The oldest connection is first."""
        self._without_request: dict[socket.socket, None] = {}
        """Open connections whose request is not complete yet. The oldest connection is first."""
        self._changed = threading.Condition()
        info = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = info[0]
        super().__init__((str(info[4][0]), port), _Handler)

    def server_bind(self) -> None:
        # `HTTPServer.server_bind` is not called, because it asks the DNS for this machine's name, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # e.g. the process has no free file descriptor
            time.sleep(_POLL_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._ends[request] = time.monotonic() + CONNECTION_SECONDS
            self._without_request[request] = None
        try:
            threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()
        except RuntimeError:  # the process cannot start another thread, e.g. because of a limit
            self._close(request)
            raise

    def service_actions(self) -> None:
        """Shut down connections that have reached their time limit.

        If there are `MAX_CONNECTIONS` connections, wait until one of them is closed. If a further client waits,
        shut down the connection that has waited longest for its request.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                for connection, end in self._ends.items():
                    if end <= now:
                        _shut_down(connection)
                if len(self._ends) < MAX_CONNECTIONS:
                    return
                if self._without_request and self._client_waits():
                    _shut_down(next(iter(self._without_request)))
                self._changed.wait(_POLL_SECONDS)

    def request_read(self, connection: socket.socket) -> None:
        """Record that the request of a connection is complete.

        From then on, the connection is not shut down to make room for a new client.
        """
        with self._changed:
            self._without_request.pop(connection, None)

    def _client_waits(self) -> bool:
        """Return whether a client waits in the kernel's listen queue."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed request only at debug level, because a slow or vanished client is not this process's error."""
        log.debug("a request for health or metrics failed", exc_info=True)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self._close(request)

    def _close(self, request: socket.socket) -> None:
        with self._changed:
            self._ends.pop(request, None)
            self._without_request.pop(request, None)
            self.shutdown_request(request)
            self._changed.notify()


def _shut_down(connection: socket.socket) -> None:
    """Shut down a connection that a thread still reads or writes. The thread notices this and closes the socket."""
    with contextlib.suppress(OSError):  # the client has already closed the connection
        connection.shutdown(socket.SHUT_RDWR)
