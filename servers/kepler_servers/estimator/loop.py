"""The socket: many clients, one thread, and limits on all that a client can make it hold.

A connection is one request and one reply. It has a few seconds to send the request, whole and within
the size limit. A client that is slow, silent or gone costs its connection and nothing else. Too many
connections, or too much held by them: the oldest, or the largest, is closed.
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

from kepler_servers.estimator.answers import Answers, Waiting
from kepler_servers.estimator.counters import Figures
from kepler_servers.estimator.framing import NotAnObjectError, RequestBuffer
from kepler_servers.estimator.listening import Listening

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4 * 2**20
MAX_HELD_BYTES = 16 * 2**20
"""Of all requests that are not complete; and as much of those that wait for a model."""
MAX_CONNECTIONS = 1000
SECONDS = 10.0
"""For a request to be complete, and for a large reply to be taken."""
MODEL_SECONDS = 5.0
"""A request waits so long for its model to be found."""
STOP_SECONDS = 5.0
QUIET_SECONDS = 0.5
"""At the stop, a connection that has sent nothing yet may begin within this time."""

_PIECE = 65536
_CLOSE = ord("}")
_ACCEPTS = 16
_TICK = 0.5
_STOP_TICK = 0.05
_EXPIRY = 0.05
"""Seconds between looks for connections that are past their time."""
_NOW = socket.MSG_DONTWAIT
"""Saves a system call per connection: its socket stays as it was accepted."""


class _Connection:
    __slots__ = ("buffer", "complete_at", "deadline", "left", "number", "peer", "waiting")

    def __init__(self, peer: socket.socket, deadline: float) -> None:
        self.peer = peer
        self.number = -1
        """In the epoll set; -1: not watched."""
        self.deadline = deadline
        self.buffer: RequestBuffer | None = None
        """Of a request that did not come whole, while it is not complete."""
        self.waiting: Waiting | None = None
        self.left = b""
        self.complete_at = 0.0

    @property
    def held(self) -> int:
        """Bytes of an incomplete request."""
        return 0 if self.buffer is None else len(self.buffer)


class Loop:
    """Answers requests on listening sockets until it is told to stop."""

    def __init__(self, listening: Sequence[Listening], answers: Answers, figures: Figures) -> None:
        self._listening = tuple(listening)
        self._listeners = {found.listener.fileno(): found.listener for found in listening}
        self._answers = answers
        self._figures = figures
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._waiting: deque[_Connection] = deque()
        """In the order in which they came; some may have been answered since."""
        self._held = 0
        self._held_waiting = 0
        self._stop_at: float | None = None
        self._expire_at = 0.0
        # written to by signal handlers and by the thread that finds models
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._epoll.register(self._wake_in, select.EPOLLIN)
        for number, listener in self._listeners.items():
            listener.setblocking(False)
            self._epoll.register(number, select.EPOLLIN)

    def wake(self) -> None:
        """A model was found: look at the requests that wait. From any thread."""
        with contextlib.suppress(BlockingIOError):  # it will wake anyway
            self._wake_out.send(b"w")

    def stop(self) -> None:
        """Take no more connections, finish the replies that are due, and return from `run`."""
        self._stop_at = time.monotonic() + STOP_SECONDS
        self.wake()

    def run(self) -> None:
        """Until SIGTERM or SIGINT, or `stop`."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        try:
            while not self._done():
                self._once()
        finally:
            # a second signal while the process ends must not turn a clean end into a kill
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for connection in list(self._connections.values()):
                self._close(connection)
            self._epoll.close()

    def _done(self) -> bool:
        if self._stop_at is None:
            return False
        now = time.monotonic()
        if self._listeners:
            for found in self._listening:
                found.remove()
            # those who had connected before are answered
            for number, listener in self._listeners.items():
                self._accept(listener)
                self._epoll.unregister(number)
                listener.close()
            self._listeners = {}
        if now >= self._stop_at - STOP_SECONDS + QUIET_SECONDS:
            for connection in list(self._connections.values()):
                if connection.waiting is None and not connection.left and not connection.held:
                    self._close(connection)
        return not self._connections or now >= self._stop_at

    def _once(self) -> None:
        found = self._epoll.poll(_TICK if self._stop_at is None else _STOP_TICK)
        for number, event in found:
            if (connection := self._connections.get(number)) is not None:
                self._event(connection, event)
        # then only: a new connection may get the number of one that was closed just now
        for number, _ in found:
            if number in self._listeners:
                self._accept(self._listeners[number])
            elif number == self._wake_in.fileno():
                self._woken()
        if (now := time.monotonic()) >= self._expire_at:
            self._expire_at = now + _EXPIRY
            self._expire()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                peer, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # out of file descriptors: an old connection makes room
                log.warning("cannot accept a connection: %s", error.strerror)
                if not self._drop_oldest("no room"):
                    time.sleep(0.01)
                return
            self._figures.connections += 1
            self._read(_Connection(peer, time.monotonic() + SECONDS))

    def _event(self, connection: _Connection, event: int) -> None:
        if connection.left:
            self._send(connection, connection.left)
        elif connection.waiting is None and event & select.EPOLLIN:
            self._read(connection)
        else:
            self._drop(connection, "closed early")

    def _read(self, connection: _Connection) -> None:
        """Read what there is. Most requests are there when their connection is, whole: they are answered
        without being watched."""
        try:
            piece = connection.peer.recv(_PIECE, _NOW)
        except BlockingIOError:
            self._await(connection)
            return
        except OSError:
            self._drop(connection, "closed early")
            return
        if not piece:
            # nothing more will come; whoever closed one direction only still reads
            if connection.held:
                self._reply(connection, self._answers.refuse("the request ends early", None, 0, ""))
            else:
                self._drop(connection, "closed early")
            return
        if connection.buffer is None:
            if piece[-1] == _CLOSE and self._whole(connection, piece):
                return
            connection.buffer = RequestBuffer()
        self._held += len(piece)
        try:
            length = connection.buffer.feed(piece)
        except NotAnObjectError as error:
            self._reply(connection, self._answers.refuse(f"not a JSON object: {error}", None, 0, ""))
            return
        if length is not None:
            self._complete(connection, connection.buffer, length)
            return
        if connection.held > MAX_REQUEST_BYTES:
            reason = f"a request of more than {MAX_REQUEST_BYTES} bytes"
            self._reply(connection, self._answers.refuse(reason, None, 0, ""))
            return
        self._await(connection)
        while self._held > MAX_HELD_BYTES:
            # whoever holds it longest has had the time to complete it
            self._drop(next(c for c in self._connections.values() if c.held), "too much held")

    def _whole(self, connection: _Connection, piece: bytes) -> bool:
        """Answer a request that came in one piece, as nearly all do, without looking for its end."""
        started = time.perf_counter()
        try:
            reply = self._answers.answer_whole(piece)
        except Exception:
            reply = self._defect()
        if reply is None:
            return False
        connection.complete_at = started
        self._take(connection, reply)
        return True

    def _complete(self, connection: _Connection, buffer: RequestBuffer, length: int) -> None:
        connection.complete_at = time.perf_counter()
        try:
            reply = self._answers.answer(memoryview(buffer.data)[:length])
        except Exception:
            reply = self._defect()
        self._held -= len(buffer)
        connection.buffer = None
        self._take(connection, reply)

    def _defect(self) -> bytes:
        log.exception("a request failed; this is a defect of the estimator")
        return self._answers.refuse("a defect of the estimator; its log says more", None, 0, "")

    def _take(self, connection: _Connection, reply: bytes | Waiting) -> None:
        if isinstance(reply, Waiting):
            connection.waiting = reply
            connection.deadline = time.monotonic() + MODEL_SECONDS
            self._waiting.append(connection)
            self._held_waiting += reply.size
            self._watch(connection, 0)  # only whether the client is gone
            while self._held_waiting > MAX_HELD_BYTES:
                self._answer_oldest_waiting()
        else:
            self._reply(connection, reply)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_in.recv(4096):
                pass
        still: deque[_Connection] = deque()
        for connection in self._waiting:
            if (waiting := connection.waiting) is None:
                continue
            if waiting.entry.waiting:
                still.append(connection)
            else:
                self._finish(connection, waiting)
        self._waiting = still

    def _answer_oldest_waiting(self) -> bool:
        """Without its model; it waits no longer. Whether there was one."""
        while self._waiting:
            connection = self._waiting.popleft()
            if (waiting := connection.waiting) is not None:
                self._finish(connection, waiting)
                return True
        return False

    def _finish(self, connection: _Connection, waiting: Waiting) -> None:
        self._held_waiting -= waiting.size
        connection.waiting = None
        try:
            reply = self._answers.finish(waiting.request, waiting.entry)
        except Exception:
            reply = self._defect()
        self._reply(connection, reply)

    def _reply(self, connection: _Connection, content: bytes) -> None:
        if connection.complete_at:
            self._figures.replied(time.perf_counter() - connection.complete_at)
        self._send(connection, content)

    def _send(self, connection: _Connection, content: bytes) -> None:
        # one call: the client reads once
        try:
            sent = connection.peer.send(content, _NOW)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection, "closed early")
            return
        if sent == len(content):
            self._close(connection)
            return
        if not connection.left:
            connection.deadline = time.monotonic() + SECONDS
            self._watch(connection, select.EPOLLOUT)
        connection.left = content[sent:]

    def _await(self, connection: _Connection) -> None:
        """Read on when there is more."""
        if connection.number < 0:
            self._watch(connection, select.EPOLLIN)

    def _watch(self, connection: _Connection, events: int) -> None:
        """Be told when the client does something (or, with no events, is gone)."""
        if connection.number >= 0:
            self._epoll.modify(connection.number, events)
            return
        while len(self._connections) >= MAX_CONNECTIONS and self._drop_oldest("too many connections"):
            pass
        connection.number = connection.peer.fileno()
        self._connections[connection.number] = connection
        self._epoll.register(connection.number, events)

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._oldest() if c.deadline <= now]:
            if (waiting := connection.waiting) is not None:
                self._finish(connection, waiting)
            else:
                self._drop(connection, "too slow")

    def _oldest(self) -> list[_Connection]:
        """Connections that are or may be past their time. They are kept in the order in which they came,
        so the first that is not, unless it waits for something else, ends the search."""
        found = []
        now = time.monotonic()
        for connection in self._connections.values():
            if connection.deadline <= now:
                found.append(connection)
            elif connection.waiting is None and not connection.left:
                break
        return found

    def _drop_oldest(self, why: str) -> bool:
        for connection in self._connections.values():
            if connection.waiting is None:
                self._drop(connection, why)
                return True
        return self._answer_oldest_waiting()

    def _drop(self, connection: _Connection, why: str) -> None:
        self._figures.dropped[why] += 1
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if connection.number >= 0:
            del self._connections[connection.number]
            connection.number = -1
        if connection.waiting is not None:
            self._held_waiting -= connection.waiting.size
            connection.waiting = None
        self._held -= connection.held
        connection.buffer = None
        connection.peer.close()  # the kernel takes it out of the epoll set
