"""File descriptors that are reserved for the connections of the estimator's clients."""

from __future__ import annotations

import errno
import os
import resource
import socket

RESERVED_DESCRIPTORS = 64
_MAX_SHARE = 0.25
"""Maximum fraction of the file descriptors of the process that may be reserved.

If the process may open only few files, the reserve is therefore smaller than `RESERVED_DESCRIPTORS`.
"""


class DescriptorReserve:
    """Accepts clients even if other threads have used up all free file descriptors of the process.

    The metrics port, downloads and the reading of the store open files and connections in other threads. Therefore the
    reserve keeps some descriptors open (on `/dev/null`). It closes one of them if no other descriptor is free for a new
    client. Only the thread of the event loop may use a reserve.
    """

    def __init__(self, size: int | None = None) -> None:
        """Reserve `size` descriptors. None means `RESERVED_DESCRIPTORS`, or fewer if the process has a low limit."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if size is None:
            few = limit != resource.RLIM_INFINITY and limit * _MAX_SHARE < RESERVED_DESCRIPTORS
            size = int(limit * _MAX_SHARE) if few else RESERVED_DESCRIPTORS
        self._size = size
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._reserved: list[int] = []
        self.refill()

    def accept(self, listener: socket.socket) -> socket.socket:
        """Accept a connection. Raise `OSError` if no client waits, or if no descriptor is left for the connection.

        If no descriptor is free, the reserve closes a reserved descriptor, so that the connection can use its number.
        If another thread uses the number first, the reserve closes the next reserved descriptor.
        """
        while True:
            try:
                return listener.accept()[0]
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._reserved:
                    raise
            os.close(self._reserved.pop())

    def close(self, peer: socket.socket) -> None:
        """Close a connection. If the reserve is not full, the connection's descriptor becomes a reserved one."""
        if len(self._reserved) >= self._size:
            peer.close()
            return
        descriptor = peer.detach()
        # `dup2` replaces the socket by `/dev/null` in one step. So no other thread can take the descriptor in between.
        os.dup2(self._null, descriptor, inheritable=False)
        self._reserved.append(descriptor)

    def refill(self) -> None:
        """Reserve free descriptors until the reserve is full, or until no descriptor is free."""
        while len(self._reserved) < self._size:
            try:
                self._reserved.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def release(self) -> None:
        """Close all descriptors of the reserve."""
        for descriptor in (self._null, *self._reserved):
            os.close(descriptor)
        self._reserved.clear()
