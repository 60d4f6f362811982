"""TCP servers that answer slowly, endlessly or not at all."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator

BYTE_SECONDS = 0.5
"""Seconds between two pieces of a slow answer."""

GENEROUS = 5.0
"""Seconds within which each wait must end, even on a busy machine. Without a time limit, waits would take minutes."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nContent-Type: application/json\r\n\r\n"


class SlowServer:
    """A server that sends the pieces of an answer without reading the request: one piece in each `BYTE_SECONDS`.

    After the last piece, the server keeps the connection open. Then it sends nothing, or repeats one piece without end.
    """

    def __init__(self, *pieces: bytes, repeat: bytes = b"") -> None:
        """Set the pieces of the server's answer. After the last piece, the server sends `repeat` again and again."""
        self._pieces = pieces
        self._repeat = repeat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.accepted = 0
        """Number of connections that have been accepted so far."""
        self.connected = threading.Event()
        """An event that is set when a client has connected."""
        self._open = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Number of connections that the client has not closed yet."""
        return self._open

    def close(self) -> None:
        self._ended.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self.accepted += 1
                    self._open += 1
                self.connected.set()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(BYTE_SECONDS / 10)
        with contextlib.suppress(OSError), connection:
            for piece in itertools.chain(self._pieces, itertools.repeat(self._repeat)):
                connection.sendall(piece)
                if self._client_has_closed(connection):
                    break
        with self._lock:
            self._open -= 1

    def _client_has_closed(self, connection: socket.socket) -> bool:
        """Wait for `BYTE_SECONDS`, and return whether the client closes its connection during this time."""
        for _ in range(10):
            try:
                if self._ended.is_set() or not connection.recv(2**16):
                    return True
            except TimeoutError:
                continue
            self._ended.wait(BYTE_SECONDS / 10)
        return False


@contextlib.contextmanager
def slow_server(*pieces: bytes, repeat: bytes = b"") -> Iterator[SlowServer]:
    """Run a `SlowServer` and yield it."""
    server = SlowServer(*pieces, repeat=repeat)
    try:
        yield server
    finally:
        server.close()


def trickle(text: bytes = HEAD) -> tuple[bytes, ...]:
    """Split a text into pieces of one byte each."""
    return tuple(bytes([byte]) for byte in text)


SLOW_SERVERS = {
    "a-silent-server": ((), b""),
    "a-byte-at-a-time-of-the-head": (trickle(), b""),
    "endless-headers": ((b"HTTP/1.1 200 OK\r\n",), b"X: y\r\n"),
    "endless-100-continue": ((), b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a-head-without-a-body": ((HEAD,), b""),
    "a-byte-at-a-time-of-the-body": ((HEAD,), b" "),
    "endless-chunks": ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",), b"1\r\n \r\n"),
    "a-byte-at-a-time-of-an-error": ((HEAD.replace(b"200 OK", b"503 Busy"),), b" "),
    "a-byte-at-a-time-of-a-redirect": ((HEAD.replace(b"200 OK", b"302 Found\r\nLocation: /x"),), b" "),
}
"""For each server: the pieces of its answer, and the piece that it then repeats without end.

The answers of these servers never end.
"""
