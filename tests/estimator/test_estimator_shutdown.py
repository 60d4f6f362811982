"""Tests of SIGTERM and SIGINT: the estimator answers the connected clients, and no client waits for ever."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

import pytest
from support.estimator_clients import KEPLERS_READ, REQUEST, WATTS, checked_reply, connect, watts_request
from support.estimator_process import running_estimator
from support.process import PATIENCE, wait_for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_due_replies_are_finished(store: Path, tmp_path: Path, number: signal.Signals) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store, "--reply-limit", "0") as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        half, large, idle = (connect(estimator.path) for _ in range(3))
        with half, large, idle:
            half.sendall(content[:50])
            rows = watts_request([[1, 2]] * 20_000)
            large.sendall(json.dumps(rows).encode())
            large.recv(1, socket.MSG_PEEK)  # wait for the first byte of a reply that exceeds the socket's buffer
            estimator.ask(content)
            estimator.process.send_signal(number)
            assert idle.recv(10) == b"", "the signal did not arrive"
            half.sendall(content[50:])
            assert checked_reply(half.recv(KEPLERS_READ))["powers"] == WATTS
            received = b""
            while piece := large.recv(65536):
                received += piece
            assert len(checked_reply(received)["powers"]["package"]) == 20_000
        assert estimator.process.wait(PATIENCE) == 0


def test_each_client_gets_an_answer_or_cannot_connect(store: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        started = threading.Barrier(5)
        unanswered: list[bytes] = []
        answered: list[bytes] = []

        def run() -> None:
            started.wait(PATIENCE)
            while True:
                try:
                    connection = connect(estimator.path)
                except OSError:
                    return
                with connection:
                    try:
                        connection.sendall(content)
                        reply = connection.recv(KEPLERS_READ)
                    except OSError as error:
                        reply = repr(error).encode()
                    replies = answered if reply.startswith(b'{"powers":{"package":[51.2]') else unanswered
                    replies.append(reply)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(PATIENCE)
        wait_for(lambda: len(answered) > 200, "no answers")
        estimator.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert estimator.process.wait(PATIENCE) == 0
    assert unanswered == []


def test_no_client_can_connect_during_the_shutdown(store: Path, tmp_path: Path) -> None:
    """During the shutdown, a new client must get an error at once. Otherwise it would wait for an answer for ever."""
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator:
        content = json.dumps(REQUEST).encode()
        estimator.ask(content)
        with connect(estimator.path) as half, connect(estimator.path) as idle:
            half.sendall(content[:50])
            estimator.ask(content)
            estimator.process.send_signal(signal.SIGTERM)
            assert idle.recv(10) == b""
            with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
                connect(estimator.path)
            half.sendall(content[50:])
            assert checked_reply(half.recv(KEPLERS_READ))["powers"] == WATTS


def test_an_idle_client_does_not_delay_the_shutdown(store: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator, connect(estimator.path) as idle:
        estimator.ask(REQUEST)
        assert estimator.stop() == 0
        assert idle.recv(10) == b""
