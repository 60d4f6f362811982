"""Tests of an estimator whose file descriptors are used up by clients other than Kepler."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.estimator_clients import REQUEST, WATTS, connect
from support.estimator_process import EstimatorProcess, running_estimator
from support.process import PATIENCE, wait_for
from support.server_process import free_port

from kepler_servers.estimator.descriptor_reserve import DescriptorReserve

MANY = 1020
"""Number of idle connections. A process may usually open 1024 files, so this is nearly the limit."""


@pytest.fixture(autouse=True)
def descriptors_of_the_test() -> Iterator[None]:
    """Raise the limit of file descriptors of this process, so that it can open all connections of a test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Open connections that send nothing. Do not wait until the server accepts them, because it may not accept all."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.connect(("127.0.0.1", port))
        yield


def limit_descriptors(estimator: EstimatorProcess, spare: int) -> None:
    """Lower the descriptor limit of a running estimator, so that it can open only `spare` more descriptors."""
    used = {int(name) for name in os.listdir(f"/proc/{estimator.process.pid}/fd")}
    unused = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(unused, spare, None))
    resource.prlimit(estimator.process.pid, resource.RLIMIT_NOFILE, (limit, limit))


def test_1020_idle_connections_to_the_metrics_port(store: Path, tmp_path: Path) -> None:
    port = free_port()
    with running_estimator(tmp_path / "e.sock", "-s", store, "--metrics-port", str(port)) as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        resource.prlimit(estimator.process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        before = estimator.descriptors()
        with idle_connections(port, MANY):
            wait_for(lambda: estimator.descriptors() > before + 10, "the metrics port accepts no connection")
            for _ in range(20):
                assert estimator.ask(REQUEST)["powers"] == WATTS
            assert estimator.descriptors() <= before + 20


def test_the_metrics_port_cannot_take_the_descriptors_of_kepler(store: Path, tmp_path: Path) -> None:
    """Kepler gets answers even if idle clients of the metrics port use all file descriptors that are not reserved."""
    port = free_port()
    with running_estimator(tmp_path / "e.sock", "-s", store, "--metrics-port", str(port)) as estimator:
        estimator.wait_answer(REQUEST, WATTS)
        limit_descriptors(estimator, spare=5)
        before = estimator.descriptors()
        with idle_connections(port, MANY):
            wait_for(lambda: estimator.descriptors() >= before + 5, "the metrics port does not use the descriptors")
            with ExitStack() as stack:
                silent = [stack.enter_context(connect(estimator.path)) for _ in range(20)]
                for _ in range(50):
                    assert estimator.ask(REQUEST)["powers"] == WATTS
                assert estimator.descriptors() <= before + 5
                assert len(silent) == 20
            # The silent clients have closed their connections. The estimator keeps their file descriptors in reserve
            # for new clients like Kepler, so the metrics port cannot use the descriptors.
            assert estimator.ask(REQUEST)["powers"] == WATTS
        assert estimator.status()["dropped_connections"].keys() <= {"closed early"}


def test_a_closed_connection_fills_the_reserve(tmp_path: Path) -> None:
    """After a connection is closed, its file descriptor is reserved again, and no other thread can get it."""
    before = len(os.listdir("/proc/self/fd"))
    reserve = DescriptorReserve(2)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(tmp_path / "l.sock"))
        listener.listen()
        clients = [stack.enter_context(connect(tmp_path / "l.sock")) for _ in range(3)]
        lowest_unused = os.dup(listener.fileno())
        os.close(lowest_unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_unused, hard))
        peers = [reserve.accept(listener) for _ in range(2)]
        with pytest.raises(OSError, match="Too many open files"):
            reserve.accept(listener)
        reserve.close(peers.pop())
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        peers.append(reserve.accept(listener))
        clients[2].sendall(b"x")
        assert peers[1].recv(1) == b"x"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for peer in peers:
            reserve.close(peer)
        reserve.refill()
    reserve.release()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("arguments", [(), ("--metrics-host", "127.0.0.2")])
def test_the_address_of_the_metrics_port(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The metrics port listens on the chosen address only, and by default on 127.0.0.1 only."""
    port = free_port()
    with running_estimator(tmp_path / "e.sock", "--metrics-port", str(port), *arguments):
        address, other = ("127.0.0.2", "127.0.0.1") if arguments else ("127.0.0.1", "127.0.0.2")
        socket.create_connection((address, port), PATIENCE).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, port), PATIENCE)
