"""The event loop: one thread that serves many clients, with limits on what each can hold.

A connection carries one request and one reply. Its client has `REQUEST_TIMEOUT_SECONDS` to send the
whole request. A client that is slow, silent or gone loses its connection and affects no other. If there
are too many connections, or if they hold too many bytes, the loop closes the oldest.
"""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType

from kepler_servers.estimator.counters import Counters
from kepler_servers.estimator.framing import NotAnObjectError, RequestBuffer
from kepler_servers.estimator.listening import Listening
from kepler_servers.estimator.request_handler import PendingRequest, RequestHandler

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4 * 2**20
MAX_HELD_BYTES = 16 * 2**20
"""Limit of all incomplete requests together, and of all pending requests together."""
MAX_CONNECTIONS = 1000
REQUEST_TIMEOUT_SECONDS = 10.0
"""Time for a client to send its request, and again to receive a large reply."""
MODEL_TIMEOUT_SECONDS = 5.0
"""Time that a request waits for the first search of its model."""
STOP_TIMEOUT_SECONDS = 5.0
"""After a signal, time to finish the replies that are due."""
SILENT_CLIENT_SECONDS = 0.5
"""After a signal, time for connections that have sent nothing yet to start."""

_PIECE_BYTES = 65536
_CLOSING_BRACE = ord("}")
_MAX_ACCEPTS = 16
"""Connections accepted in a row, before others are served."""
_POLL_SECONDS = 0.5
_STOPPING_POLL_SECONDS = 0.05
_EXPIRY_INTERVAL_SECONDS = 0.05
_NONBLOCKING = socket.MSG_DONTWAIT
"""Passed to each `recv` and `send`: `setblocking` would be one more system call per connection."""


class _Connection:
    __slots__ = ("buffer", "completed_at", "deadline", "descriptor", "peer", "pending", "unsent")

    def __init__(self, peer: socket.socket, deadline: float) -> None:
        self.peer = peer
        self.descriptor = -1
        """The socket's file descriptor while it is in the epoll set, else -1."""
        self.deadline = deadline
        self.buffer: RequestBuffer | None = None
        """Holds a request that did not arrive in one piece, until it is complete."""
        self.pending: PendingRequest | None = None
        self.unsent = b""
        self.completed_at = 0.0
        """Time at which the request was complete."""

    @property
    def held(self) -> int:
        """Bytes of an incomplete request."""
        return 0 if self.buffer is None else len(self.buffer)


class Loop:
    """Answers requests on listening sockets until it is stopped."""

    def __init__(self, listening: Sequence[Listening], handler: RequestHandler, counters: Counters) -> None:
        self._listening = tuple(listening)
        self._listeners = {one.listener.fileno(): one.listener for one in listening}
        self._handler = handler
        self._counters = counters
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        """Watched connections by file descriptor, oldest first."""
        self._pending: deque[_Connection] = deque()
        """Connections that wait for the search for their model, oldest first. Some may already have been answered."""
        self._held = 0
        self._held_pending = 0
        self._stop_at: float | None = None
        self._expire_at = 0.0
        # Signal handlers and the model cache's thread write to this pair to wake the loop.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._epoll.register(self._wake_in, select.EPOLLIN)
        for descriptor, listener in self._listeners.items():
            listener.setblocking(False)
            self._epoll.register(descriptor, select.EPOLLIN)

    def wake(self) -> None:
        """Make the loop look at the pending requests again. May be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # the pair is full, so the loop will wake anyway
            self._wake_out.send(b"w")

    def stop(self) -> None:
        """Take no more connections, finish the replies that are due, and make `run` return."""
        self._stop_at = time.monotonic() + STOP_TIMEOUT_SECONDS
        self.wake()

    def run(self) -> None:
        """Serve until `stop` is called or the process gets SIGTERM or SIGINT."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        try:
            while not self._done():
                self._poll()
        finally:
            # A second signal while the process ends must not turn a clean exit into a kill.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for connection in list(self._connections.values()):
                self._close(connection)
            self._epoll.close()

    def _done(self) -> bool:
        """Return whether the loop is stopped and has nothing left to do."""
        if self._stop_at is None:
            return False
        now = time.monotonic()
        if self._listeners:
            for listening in self._listening:
                listening.remove()
            # Clients that connected before the signal still get their answers.
            for descriptor, listener in self._listeners.items():
                self._accept(listener)
                self._epoll.unregister(descriptor)
                listener.close()
            self._listeners = {}
        if now >= self._stop_at - STOP_TIMEOUT_SECONDS + SILENT_CLIENT_SECONDS:
            for connection in list(self._connections.values()):
                if connection.pending is None and not connection.unsent and not connection.held:
                    self._close(connection)
        return not self._connections or now >= self._stop_at

    def _poll(self) -> None:
        """Wait for events and handle them."""
        events = self._epoll.poll(_POLL_SECONDS if self._stop_at is None else _STOPPING_POLL_SECONDS)
        for descriptor, event in events:
            if (connection := self._connections.get(descriptor)) is not None:
                self._handle(connection, event)
        # Accept last: a new connection may get the descriptor of one that was closed above, and would then
        # be taken for it.
        for descriptor, _ in events:
            if descriptor in self._listeners:
                self._accept(self._listeners[descriptor])
            elif descriptor == self._wake_in.fileno():
                self._finish_pending()
        if (now := time.monotonic()) >= self._expire_at:
            self._expire_at = now + _EXPIRY_INTERVAL_SECONDS
            self._expire()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_MAX_ACCEPTS):
            try:
                peer, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The process has no file descriptors left: close an old connection.
                log.warning("cannot accept a connection: %s", error.strerror)
                if not self._drop_oldest("no room"):
                    time.sleep(0.01)
                return
            self._counters.connections += 1
            self._read(_Connection(peer, time.monotonic() + REQUEST_TIMEOUT_SECONDS))

    def _handle(self, connection: _Connection, event: int) -> None:
        if connection.unsent:
            self._send(connection, connection.unsent)
        elif connection.pending is None and event & select.EPOLLIN:
            self._read(connection)
        else:
            self._drop(connection, "closed early")

    def _read(self, connection: _Connection) -> None:
        """Read what has arrived, and answer if the request is complete.

        Most requests are complete when their connection is accepted. Such a connection is answered without
        ever being added to the epoll set.
        """
        try:
            piece = connection.peer.recv(_PIECE_BYTES, _NONBLOCKING)
        except BlockingIOError:
            self._await_input(connection)
            return
        except OSError:
            self._drop(connection, "closed early")
            return
        if not piece:
            # The client sends nothing more. If it closed only its sending direction, it can still read.
            if connection.held:
                self._refuse(connection, "the request ends early")
            else:
                self._drop(connection, "closed early")
            return
        if connection.buffer is None:
            if piece[-1] == _CLOSING_BRACE and self._answer_piece(connection, piece):
                return
            connection.buffer = RequestBuffer()
        self._collect(connection, connection.buffer, piece)

    def _collect(self, connection: _Connection, buffer: RequestBuffer, piece: bytes) -> None:
        """Add a piece to an incomplete request, and answer if it is complete now."""
        self._held += len(piece)
        try:
            length = buffer.feed(piece)
        except NotAnObjectError as error:
            self._refuse(connection, f"not a JSON object: {error}")
            return
        if length is not None:
            self._answer_buffer(connection, buffer, length)
            return
        if connection.held > MAX_REQUEST_BYTES:
            self._refuse(connection, f"a request of more than {MAX_REQUEST_BYTES} bytes")
            return
        self._await_input(connection)
        while self._held > MAX_HELD_BYTES:
            # The oldest incomplete request has had the most time to complete.
            self._drop(next(c for c in self._connections.values() if c.held), "too much held")

    def _answer_piece(self, connection: _Connection, piece: bytes) -> bool:
        """Answer a request that arrived in one piece. Return False if the piece is not a whole request.

        Nearly all requests arrive so. The decoder tells whether they are complete, which is faster than
        looking for their end.
        """
        started = time.perf_counter()
        try:
            reply = self._handler.answer_if_complete(piece)
        except Exception:
            reply = self._defect()
        if reply is None:
            return False
        connection.completed_at = started
        self._reply_or_wait(connection, reply)
        return True

    def _answer_buffer(self, connection: _Connection, buffer: RequestBuffer, length: int) -> None:
        connection.completed_at = time.perf_counter()
        try:
            reply = self._handler.answer(memoryview(buffer.data)[:length])
        except Exception:
            reply = self._defect()
        self._held -= len(buffer)
        connection.buffer = None
        self._reply_or_wait(connection, reply)

    def _defect(self) -> bytes:
        log.exception("a request failed; this is a defect of the estimator")
        return self._handler.refuse("a defect of the estimator; its log says more", None, 0, "")

    def _reply_or_wait(self, connection: _Connection, reply: bytes | PendingRequest) -> None:
        if isinstance(reply, PendingRequest):
            connection.pending = reply
            connection.deadline = time.monotonic() + MODEL_TIMEOUT_SECONDS
            self._pending.append(connection)
            self._held_pending += reply.size
            self._watch(connection, 0)  # reports only that the client is gone
            while self._held_pending > MAX_HELD_BYTES:
                self._finish_oldest_pending()
        else:
            self._reply(connection, reply)

    def _finish_pending(self) -> None:
        """Answer the pending requests whose search is over."""
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        still_pending: deque[_Connection] = deque()
        for connection in self._pending:
            if (pending := connection.pending) is None:
                continue
            if pending.entry.searching:
                still_pending.append(connection)
            else:
                self._finish(connection, pending)
        self._pending = still_pending

    def _finish_oldest_pending(self) -> bool:
        """Answer the oldest pending request without its model. Return False if there is none."""
        while self._pending:
            connection = self._pending.popleft()
            if (pending := connection.pending) is not None:
                self._finish(connection, pending)
                return True
        return False

    def _finish(self, connection: _Connection, pending: PendingRequest) -> None:
        self._held_pending -= pending.size
        connection.pending = None
        try:
            reply = self._handler.finish(pending.request, pending.entry)
        except Exception:
            reply = self._defect()
        self._reply(connection, reply)

    def _refuse(self, connection: _Connection, reason: str) -> None:
        self._reply(connection, self._handler.refuse(reason, None, 0, ""))

    def _reply(self, connection: _Connection, content: bytes) -> None:
        if connection.completed_at:
            self._counters.add_latency(time.perf_counter() - connection.completed_at)
        self._send(connection, content)

    def _send(self, connection: _Connection, content: bytes) -> None:
        # One call for the whole reply: Kepler reads only once.
        try:
            sent = connection.peer.send(content, _NONBLOCKING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection, "closed early")
            return
        if sent == len(content):
            self._close(connection)
            return
        if not connection.unsent:
            connection.deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS
            self._watch(connection, select.EPOLLOUT)
        connection.unsent = content[sent:]

    def _await_input(self, connection: _Connection) -> None:
        if connection.descriptor < 0:
            self._watch(connection, select.EPOLLIN)

    def _watch(self, connection: _Connection, events: int) -> None:
        """Add a connection to the epoll set, or change its events. With 0, only its end is reported."""
        if connection.descriptor >= 0:
            self._epoll.modify(connection.descriptor, events)
            return
        while len(self._connections) >= MAX_CONNECTIONS and self._drop_oldest("too many connections"):
            pass
        connection.descriptor = connection.peer.fileno()
        self._connections[connection.descriptor] = connection
        self._epoll.register(connection.descriptor, events)

    def _expire(self) -> None:
        for connection in self._overdue():
            if (pending := connection.pending) is not None:
                self._finish(connection, pending)
            else:
                self._drop(connection, "too slow")

    def _overdue(self) -> list[_Connection]:
        """Return the connections past their deadline.

        Connections are in the order in which they came, and only those with a pending request or an unsent
        reply have a later deadline than their successors. So the search ends at the first other one that is
        not overdue.
        """
        overdue = []
        now = time.monotonic()
        for connection in self._connections.values():
            if connection.deadline <= now:
                overdue.append(connection)
            elif connection.pending is None and not connection.unsent:
                break
        return overdue

    def _drop_oldest(self, reason: str) -> bool:
        """Close the oldest connection, or answer the oldest pending request. Return False if there is none."""
        for connection in self._connections.values():
            if connection.pending is None:
                self._drop(connection, reason)
                return True
        return self._finish_oldest_pending()

    def _drop(self, connection: _Connection, reason: str) -> None:
        self._counters.dropped[reason] += 1
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if connection.descriptor >= 0:
            del self._connections[connection.descriptor]
            connection.descriptor = -1
        if connection.pending is not None:
            self._held_pending -= connection.pending.size
            connection.pending = None
        self._held -= connection.held
        connection.buffer = None
        connection.peer.close()  # which also removes it from the epoll set
