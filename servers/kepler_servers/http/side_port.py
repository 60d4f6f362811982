"""A small HTTP server for health and metrics, inside a process whose main work is something else.

The server limits the number of connections and the time of each, and answers one request per connection. So its
clients cannot take the descriptors and threads that the main work needs.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_servers.http.app import App  # at run time it would cost the estimator 7 MB

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""Connections at a time. Further ones wait in the listen queue of the kernel."""
CONNECTION_SECONDS = 5.0
"""Time limit for a whole connection, from accepting it to the last byte of the answer."""

_POLL_SECONDS = 0.25

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def start_side_port(app: App | WsgiApplication, host: str, port: int) -> int:
    """Serve the application in daemon threads and return the port; port 0 takes a free one.

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
        """Log no requests: probes come every few seconds."""


class _BoundedServer(WSGIServer):
    """A thread for each connection, at most `MAX_CONNECTIONS` of them."""

    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        self._ends: dict[socket.socket, float] = {}
        self._changed = threading.Condition()
        info = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = info[0]
        super().__init__((str(info[4][0]), port), _Handler)

    def server_bind(self) -> None:
        # not `HTTPServer.server_bind`: it asks the DNS for this machine's name, which may take long
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # e.g. no descriptor is free
            time.sleep(_POLL_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._ends[request] = time.monotonic() + CONNECTION_SECONDS
        try:
            threading.Thread(target=self._serve, args=(request, client_address), daemon=True).start()
        except RuntimeError:  # the process may have no further threads
            self._close(request)
            raise

    def service_actions(self) -> None:
        """End overdue connections, and wait while the number of connections is at its limit."""
        with self._changed:
            while True:
                now = time.monotonic()
                for connection, end in self._ends.items():
                    if end <= now:
                        _shut_down(connection)
                if len(self._ends) < MAX_CONNECTIONS:
                    return
                self._changed.wait(_POLL_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed request at debug level: a slow or vanished client is no problem of this process."""
        log.debug("a request to the side port failed", exc_info=True)

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
            self.shutdown_request(request)
            self._changed.notify()


def _shut_down(connection: socket.socket) -> None:
    """End a connection that a thread still reads or writes; that thread closes it."""
    with contextlib.suppress(OSError):  # the client has ended it already
        connection.shutdown(socket.SHUT_RDWR)
