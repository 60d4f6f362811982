"""The state of one client's connection to the estimator."""

from __future__ import annotations

import contextlib
import socket

from kepler_servers.estimator.framing import RequestBuffer
from kepler_servers.estimator.request_handler import PendingRequest

PIECE_BYTES = 65536
"""Maximum number of bytes that one call of `recv` receives."""
NONBLOCKING = socket.MSG_DONTWAIT
"""Flag with which `recv` and `send` return at once instead of waiting. `setblocking` would need one more system call
per connection."""
MAX_DISCARDED_BYTES = 64 * 2**20
"""Maximum number of bytes of a refused request that are received and discarded."""


class Connection:
    """A client's connection, with its incomplete request, its pending request or its unsent reply."""

    __slots__ = (
        "buffer",
        "completed_at",
        "deadline",
        "descriptor",
        "discarded",
        "peer",
        "pending",
        "refused",
        "unsent",
    )

    def __init__(self, peer: socket.socket, deadline: float) -> None:
        self.peer = peer
        self.descriptor = -1
        """The socket's file descriptor while the connection is in the epoll set, else -1."""
        self.deadline = deadline
        self.buffer: RequestBuffer | None = None
        """Buffer for a request that arrives in several pieces; None if no request is incomplete."""
        self.pending: PendingRequest | None = None
        self.unsent = b""
        self.refused = False
        """Whether the request was refused before all of it was received. The loop then discards the rest."""
        self.discarded = 0
        """Number of received bytes that were discarded."""
        self.completed_at = 0.0
        """Value of `time.perf_counter()` when the request was complete; 0 until then."""

    @property
    def held(self) -> int:
        """Number of bytes in the buffer of an incomplete request; 0 if there is no buffer."""
        return 0 if self.buffer is None else len(self.buffer)

    def end_reply(self) -> None:
        """Close only the sending direction. The client sees the end of the reply, and may still send its request."""
        self.unsent = b""
        with contextlib.suppress(OSError):  # the client has already closed the connection
            self.peer.shutdown(socket.SHUT_WR)

    def discard(self) -> bool:
        """Receive and discard bytes of a refused request. Return False if the connection should be closed.

        A client that is still sending when the server closes the connection gets an error, and does not read the
        reply. Therefore the connection stays open until the client has closed its side, or has sent more than
        `MAX_DISCARDED_BYTES`.
        """
        try:
            size = len(self.peer.recv(PIECE_BYTES, NONBLOCKING))
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.discarded += size
        return size > 0 and self.discarded <= MAX_DISCARDED_BYTES
