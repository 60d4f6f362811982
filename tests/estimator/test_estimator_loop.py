"""Tests of the event loop's limits for requests that wait for a model."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kepler_servers.estimator import loop as loop_module
from kepler_servers.estimator.counters import Counters
from kepler_servers.estimator.listening import listen
from kepler_servers.estimator.loop import Loop
from kepler_servers.estimator.model_cache import ModelCache
from kepler_servers.estimator.request_handler import RequestHandler

ROWS = 50


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """An event loop whose model cache has no background thread, so that the search for a model never ends."""
    cache = ModelCache([], machine_spec={}, refresh_seconds=60.0, on_search_end=lambda: None)
    counters = Counters()
    handler = RequestHandler(cache, counters, reply_limit=4096, about={})
    sockets = listen([str(tmp_path / "e.sock")])
    yield Loop(sockets, handler, counters)
    for listening in sockets:
        listening.close()


def ask(loop: Loop, tmp_path: Path) -> socket.socket:
    """Connect a client, send a request from it, and let the loop read the request."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(tmp_path / "e.sock"))
    client.sendall(
        json.dumps(
            {
                "metrics": ["bpf_cpu_time_ms"],
                "values": [[1.0]] * ROWS,
                "output_type": "DynPower",
                "source": "rapl-sysfs",
            }
        ).encode()
    )
    loop._poll()
    return client


def reply_to(client: socket.socket) -> dict[str, Any] | None:
    """Return the reply that a client has received, or None if the client's request is still pending."""
    client.setblocking(False)
    try:
        reply: dict[str, Any] = json.loads(client.recv(4096))
    except BlockingIOError:
        return None
    assert "search for a model is not over yet" in reply["msg"]
    assert reply["powers"] == {"package": [0] * ROWS}
    return reply


def test_pending_requests_beyond_the_limit_of_bytes_are_answered_oldest_first(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "MAX_HELD_BYTES", 3 * ROWS * 8)
    clients = [ask(loop, tmp_path) for _ in range(5)]
    assert [reply_to(client) is not None for client in clients] == [True, True, False, False, False]
    clients[2].close()  # this makes room in the loop for one more request
    loop._poll()
    clients.append(ask(loop, tmp_path))
    assert [reply_to(client) is not None for client in clients[3:]] == [False, False, False]
    assert loop._held_pending == 3 * ROWS * 8


def test_pending_requests_beyond_the_limit_of_connections_are_answered_oldest_first(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "MAX_CONNECTIONS", 3)
    clients = [ask(loop, tmp_path) for _ in range(5)]
    assert [reply_to(client) is not None for client in clients] == [True, True, False, False, False]
    assert len(loop._connections) == 3


def test_a_pending_request_is_answered_in_time_behind_an_older_silent_client(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that waits for a model is answered in time, although an earlier client has sent only half a request."""
    monkeypatch.setattr(loop_module, "MODEL_TIMEOUT_SECONDS", 0.0)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(tmp_path / "e.sock"))
        silent.sendall(b"{")
        loop._poll()
        client = ask(loop, tmp_path)
        loop._poll()
        assert reply_to(client) is not None
        assert len(loop._connections) == 1, "the silent client is still connected"
