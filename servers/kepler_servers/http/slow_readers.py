"""Protect a server against clients that do not read the answers to their requests.

Granian 2.8 waits for such clients (slow readers) without a time limit. Each slow reader occupies a connection, and its
answer stays in memory. So each worker process has a thread that ends a connection if no byte of the answer was taken
for `STALL_TIMEOUT_SECONDS`. If there are more than `MAX_SLOW_READERS` slow readers, the thread at once ends the
connections that have stalled longest. So there are always connections and file descriptors left for other clients, e.g.
for health probes.

Granian has no option for such a time limit, and Python code cannot reach the connections that Granian holds. So the
thread finds the connections among the file descriptors of the process. The socket option TCP_USER_TIMEOUT cannot be
used: with Linux 6.18, accepted connections did not always inherit the option from the listening socket.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import logging
import os
import resource
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterable, Iterator

from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8192
"""Maximum number of simultaneous connections of one worker process. Further connections wait."""
STALL_TIMEOUT_SECONDS = 10.0
"""A connection is ended if its client has received no byte of the answer for this time."""
SLOW_READER_SECONDS = 1.0
"""Time without progress after which the client of a connection counts as a slow reader."""
MAX_SLOW_READERS = 256
"""Maximum number of slow readers of one worker process. It is lower if the process may open only few files."""

_DESCRIPTORS_PER_CONNECTION = 2
"""Maximum number of file descriptors of a connection: the socket, and the file if the answer is sent from the disk."""
_OTHER_DESCRIPTORS = 128
"""Number of file descriptors that a worker process needs for other purposes than connections, e.g. for the store and a
database."""
_CHECK_SECONDS = 1.0
_DESCRIPTORS = "/proc/self/fd"

_LAST_DATA_SENT = struct.Struct("=44xI")
"""Field `tcpi_last_data_sent` of `struct tcp_info` (linux/tcp.h): milliseconds since data was last sent."""


def max_connections() -> int:
    """Return the number of connections that this process can have without using up its file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (soft - _OTHER_DESCRIPTORS) // _DESCRIPTORS_PER_CONNECTION))


def start_watch() -> None:
    """Start the thread that limits the number of slow readers, and the time that this process waits for each one."""
    threading.Thread(target=_watch, name="slow readers", daemon=True).start()


def _watch() -> None:
    limit = min(MAX_SLOW_READERS, max_connections() // 2)
    warnings = RateLimitedLog(log)
    while not (ports := _listening_ports()):
        time.sleep(_CHECK_SECONDS / 10)  # Granian opens the listening socket after it has got the application
    while True:
        time.sleep(_CHECK_SECONDS)
        try:
            _end_slow_readers(ports, limit, warnings)
        except OSError as error:  # e.g. the process has no free file descriptor at this moment
            warnings.log(f"the connections of slow clients cannot be checked: {error.strerror}")


def _listening_ports() -> set[int]:
    return {
        sock.getsockname()[1] for _, sock in _tcp_sockets() if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    }


def _end_slow_readers(ports: set[int], limit: int, warnings: RateLimitedLog) -> None:
    """End the connections to `ports` whose clients have taken no data for `STALL_TIMEOUT_SECONDS`.

    If there are more than `limit` slow readers, also end the connections that have made no progress for the longest
    time, until `limit` slow readers are left.
    """
    stalled = []
    for descriptor, sock in _tcp_sockets():
        if sock.getsockname()[1] in ports and (stall := _stall_seconds(sock)) >= SLOW_READER_SECONDS:
            stalled.append((stall, descriptor))
    stalled.sort(reverse=True)
    excess = max(0, len(stalled) - limit)
    if excess:
        warnings.log(
            f"more than {limit} clients do not read their answers; the connections that wait longest are ended"
        )
    ended = [descriptor for n, (stall, descriptor) in enumerate(stalled) if n < excess or stall > STALL_TIMEOUT_SECONDS]
    for _, sock in _tcp_sockets(ended):
        # By now, the descriptor may belong to another connection.
        if sock.getsockname()[1] in ports and _stall_seconds(sock) >= SLOW_READER_SECONDS:
            # With SO_LINGER and 0 seconds, the kernel drops the rest of the answer when Granian closes the socket.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown(socket.SHUT_RDWR)


def _tcp_sockets(descriptors: Iterable[int] | None = None) -> Iterator[tuple[int, socket.socket]]:
    """Yield the TCP sockets among `descriptors`; if it is None, among all file descriptors of this process.

    Each yielded socket uses a duplicate of the descriptor, because Granian may close the original descriptor at any
    time, and another file may then get its number. The duplicate is closed after its use.
    """
    for descriptor in map(int, os.listdir(_DESCRIPTORS)) if descriptors is None else descriptors:
        with contextlib.suppress(OSError):  # the descriptor or connection was closed, or is no socket
            if os.readlink(f"{_DESCRIPTORS}/{descriptor}").startswith("socket:"):
                with _duplicate(descriptor) as sock:
                    if sock.family in (socket.AF_INET, socket.AF_INET6):
                        yield descriptor, sock


def _duplicate(descriptor: int) -> socket.socket:
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _stall_seconds(connection: socket.socket) -> float:
    """Return the time since data was last sent to the client, in seconds; 0 if no data waits to be sent."""
    try:
        waiting = array.array("i", [0])
        fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
        if not waiting[0]:
            return 0.0
        information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_SENT.size)
    except OSError:  # raised by a listening socket
        return 0.0
    milliseconds: int = _LAST_DATA_SENT.unpack(information)[0]
    return milliseconds / 1000
