"""Tests of HTTP in the model server: methods, connections, slow clients, and broken requests."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support.model_server import (
    ALL_FEATURES,
    BEST,
    LARGE_ZIP,
    MINIMAL,
    OTHER_MACHINE,
    checked_error,
    checked_weights,
    in_threads,
    post_bytes,
    read_all,
    total,
)
from support.process import PATIENCE, wait_for
from support.server_process import SHORT_BODIES, ServerProcess, ask, status_of_half_closed
from support.small_pipelines import CAPTURED
from support.trainer_server import children_of

from kepler_core.store.local import LocalStore
from kepler_servers.http.adapter import BODY_TIMEOUT_SECONDS

# --- methods and connections ---


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_wrong_methods(server: ServerProcess, method: str) -> None:
    for path, allowed in (("/model", "POST"), ("/healthz", "GET")):
        if path == "/healthz" and method in ("GET", "HEAD"):
            continue
        answer = server.ask(method, path)
        assert answer.status == 405
        assert allowed in answer.headers["allow"]
        if method != "HEAD":
            checked_error(answer, 405)
    assert server.ask("POST", "/models", b"{}").status == 405


def test_head(server: ServerProcess) -> None:
    connection = server.connect()
    for path in ("/healthz", "/models", "/metrics", f"/models/made/{BEST.path}.zip", "/nothing"):
        answer = ask(connection, "HEAD", path)
        assert answer.body == b""
        assert answer.status == (404 if path == "/nothing" else 200)
    # The answers to HEAD had no body, so the connection can be used for a further request.
    checked_weights(ask(connection, "POST", "/model", json.dumps(CAPTURED).encode()))
    connection.close()


def test_keep_alive(server: ServerProcess) -> None:
    connection = server.connect()
    body = json.dumps(CAPTURED).encode()
    ask(connection, "GET", "/healthz")
    sock = connection.sock
    for request in (body, b"x", body, b"{}", body):
        status = ask(connection, "POST", "/model", request).status
        assert status == (200 if request == body else 400)
        assert ask(connection, "GET", "/nothing").status == 404
    assert connection.sock is sock
    assert ask(connection, "GET", "/healthz", headers={"Connection": "close"}).status == 200
    assert connection.sock is None
    connection.close()


def test_pipelined_requests(server: ServerProcess) -> None:
    with server.raw() as connection:
        connection.sendall(
            post_bytes(CAPTURED)
            + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            + post_bytes({**CAPTURED, "output_type": "x"})
            + post_bytes(CAPTURED, close=True)
        )
        answers = read_all(connection)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400", b"200"]


# --- requests that are not valid HTTP, or that no HTTP client sends ---

NOT_HTTP = [
    b"\r\n\r\n", b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    b"POST /model HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: y\r\n" * 500 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"y" * 600_000 + b"\r\n\r\n",
    b"GET /models?" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /models?\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \xff\xfe\xe9\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("request_", NOT_HTTP, ids=range(len(NOT_HTTP)))
def test_what_is_not_http(server: ServerProcess, request_: bytes) -> None:
    with server.raw() as connection:
        try:
            connection.sendall(request_)
            connection.shutdown(socket.SHUT_WR)
            answer = read_all(connection)
        except OSError:  # the server may have closed the connection before the test has sent or read everything
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    checked_weights(server.post(CAPTURED))


def test_client_that_expects_100(server: ServerProcess) -> None:
    """The server sends "100 Continue" to clients such as curl, which wait for it before they send a large body."""
    body = json.dumps({**CAPTURED, "trainer_name": "", "metrics": [*CAPTURED["metrics"], *["x" * 500] * 20]}).encode()
    with server.raw() as connection:
        connection.sendall(
            b"POST /model HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        first = connection.recv(2**16)
        assert first.startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert b"HTTP/1.1 200" in first + read_all(connection)


# --- clients that are slow or close their connection ---

PARTIAL_REQUESTS = [
    b"POST /mod",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Le",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
    b"POST /model HTTP/1.1\r\nHost: x\r\nContent-Length: 250000\r\n\r\n" + b" " * 100_000,
    b"POST /model HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    b"GET /models/x",
    f"GET /models/made/{LARGE_ZIP.path}.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode(),  # the client never reads
    b"",
]


def test_slow_clients_do_not_delay_others(server: ServerProcess) -> None:
    slow = [server.raw() for _ in range(200)]
    try:
        for index, connection in enumerate(slow):
            connection.sendall(PARTIAL_REQUESTS[index % len(PARTIAL_REQUESTS)])
        keep_alive = server.connect()
        for _ in range(20):
            checked_weights(server.post(CAPTURED))
            checked_weights(ask(keep_alive, "POST", "/model", json.dumps(CAPTURED).encode()))
            assert server.get("/readyz").status == 200
            assert server.get(f"/models/made/{BEST.path}.zip").status == 200
            assert server.get("/metrics").status == 200
        keep_alive.close()
    finally:
        for connection in slow:
            connection.close()
    checked_weights(server.post(CAPTURED))


@contextlib.contextmanager
def stopping(process: ServerProcess) -> Iterator[None]:
    try:
        yield
    finally:
        process.stop()


def test_clients_that_never_read(store: LocalStore, tmp_path: Path) -> None:
    """Clients that never read are dropped, and other clients still get answers.

    The number of these clients exceeds the number of file descriptors that the server may have.
    """
    request = f"GET /models/made/{LARGE_ZIP.path}.zip HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    process = ServerProcess(store.root, tmp_path / "server.log")
    # Granian raises the soft limit to the hard limit, so both limits are set.
    resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (256, 256))
    with stopping(process), ExitStack() as stack:
        process.wait_ready()
        idle = connections_of(process)
        for _ in range(260):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", process.port))
            client.sendall(request)
        checked_weights(process.post(CAPTURED))
        assert process.get("/healthz").status == 200
        wait_for(lambda: connections_of(process) <= idle + 10, "slow clients are still connected", 2 * PATIENCE)
        assert process.get("/healthz").status == 200
    assert "Too many open files" not in process.log
    process.check_log()


def connections_of(process: ServerProcess) -> int:
    """Return the number of sockets that the worker process has open."""
    count = 0
    for worker in children_of(process.process.pid):
        folder = f"/proc/{worker}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # the descriptor may be closed meanwhile
                count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


def test_incomplete_bodies_time_out(server: ServerProcess) -> None:
    partial_bodies = [part for part in PARTIAL_REQUESTS if part.startswith(b"POST") and b"\r\n\r\n" in part]
    assert len(partial_bodies) == 3
    with ExitStack() as stack:
        slow = [stack.enter_context(server.raw()) for _ in range(3 * len(partial_bodies))]
        for index, connection in enumerate(slow):
            connection.sendall(partial_bodies[index % len(partial_bodies)])
        # The client `late` waits before it sends its request, but not longer than the time limit.
        late = stack.enter_context(server.raw())
        request = post_bytes(CAPTURED, close=True)
        late.sendall(request[:-1])
        checked_weights(server.post(CAPTURED))
        time.sleep(BODY_TIMEOUT_SECONDS / 2)
        late.sendall(request[-1:])
        assert read_all(late).startswith(b"HTTP/1.1 200")
        for connection in slow:
            connection.settimeout(PATIENCE)
            answer = connection.recv(2**16)
            assert answer.startswith(b"HTTP/1.1 408"), answer[:300]
            assert b"did not arrive within 10 s" in answer
    checked_weights(server.post(CAPTURED))
    assert total(server.metrics(), "kepler_model_server_requests_total", status="408") == len(slow)


def test_bodies_shorter_than_their_content_length(server: ServerProcess) -> None:
    for method, path in (("POST", "/model"), ("GET", "/models"), ("GET", "/healthz"), ("DELETE", "/nothing")):
        for end in SHORT_BODIES:
            assert status_of_half_closed(server.port, method, path, end) == 400, (method, path, end)
    checked_weights(server.post(CAPTURED))


def test_clients_that_leave_early(server: ServerProcess) -> None:
    for request in (*PARTIAL_REQUESTS, post_bytes(CAPTURED), post_bytes({**MINIMAL, "metrics": ALL_FEATURES})):
        for _ in range(5):
            connection = server.raw()
            connection.sendall(request)
            # with the option SO_LINGER and a time of 0 s, `close` sends a TCP reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
    checked_weights(server.post(CAPTURED))


def test_concurrent_clients_get_their_own_answers(server: ServerProcess) -> None:
    requests = [CAPTURED, {**CAPTURED, "output_type": "DynPower"}, {**CAPTURED, "source": "acpi"},
                {**CAPTURED, "machine_spec": OTHER_MACHINE}, {**CAPTURED, "metrics": []}]  # fmt: skip
    bodies = [json.dumps(request).encode() for request in requests]
    expected = [server.post(body).body for body in bodies]

    def client(seed: int) -> None:
        connection = server.connect()
        for index in range(40):
            number = (index * seed + index) % len(bodies)
            assert ask(connection, "POST", "/model", bodies[number]).body == expected[number]
        connection.close()

    in_threads([partial(client, seed) for seed in range(16)])
