"""Tests of `Deadline` with real servers that send slowly, and with signals to a real process."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.process import PATIENCE, wait_for
from support.slow_servers import GENEROUS, HEAD, SLOW_SERVERS, SlowServer, slow_server

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError, read_bounded


def download(server: SlowServer, deadline: Deadline, max_bytes: int = 2**20) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/")
    return read_bounded(connection.getresponse(), deadline, max_bytes)


@pytest.mark.parametrize("kind", SLOW_SERVERS)
def test_a_slow_server_does_not_exceed_the_deadline(kind: str) -> None:
    pieces, repeat = SLOW_SERVERS[kind]
    with slow_server(*pieces, repeat=repeat) as server:
        started = time.monotonic()
        deadline = Deadline(1.0)
        with pytest.raises(DeadlineError) as caught:
            deadline.run(lambda: download(server, deadline))
        assert time.monotonic() - started < GENEROUS
        assert not caught.value.stopped
        assert str(caught.value) == "not complete within 1 s"


@pytest.mark.parametrize("kind", SLOW_SERVERS)
def test_a_stop_event_ends_the_wait(kind: str) -> None:
    pieces, repeat = SLOW_SERVERS[kind]
    stop = threading.Event()
    with slow_server(*pieces, repeat=repeat) as server:
        deadline = Deadline(600.0, stop=(threading.Event(), stop))
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        with pytest.raises(DeadlineError) as caught:
            deadline.run(lambda: download(server, deadline))
        assert time.monotonic() - started < GENEROUS
        assert caught.value.stopped


def test_a_reader_without_a_thread_ends_after_the_next_byte() -> None:
    with slow_server(HEAD, repeat=b" ") as server, pytest.raises(DeadlineError):
        download(server, Deadline(0.7))


def test_a_large_body_is_not_read_to_its_end() -> None:
    answer = HEAD.replace(b"100000", b"10000000000")
    with slow_server(answer + bytes(3 * 2**20)) as server, pytest.raises(TooLargeError, match="more than 1048576"):
        download(server, Deadline(PATIENCE))


def test_results_and_errors_are_those_of_the_function() -> None:
    deadline = Deadline(PATIENCE)
    assert deadline.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        deadline.run(lambda: 1 // 0)


def test_the_cancelled_function_is_told() -> None:
    cancelled, ended = threading.Event(), threading.Event()

    def work() -> None:
        cancelled.wait(PATIENCE)
        ended.set()

    with pytest.raises(DeadlineError):
        Deadline(0.1).run(work, cancel=cancelled.set)
    assert ended.wait(PATIENCE)


def test_a_pause_ends_with_the_deadline_or_a_stop_event() -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(DeadlineError, match="told to stop"):
        Deadline(600.0, stop=stop).wait(300.0)
    with pytest.raises(DeadlineError, match="not complete"):
        Deadline(0.2).wait(300.0)
    Deadline(600.0).wait(0.01)
    assert time.monotonic() - started < GENEROUS


def test_an_overdue_task_does_not_start() -> None:
    with pytest.raises(DeadlineError):
        Deadline(-1.0).run(lambda: pytest.fail("it ran"))


WAITING = """
import sys, time
from kepler_core.deadlines import Deadline
print("waiting", flush=True)
Deadline(600.0).run(lambda: time.sleep(600))
"""


def test_sigint_ends_a_process_that_waits() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: process.poll() is not None, "the process still waits", GENEROUS)
