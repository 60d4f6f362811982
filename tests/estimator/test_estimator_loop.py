"""Requests that wait for a model are held within limits, too."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kepler_servers.estimator import loop as loop_module
from kepler_servers.estimator.answers import Answers
from kepler_servers.estimator.counters import Figures
from kepler_servers.estimator.keeper import ModelKeeper
from kepler_servers.estimator.listening import listen
from kepler_servers.estimator.loop import Loop

ROWS = 50


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """One whose keeper's thread is never started: every model is still being looked for."""
    keeper = ModelKeeper([], machine_spec={}, refresh_seconds=60.0, found=lambda: None)
    figures = Figures()
    answers = Answers(keeper, figures, reply_limit=4096, about={})
    listening = listen([str(tmp_path / "e.sock")])
    yield Loop(listening, answers, figures)
    for found in listening:
        found.close()


def ask(loop: Loop, tmp_path: Path) -> socket.socket:
    """A client that has sent its request."""
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
    loop._once()
    return client


def reply(client: socket.socket) -> dict[str, Any] | None:
    """What it was answered; None if it still waits."""
    client.setblocking(False)
    try:
        found: dict[str, Any] = json.loads(client.recv(4096))
    except BlockingIOError:
        return None
    assert "still being looked for" in found["msg"]
    assert found["powers"] == {"package": [0] * ROWS}
    return found


def test_too_much_that_waits(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "MAX_HELD_BYTES", 3 * ROWS * 8)
    clients = [ask(loop, tmp_path) for _ in range(5)]
    assert [reply(client) is not None for client in clients] == [True, True, False, False, False]
    clients[2].close()  # who goes makes room
    loop._once()
    clients.append(ask(loop, tmp_path))
    assert [reply(client) is not None for client in clients[3:]] == [False, False, False]
    assert loop._held_waiting == 3 * ROWS * 8


def test_too_many_that_wait(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "MAX_CONNECTIONS", 3)
    clients = [ask(loop, tmp_path) for _ in range(5)]
    assert [reply(client) is not None for client in clients] == [True, True, False, False, False]
    assert len(loop._connections) == 3
