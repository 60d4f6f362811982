"""A process with hostile clients, which attack all ports and sockets of a chaos run.

    python -m chaos_run.hostile_clients JSON

JSON is an object with the keys `ports` (the TCP port of each server, by the server's name), `socket` (path of the
estimator's socket) and `seed`. At SIGTERM, the process ends and prints a JSON object. The object has the number of
connections by behaviour, and the number of answers by server, behaviour and status.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import random
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from support.estimator_clients import watts_request

ESTIMATOR_SOCKET = "estimator socket"
THREADS = 4
"""Number of hostile clients that run at the same time. A client may have several connections."""
IDLE_CONNECTIONS = (20, 200)
"""Smallest and largest number of connections that a client opens at once without sending anything."""
HOLD_SECONDS = (2.0, 12.0)
"""Shortest and longest time, in seconds, for which a hostile client keeps its connection open."""
PAUSE_SECONDS = (0.0, 0.15)
SOCKET_TIMEOUT_SECONDS = 3.0
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ")

PATHS = {
    "model server": ("/model", "/models", "/healthz", "/metrics"),
    "offline trainer": ("/train", "/jobs", "/jobs/x", "/healthz"),
    "online trainer": ("/healthz", "/metrics"),
    "estimator": ("/metrics", "/"),
}
"""Paths that the hostile clients request from the TCP port of each server, by the server's name.

Most attacks use the first path.
"""

DOCUMENTS = (
    b"[" * 100_000,
    b'{"a":' * 800 + b"1" + b"}" * 800,
    b'{"metrics":["\xff"],"output_type":"AbsPower"}',
    b'{"metrics":["bpf_cpu_time_ms"],"output_type":"AbsPower","node_type":1' + b"0" * 400 + b"}",
    b'{"name":"x","energy_source":"rapl","trainer":{"abs_trainers":[{"name":"SGDRegressorTrainer","args":{"a":'
    + b"[" * 800 + b"]" * 800 + b"}}]},\"prome_response\":{}}",
    json.dumps({"metrics": ["x" * 100_000], "output_type": "AbsPower", "filter": "(" * 10_000}).encode(),
    b"null",
    b"",
    b"\x00" * 1000,
    gzip.compress(bytes(30 * 2**20)),
    gzip.compress(b"") * 20_000,
)  # fmt: skip
"""Request bodies that no server accepts."""


class Attackers:
    """Threads of hostile clients. Each thread chooses a server and a behaviour at random, again and again."""

    def __init__(self, ports: dict[str, int], unix_socket: str, seed: int) -> None:
        self._ports = ports
        self._socket = unix_socket
        self._seed = seed
        self._held: list[tuple[float, socket.socket]] = []
        self._lock = threading.Lock()
        self._current = threading.local()
        self.stop = threading.Event()
        self.connections: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, str, int]] = Counter()
        self.not_connected = 0

    def run(self) -> None:
        """Run the hostile clients until `stop` is set."""
        threads = [threading.Thread(target=self._attack, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while not self.stop.wait(0.2):
            self._release(time.monotonic())
        for thread in threads:
            thread.join(2 * SOCKET_TIMEOUT_SECONDS)
        self._release(float("inf"))

    def _attack(self, number: int) -> None:
        choices = random.Random(f"{self._seed} {number}")
        while not self.stop.wait(choices.uniform(*PAUSE_SECONDS)):
            server = choices.choice([*self._ports, ESTIMATOR_SOCKET])
            behaviours = SOCKET_BEHAVIOURS if server == ESTIMATOR_SOCKET else HTTP_BEHAVIOURS
            behaviour = choices.choice(behaviours)
            try:
                behaviour(self, server, choices)
            except OSError:
                with self._lock:
                    self.not_connected += 1

    # --- methods that the behaviours use ---

    def connect(self, server: str, behaviour: str) -> socket.socket:
        """Open a connection to a server, and count the connection under the name of the client's behaviour."""
        self._current.behaviour = behaviour
        with self._lock:
            self.connections[behaviour] += 1
        if server != ESTIMATOR_SOCKET:
            return socket.create_connection(("127.0.0.1", self._ports[server]), SOCKET_TIMEOUT_SECONDS)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(SOCKET_TIMEOUT_SECONDS)
        try:
            connection.connect(self._socket)
        except BaseException:
            connection.close()
            raise
        return connection

    def send(self, connection: socket.socket, content: bytes) -> None:
        """Send as much of the content as the server accepts within the timeout."""
        with contextlib.suppress(OSError):
            connection.sendall(content)

    def finish(self, server: str, connection: socket.socket) -> None:
        """Read the beginning of the answer, count its status, and close the connection."""
        with connection, contextlib.suppress(OSError):
            start = connection.recv(4096)
            if status := _STATUS.match(start):
                with self._lock:
                    self.statuses[server, self._current.behaviour, int(status[1])] += 1

    def hold(self, connection: socket.socket, choices: random.Random) -> None:
        """Leave a connection open for some seconds; `run` closes it afterwards."""
        with self._lock:
            self._held.append((time.monotonic() + choices.uniform(*HOLD_SECONDS), connection))

    def _release(self, now: float) -> None:
        with self._lock:
            ended = [connection for end, connection in self._held if end <= now]
            self._held = [item for item in self._held if item[0] > now]
        for connection in ended:
            connection.close()


Behaviour = Callable[[Attackers, str, random.Random], None]
HTTP_BEHAVIOURS: list[Behaviour] = []
SOCKET_BEHAVIOURS: list[Behaviour] = []


def for_http(behaviour: Behaviour) -> Behaviour:
    HTTP_BEHAVIOURS.append(behaviour)
    return behaviour


def for_socket(behaviour: Behaviour) -> Behaviour:
    SOCKET_BEHAVIOURS.append(behaviour)
    return behaviour


def head(server: str, choices: random.Random, length: int | None = None, more: str = "") -> bytes:
    """Return the head of an HTTP request for one of the server's paths."""
    path = PATHS[server][0] if choices.random() < 0.6 else choices.choice(PATHS[server])
    method = "POST" if path in ("/model", "/train") else choices.choice(("GET", "DELETE", "PUT"))
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{size}{more}\r\n".encode()


# --- HTTP ---


@for_http
def half_closed_body(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: body half closed")
    length = choices.choice((10, 1000, 100_000))
    attackers.send(connection, head(server, choices, length) + b"{" + b" " * choices.randrange(length - 1))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    attackers.finish(server, connection)


@for_http
def malformed_document(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: malformed document")
    body = choices.choice(DOCUMENTS)
    attackers.send(connection, head(server, choices, len(body)) + body)
    attackers.finish(server, connection)


@for_http
def random_bytes(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: random bytes")
    attackers.send(connection, choices.randbytes(choices.randrange(1, 20_000)))
    attackers.finish(server, connection)


@for_http
def huge_headers(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: huge headers")
    value = "x" * choices.choice((10_000, 100_000, 2_000_000))
    header = choices.choice((f"X-Long: {value}\r\n", "X: y\r\n" * (len(value) // 6), f"Host: {value}\r\n"))
    attackers.send(connection, head(server, choices, more=header))
    attackers.finish(server, connection)


@for_http
def wrong_framing(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: wrong framing")
    header = choices.choice(
        ("Content-Length: -1\r\n", "Content-Length: 1\r\nContent-Length: 2\r\n", "Transfer-Encoding: chunked\r\n")
    )
    attackers.send(connection, head(server, choices, more=header) + b"fffffffffffffffff\r\nx")
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    attackers.finish(server, connection)


@for_http
def slow_writer(attackers: Attackers, server: str, choices: random.Random) -> None:
    with attackers.connect(server, "HTTP: slow writer") as connection:
        for byte in head(server, choices, 1000)[:20]:
            attackers.send(connection, bytes([byte]))
            if attackers.stop.wait(0.1):
                return


@for_http
def half_a_request(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: half a request, then silence")
    request = head(server, choices, 1000) + b"{"
    attackers.send(connection, request[: choices.randrange(1, len(request))])
    attackers.hold(connection, choices)


@for_http
def slow_reader(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "HTTP: many requests, no reading")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    path = choices.choice(PATHS[server][1:])
    connection.settimeout(0.3)
    attackers.send(connection, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 3000)
    attackers.hold(connection, choices)


@for_http
@for_socket
def many_idle(attackers: Attackers, server: str, choices: random.Random) -> None:
    for _ in range(choices.randint(*IDLE_CONNECTIONS)):
        attackers.hold(attackers.connect(server, f"{_kind(server)}: idle"), choices)


@for_http
@for_socket
def reset_at_once(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, f"{_kind(server)}: reset")
    attackers.send(connection, b"{" if server == ESTIMATOR_SOCKET else head(server, choices, 10))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- behaviours at the estimator's socket ---


@for_socket
def part_of_a_request(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: part of a request")
    content = json.dumps(watts_request()).encode()
    attackers.send(connection, content[: choices.randrange(len(content))])
    attackers.hold(connection, choices)


@for_socket
def random_request(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: random bytes or documents")
    attackers.send(connection, choices.choice((choices.randbytes(5000), *DOCUMENTS)))
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    attackers.finish(server, connection)


@for_socket
def unknown_names(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: unknown names")
    names = [f"{choices.getrandbits(64):x}" * choices.choice((1, 50)) for _ in range(2)]
    key = choices.choice(("trainer_name", "filter", "source", "output_type"))
    attackers.send(connection, json.dumps({**watts_request(metrics=names), key: names[0]}).encode())
    attackers.finish(server, connection)


@for_socket
def odd_numbers(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: odd numbers")
    value: Any = choices.choice(("1e999", "-1", "null", "NaN", '"x"', "[]", "1" + "0" * 400))
    attackers.send(connection, json.dumps(watts_request([[7, 7]])).replace("7", value).encode())
    attackers.finish(server, connection)


@for_socket
def too_long(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: more than 4 MiB")
    attackers.send(connection, b'{"metrics":["' + b"x" * (5 * 2**20))
    attackers.finish(server, connection)


@for_socket
def no_reading(attackers: Attackers, server: str, choices: random.Random) -> None:
    connection = attackers.connect(server, "socket: no reading")
    attackers.send(connection, json.dumps(watts_request([[1, 2]] * 1000)).encode())
    attackers.hold(connection, choices)


def _kind(server: str) -> str:
    return "socket" if server == ESTIMATOR_SOCKET else "HTTP"


def main() -> None:
    """Run the hostile clients until SIGTERM, and print their counters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", type=json.loads)
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    attackers = Attackers(arguments.addresses["ports"], arguments.addresses["socket"], arguments.addresses["seed"])
    signal.signal(signal.SIGTERM, lambda *_: attackers.stop.set())
    attackers.run()
    statuses = [[*key, number] for key, number in attackers.statuses.items()]
    result = {
        "connections": attackers.connections,
        "statuses": statuses,
        "not_connected": attackers.not_connected,
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
