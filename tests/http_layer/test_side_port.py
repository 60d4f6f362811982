"""Tests of the side port, which serves health and metrics: hostile clients cannot exceed its limits."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from support.process import PATIENCE, wait_for
from support.server_process import SHORT_BODIES, status_of_half_closed

from kepler_core.errors import UsageError
from kepler_servers.http import side_port
from kepler_servers.http.app import App
from kepler_servers.http.route import Route
from kepler_servers.http.side_port import MAX_CONNECTIONS, start_side_port


def side_app() -> App:
    route = Route("GET", "/healthz", "healthz", lambda: {"status": "ok"}, summary="Report the health.")
    return App("thing under test", [route], observe=lambda *_: None, openapi=False)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(side_port, "CONNECTION_SECONDS", 1.0)
    return start_side_port(side_app(), "127.0.0.1", 0)


def get(port: int, path: str = "/healthz", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_answers(port: int) -> None:
    assert get(port) == (200, b'{"status":"ok"}')
    assert get(port, method="HEAD") == (200, b"")
    status, body = get(port, "/nothing")
    assert status == 404
    assert json.loads(body) == {"msg": "no such path '/nothing'; there are /healthz"}
    assert get(port, method="DELETE")[0] == 405


def test_idle_connections_are_ended(port: int) -> None:
    """Clients that send half a request and then nothing are disconnected, even if they exceed `MAX_CONNECTIONS`."""
    before = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            for _ in range(2 * MAX_CONNECTIONS)
        ]
        for connection in slow:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        wait_for(lambda: threading.active_count() == threads + MAX_CONNECTIONS, "the connections are not accepted")
        assert len(os.listdir("/proc/self/fd")) <= before + len(slow) + MAX_CONNECTIONS
        started = time.monotonic()
        assert get(port)[0] == 200, "this request is answered as soon as slow connections are ended"
        assert time.monotonic() - started < 10
        assert [connection.recv(100) for connection in slow] == [b""] * len(slow)
    wait_for(lambda: threading.active_count() == threads, "threads are left")
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors are left")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:"])
def test_idle_connections_give_way_to_further_clients(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """A health probe is answered although other clients hold more connections open than the port serves at a time.

    In this test, the time limit of connections is so long that it does not end the idle connections.
    """
    monkeypatch.setattr(side_port, "CONNECTION_SECONDS", 100 * PATIENCE)
    port = start_side_port(side_app(), "127.0.0.1", 0)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            for _ in range(3 * MAX_CONNECTIONS)
        ]
        for connection in idle:
            connection.sendall(sent)
        for _ in range(5):
            assert get(port)[0] == 200
        assert idle[0].recv(100) == b"", "the connection that waited longest is shut down"
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\n\r\n" if not sent else b" x\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.0 200"), "a connection that is still open is served"


def test_drip_fed_requests_are_ended(port: int) -> None:
    """A client does not extend the time limit of its connection by sending a single byte from time to time."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):
            drip_feed(connection)
        assert time.monotonic() - started < 5
    assert get(port)[0] == 200


def drip_feed(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b"G")
        time.sleep(0.05)


@pytest.mark.parametrize("end", SHORT_BODIES)
def test_bodies_shorter_than_their_content_length(port: int, end: bytes) -> None:
    """The port ignores the body of a request, so it answers even if the body is shorter than Content-Length."""
    assert status_of_half_closed(port, "GET", "/healthz", end) == 200
    assert status_of_half_closed(port, "POST", "/healthz", end) == 405
    assert status_of_half_closed(port, "DELETE", "/jobs/x", end) == 404


def test_taken_port(port: int) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
        start_side_port(side_app(), "127.0.0.1", port)
    with pytest.raises(UsageError, match="cannot listen on"):
        start_side_port(side_app(), "127.0.0.1", 70000)
    with pytest.raises(UsageError, match="cannot listen on"):
        start_side_port(side_app(), "no-such-host.invalid", 0)
