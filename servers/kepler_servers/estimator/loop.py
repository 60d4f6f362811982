"""The event loop: one thread that serves many clients, with limits on their connections and requests.

A connection carries one request and one reply. The client must send the whole request within
`REQUEST_TIMEOUT_SECONDS`. A client that is slow, silent or gone loses its connection and does not affect
other clients. If there are too many connections, or if their requests hold too many bytes, the loop
closes the oldest connections.
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

from kepler_servers.estimator.connection import NONBLOCKING, PIECE_BYTES, Connection
from kepler_servers.estimator.counters import Counters
from kepler_servers.estimator.descriptor_reserve import DescriptorReserve
from kepler_servers.estimator.framing import NotAnObjectError, RequestBuffer
from kepler_servers.estimator.listening import Listening
from kepler_servers.estimator.request_handler import PendingRequest, RequestHandler

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4 * 2**20
MAX_HELD_BYTES = 16 * 2**20
"""Maximum total size of all incomplete requests. Requests that wait for a model have a separate, equal limit."""
MAX_CONNECTIONS = 1000
REQUEST_TIMEOUT_SECONDS = 10.0
"""Time limit for a client to send its request. The time limit for receiving the reply has the same length."""
MODEL_TIMEOUT_SECONDS = 5.0
"""Time limit for a request that waits for the first search for its model."""
STOP_TIMEOUT_SECONDS = 1.5
"""Time limit, after SIGTERM or SIGINT, for answering the clients that are connected."""
SILENT_CLIENT_SECONDS = 0.5
"""Time between SIGTERM or SIGINT and the closing of connections whose clients have sent nothing. At the same time, the
loop answers the requests that still wait for a model."""

_CLOSING_BRACE = ord("}")
_MAX_ACCEPTS = 16
"""Maximum number of new connections that the loop accepts before it serves the existing connections again."""
_POLL_SECONDS = 0.5
_STOPPING_POLL_SECONDS = 0.05
_EXPIRY_INTERVAL_SECONDS = 0.05


class Loop:
    """The event loop, which answers the requests on the listening sockets until it is stopped."""

    def __init__(self, listening: Sequence[Listening], handler: RequestHandler, counters: Counters) -> None:
        self._listening = tuple(listening)
        self._listeners = {one.listener.fileno(): one.listener for one in listening}
        self._handler = handler
        self._counters = counters
        self._reserve = DescriptorReserve()
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        """The connections in the epoll set by file descriptor, oldest first."""
        self._pending: deque[Connection] = deque()
        """Connections whose request waits for a model, oldest first. Some of them may already be answered or closed."""
        self._held = 0
        self._held_pending = 0
        self._stop_at: float | None = None
        self._expire_at = 0.0
        # Signal handlers and the model cache's thread write a byte to this socket pair to wake the loop.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._epoll.register(self._wake_in, select.EPOLLIN)
        for descriptor, listener in self._listeners.items():
            listener.setblocking(False)
            self._epoll.register(descriptor, select.EPOLLIN)

    def wake(self) -> None:
        """Wake the loop, so that it answers pending requests whose model was found. Any thread may call this."""
        with contextlib.suppress(BlockingIOError):  # the buffer is full of earlier calls, which wake the loop
            self._wake_out.send(b"w")

    def stop(self) -> None:
        """Accept no more connections, answer the clients that are connected, and make `run` return."""
        self._stop_at = time.monotonic() + STOP_TIMEOUT_SECONDS
        self.wake()

    def stop_on_signals(self) -> None:
        """Call `stop` when the process gets SIGTERM or SIGINT. Only the main thread may call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def run(self) -> None:
        """Serve clients until `stop` is called."""
        try:
            while not self._done():
                self._poll()
        finally:
            # Ignore further signals: a second SIGTERM or SIGINT must not kill the process while it ends cleanly.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for connection in list(self._connections.values()):
                self._close(connection)
            self._epoll.close()
            self._reserve.release()

    def _done(self) -> bool:
        """Return whether the loop may end. After `stop`, also close listeners and silent connections."""
        if self._stop_at is None:
            return False
        now = time.monotonic()
        if self._listeners:
            for listening in self._listening:
                listening.remove()
            # Clients that connected before the stop still get replies.
            for descriptor, listener in self._listeners.items():
                self._accept(listener)
                self._epoll.unregister(descriptor)
                listener.close()
            self._listeners = {}
        if now >= self._stop_at - STOP_TIMEOUT_SECONDS + SILENT_CLIENT_SECONDS:
            for connection in list(self._connections.values()):
                if (pending := connection.pending) is not None:
                    self._finish(connection, pending)
                elif not connection.unsent and not connection.held:
                    self._close(connection)
        return not self._connections or now >= self._stop_at

    def _poll(self) -> None:
        """Wait for events on the sockets, and handle them."""
        events = self._epoll.poll(_POLL_SECONDS if self._stop_at is None else _STOPPING_POLL_SECONDS)
        for descriptor, event in events:
            if (connection := self._connections.get(descriptor)) is not None:
                self._handle(connection, event)
        # New connections are accepted last. Otherwise, a new connection could get the descriptor of a connection that
        # was closed above, and then also the events of the closed connection.
        for descriptor, _ in events:
            if descriptor in self._listeners:
                self._accept(self._listeners[descriptor])
            elif descriptor == self._wake_in.fileno():
                self._finish_pending()
        if (now := time.monotonic()) >= self._expire_at:
            self._expire_at = now + _EXPIRY_INTERVAL_SECONDS
            self._reserve.refill()
            self._expire()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_MAX_ACCEPTS):
            try:
                peer = self._reserve.accept(listener)
            except BlockingIOError:
                return
            except OSError as error:
                # Usually, the process has no free file descriptor, and clients use all reserved descriptors. Closing an
                # old connection frees a descriptor.
                log.warning("cannot accept a connection: %s", error.strerror)
                if not self._drop_oldest("no room"):
                    time.sleep(0.01)
                return
            self._counters.connections += 1
            self._read(Connection(peer, time.monotonic() + REQUEST_TIMEOUT_SECONDS))

    def _handle(self, connection: Connection, event: int) -> None:
        if connection.unsent:
            self._send(connection, connection.unsent)
        elif connection.refused:
            self._discard(connection)
        elif connection.pending is None and event & select.EPOLLIN:
            self._read(connection)
        else:
            self._drop(connection, "closed early")

    def _read(self, connection: Connection) -> None:
        """Read the bytes that have arrived, and answer the request if it is complete.

        Most requests are complete when their connection is accepted. The loop answers such a request
        without adding the connection to the epoll set.
        """
        try:
            piece = connection.peer.recv(PIECE_BYTES, NONBLOCKING)
        except BlockingIOError:
            self._await_input(connection)
            return
        except OSError:
            self._drop(connection, "closed early")
            return
        if not piece:
            # The client has closed at least its sending direction. It may still be able to read an error message.
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

    def _collect(self, connection: Connection, buffer: RequestBuffer, piece: bytes) -> None:
        """Add received bytes to an incomplete request, and answer the request if it is complete now."""
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
            # Drop the oldest incomplete request: its client has had the most time to complete it.
            self._drop(next(c for c in self._connections.values() if c.held), "too much held")

    def _answer_piece(self, connection: Connection, piece: bytes) -> bool:
        """Answer a request that arrived in one piece. Return False if the piece is not a whole request.

        Nearly all requests arrive in one piece. Therefore the piece is decoded at once, which is faster than
        scanning it for the end of the request. The decoding of an incomplete request fails.
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

    def _answer_buffer(self, connection: Connection, buffer: RequestBuffer, length: int) -> None:
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

    def _reply_or_wait(self, connection: Connection, reply: bytes | PendingRequest) -> None:
        if isinstance(reply, PendingRequest):
            connection.pending = reply
            connection.deadline = time.monotonic() + MODEL_TIMEOUT_SECONDS
            self._pending.append(connection)
            self._held_pending += reply.size
            self._watch(connection, 0)  # from now on, epoll reports only that the client has disconnected
            while self._held_pending > MAX_HELD_BYTES:
                self._finish_oldest_pending()
        else:
            self._reply(connection, reply)

    def _finish_pending(self) -> None:
        """Answer each pending request for which the search for a model is over."""
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        still_pending: deque[Connection] = deque()
        for connection in self._pending:
            if (pending := connection.pending) is None:
                continue
            if pending.entry.searching:
                still_pending.append(connection)
            else:
                self._finish(connection, pending)
        self._pending = still_pending

    def _finish_oldest_pending(self) -> bool:
        """Answer the oldest pending request without waiting for its model. Return False if no request is pending."""
        while self._pending:
            connection = self._pending.popleft()
            if (pending := connection.pending) is not None:
                self._finish(connection, pending)
                return True
        return False

    def _finish(self, connection: Connection, pending: PendingRequest) -> None:
        self._held_pending -= pending.size
        connection.pending = None
        try:
            reply = self._handler.finish(pending.request, pending.entry)
        except Exception:
            reply = self._defect()
        self._reply(connection, reply)

    def _refuse(self, connection: Connection, reason: str) -> None:
        connection.refused = True
        self._held -= connection.held
        connection.buffer = None
        self._reply(connection, self._handler.refuse(reason, None, 0, ""))

    def _reply(self, connection: Connection, content: bytes) -> None:
        if connection.completed_at:
            self._counters.add_latency(time.perf_counter() - connection.completed_at)
        self._send(connection, content)

    def _send(self, connection: Connection, content: bytes) -> None:
        # Kepler reads a reply with a single call of `read`, so the loop uses a single call of `send`.
        try:
            sent = connection.peer.send(content, NONBLOCKING)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection, "closed early")
            return
        if sent == len(content):
            if connection.refused:
                connection.end_reply()
                self._discard(connection)
            else:
                self._close(connection)
            return
        if not connection.unsent:
            connection.deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS
            self._watch(connection, select.EPOLLOUT)
        connection.unsent = content[sent:]

    def _discard(self, connection: Connection) -> None:
        if connection.discard():
            self._watch(connection, select.EPOLLIN)
        else:
            self._close(connection)

    def _await_input(self, connection: Connection) -> None:
        if connection.descriptor < 0:
            self._watch(connection, select.EPOLLIN)

    def _watch(self, connection: Connection, events: int) -> None:
        """Add a connection to the epoll set, or change the events that epoll reports for it.

        If `events` is 0, epoll reports only that the client has disconnected.
        """
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
            elif connection.refused and not connection.unsent:
                self._close(connection)
            else:
                self._drop(connection, "too slow")

    def _overdue(self) -> list[Connection]:
        """Return the connections whose time limit has passed.

        `_connections` has the oldest connection first, and all clients have the same time limit for sending a request.
        So the search can end at the first client whose time limit has not passed.
        """
        now = time.monotonic()
        overdue = [c for c in self._pending if c.pending is not None and c.deadline <= now]
        for connection in self._connections.values():
            if connection.pending is None and connection.deadline <= now:
                overdue.append(connection)
            elif connection.pending is None and not connection.unsent:
                break
        return overdue

    def _drop_oldest(self, reason: str) -> bool:
        """Close the oldest connection without a pending request, or else answer the oldest pending request.

        Return False if there is no connection.
        """
        for connection in self._connections.values():
            if connection.pending is None:
                self._drop(connection, reason)
                return True
        return self._finish_oldest_pending()

    def _drop(self, connection: Connection, reason: str) -> None:
        self._counters.dropped[reason] += 1
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        if connection.descriptor >= 0:
            del self._connections[connection.descriptor]
            connection.descriptor = -1
        if connection.pending is not None:
            self._held_pending -= connection.pending.size
            connection.pending = None
        self._held -= connection.held
        connection.buffer = None
        self._reserve.close(connection.peer)  # closing also removes the socket from the epoll set
