"""Clients of an estimator that behave like Kepler."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.process import PATIENCE, wait_for
from support.small_pipelines import BPF

KEPLERS_READ = 4096
"""Maximum number of bytes of a reply that Kepler reads. Kepler reads a reply with a single call."""


def connect(path: Path | str) -> socket.socket:
    """Connect to an estimator's socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Connect first, and set the timeout later. If the listen queue is full, `connect` waits on a socket without a
        # timeout, but fails at once on a socket with a timeout.
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    connection.settimeout(PATIENCE)
    return connection


def ask_as_kepler(path: Path | str, request: Mapping[str, Any] | bytes) -> bytes:
    """Send a request and return the reply as Kepler does: connect, write without a delimiter, read once, and close."""
    with connect(path) as connection:
        connection.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
        return connection.recv(KEPLERS_READ)


def ask(path: Path | str, request: Mapping[str, Any] | bytes) -> dict[str, Any]:
    """Send a request as Kepler does. Check the reply with `checked_reply` and return it."""
    return checked_reply(ask_as_kepler(path, request))


def checked_reply(content: bytes) -> dict[str, Any]:
    """Decode a reply. Fail if it has values that would harm Kepler: NaN, infinity or negative powers."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} in a reply")

    reply = json.loads(content, parse_constant=refuse)
    assert isinstance(reply, dict), content[:200]
    assert isinstance(reply["powers"], dict), content[:200]
    for values in reply["powers"].values():
        assert all(value >= 0 for value in values), content[:200]
    return reply


def watts_request(
    rows: Sequence[Sequence[float]] = ((100, 200),),
    metrics: Sequence[str] = BPF,
    output_type: str = "AbsPower",
    source: str = "intel_rapl",
    **more: Any,
) -> dict[str, Any]:
    """Return a request for watts with the keys that Kepler sends. `more` adds or replaces keys."""
    return {
        "metrics": list(metrics),
        "values": [list(row) for row in rows],
        "output_type": output_type,
        "source": source,
        "system_features": ["cpu_architecture"],
        "system_values": ["Haswell"],
        "trainer_name": "",
        "filter": "",
        **more,
    }


class CheckingClient:
    """A client with several threads. The threads repeat a request and collect unexpected replies."""

    def __init__(
        self, path: Path, request: Mapping[str, Any], expected: Sequence[Mapping[str, Any]], threads: int
    ) -> None:
        """Store the request to repeat. A reply is right if its powers equal one item of `expected`."""
        self._path = path
        self._request = json.dumps(request).encode()
        self._expected = [dict(powers) for powers in expected]
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self.wrong: list[str] = []
        self.answers = 0
        self.seen: set[int] = set()
        """For each received reply, the index of its powers in `expected`, or -1 if the reply was wrong."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> CheckingClient:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                content = ask_as_kepler(self._path, self._request)
                powers = checked_reply(content)["powers"]
                index = self._expected.index(powers) if powers in self._expected else -1
                problem = "" if index >= 0 else f"wrong: {content[:300]!r}"
            except Exception as error:  # `check` reports the error
                problem, index = repr(error), -1
            with self._counting:
                self.answers += 1
                self.seen.add(index)
                if problem and len(self.wrong) < 10:
                    self.wrong.append(problem)
            # pause, so that the estimator can use the processor
            time.sleep(0.002)

    def wait(self, count: int = 3) -> None:
        """Wait until the client has received `count` more answers."""
        start = self.answers
        wait_for(lambda: self.answers >= start + count, "the checking client gets no answers")

    def check(self) -> None:
        """Fail if the client has received no answer at all, or a wrong answer."""
        assert self.answers
        assert self.wrong == []


REQUEST = watts_request()
WATTS = {"package": [51.2], "dram": [8.4]}
"""The watts that the model `linear_models.ABS` predicts for `REQUEST`."""
OTHER_WATTS = {"package": [1.0], "dram": [202.0]}
"""The watts that the model `linear_models.OTHER` predicts for `REQUEST`."""
DYN_WATTS = {"package": [1.2], "dram": [0.4]}
"""The watts that the model `linear_models.DYN` predicts for the same request with the output type DynPower."""
