"""Put load on a server: each of N clients sends a request, waits for the whole answer, and sends its next request.

The requests are prepared before the measurement. By default, one thread of one process sends them, so the
load generator takes little of the CPU that it shares with the server. Without `--json`, the program prints
requests per second and latencies.

    python bench/load.py http://127.0.0.1:8100/model BODIES [--clients 16] [--seconds 3] [--json]
    python bench/load.py unix:/tmp/estimator.sock BODIES [--replies REPLIES] [--processes 8] [...]

BODIES is a file with one request body per line. The bodies are sent in turn. After the last body,
the first body is sent again. An HTTP client sends all its requests on one connection. A client of a unix socket behaves
like Kepler: it opens a connection for each request, sends no delimiter after the request, and reads the reply
with a single call of at most 4096 bytes. REPLIES is a file with the expected reply to each body, one reply
per line. Any other reply counts as an error. An empty line accepts any reply that is not empty.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STALL_TIMEOUT_SECONDS = 5.0
"""Seconds after which a run ends if no client has received an answer."""
_STALL_TIMEVAL = struct.pack("ll", int(STALL_TIMEOUT_SECONDS), 0)

_RECEIVE_BYTES = 1 << 18
KEPLER_READS = 4096
"""Kepler reads at most this number of bytes of a reply."""


def post(host: str, path: str, body: bytes) -> bytes:
    """Return a POST request with the headers that Kepler's Go client sends."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    ).encode() + body


def http_answer(received: bytes | bytearray) -> tuple[int, bool]:
    """Return the size in bytes of a whole HTTP answer, and whether its status is 200.

    `received` is the beginning of the answer. The size is 0 if the head of the answer is incomplete.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0, False
    head = received[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"the answer has no Content-Length: {bytes(head[:200])!r}")
    line_end = head.find(b"\r\n", at + 2)
    size = int(head[at + 17 : line_end if line_end > 0 else end])
    return end + 4 + size, head[9:12] == b"200"


class Client:
    """A client with one connection, on which at most one request waits for its answer."""

    __slots__ = ("ok", "received", "sent_at", "size", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = bytearray()
        self.size = 0
        self.ok = False
        self.sent_at = 0.0

    def complete(self, part: bytes, answer: Callable[[bytes | bytearray], tuple[int, bool]]) -> bool:
        """Add received bytes to the current answer, and return whether the answer is now complete."""
        if self.received or self.size:
            self.received += part
            if not self.size:
                self.size, self.ok = answer(self.received)
            if not self.size or len(self.received) < self.size:
                return False
            self.received.clear()
        else:
            self.size, self.ok = answer(part)
            if not self.size or len(part) < self.size:
                self.received += part
                return False
        self.size = 0
        return True


def receive(connection: socket.socket, most: int) -> bytes:
    """Return the bytes that a connection has received, at most `most`.

    The result is empty if the connection is closed, or if a blocking read has timed out.
    """
    try:
        return connection.recv(most)
    except (ConnectionError, BlockingIOError):
        return b""


def load(
    connect: Callable[[], socket.socket],
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    warm_up: float = 0.0,
    answer: Callable[[bytes | bytearray], tuple[int, bool]] = http_answer,
) -> dict[str, float]:
    """Put load on a server for `warm_up` + `seconds` seconds. Return the `statistics` of the time after the warm-up.

    `answer` is called with the beginning of an answer. It returns the size of the whole answer (0 if the size
    is not known yet), and whether the answer is a success. An answer that is not a success counts as
    an error. A connection that the server closes also counts as an error.
    """
    selector = selectors.DefaultSelector()
    clock = time.perf_counter
    upcoming = itertools.cycle(requests)
    latencies: list[float] = []
    errors = answered = 0

    def open_client() -> None:
        client = Client(connect())
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.sent_at = clock()
        client.socket.sendall(next(upcoming))

    cpu = time.process_time()
    for _ in range(clients):
        open_client()
    started = clock()
    counted_from = started + warm_up
    now, deadline = started, counted_from + seconds
    while now < deadline:
        ready = selector.select(STALL_TIMEOUT_SECONDS)
        if not ready:
            errors += clients
            now = deadline
        for key, _ in ready:
            client = key.data
            part = receive(client.socket, _RECEIVE_BYTES)
            now = clock()
            if not part:
                errors += 1
                selector.unregister(client.socket)
                client.socket.close()
                open_client()
                continue
            if not client.complete(part, answer):
                continue
            answered += 1
            if now >= counted_from:
                latencies.append(now - client.sent_at)
                errors += not client.ok
            client.sent_at = now
            client.socket.sendall(next(upcoming))
    load_cpu = (time.process_time() - cpu) / (clock() - started)
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return statistics(latencies, now - counted_from) | {"errors": errors, "answered": answered, "load_cpu": load_cpu}


def load_connections(
    path: str,
    requests: Sequence[bytes],
    replies: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    warm_up: float = 0.0,
) -> tuple[list[float], dict[str, float]]:
    """Put load on a unix socket, with a new connection for each request.

    The load begins with a warm-up of `warm_up` seconds. Return the latencies in seconds of all replies that arrive in
    the `seconds` seconds after the warm-up, and the numbers of errors and of answers. A latency begins before the
    client connects and ends with the reply. Without `replies`, any reply that is not empty counts as a success.
    """
    clock = time.perf_counter
    upcoming = itertools.cycle(zip(requests, replies or [b""] * len(requests), strict=True))
    poller = select.epoll()
    pending: dict[int, tuple[socket.socket, float, bytes]] = {}
    latencies: list[float] = []
    errors = answered = 0

    def open_connection() -> socket.socket:
        request, reply = next(upcoming)
        opened_at = clock()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        connection.sendall(request)
        pending[connection.fileno()] = connection, opened_at, reply
        if clients > 1:
            poller.register(connection, select.EPOLLIN)
        else:  # a single client needs no poller: it reads with blocking calls
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _STALL_TIMEVAL)
        return connection

    cpu = time.process_time()
    started = clock()
    counted_from = started + warm_up
    now, deadline = started, counted_from + seconds
    alone = [(open_connection().fileno(), 0) for _ in range(clients)]
    while now < deadline:
        ready = poller.poll(STALL_TIMEOUT_SECONDS) if clients > 1 else alone
        if not ready:
            errors += len(pending)
            now = deadline
        for number, _ in ready:
            connection, opened_at, expected = pending.pop(number)
            reply = receive(connection, KEPLER_READS)
            now = clock()
            connection.close()
            answered += 1
            if now >= counted_from:
                latencies.append(now - opened_at)
                errors += reply != expected if expected else not reply
            alone = [(open_connection().fileno(), 0)]
    load_cpu = (time.process_time() - cpu) / (clock() - started)
    for connection, _, _ in pending.values():
        connection.close()
    poller.close()
    counts = {"errors": errors, "answered": answered, "seconds": now - counted_from, "load_cpu": load_cpu}
    return latencies, counts


def load_from_processes(count: int, path: str, *rest: Any, clients: int, **more: Any) -> dict[str, float]:
    """Run `load_connections` in `count` processes, which share the clients; return the `statistics` of all replies.

    With one process, the load takes the least CPU per request (about 40 µs), so the server can use most of
    the CPU. With eight processes, a request takes 45 to 60 µs, because there are more context switches. But
    if other programs use the CPU too, eight processes get more CPU time than one process, and so reach more
    requests per second.
    """
    gc.disable()  # a garbage collection would lengthen latencies, and there are no reference cycles to collect
    if count == 1:
        results = [load_connections(path, *rest, clients=clients, **more)]
    else:
        with multiprocessing.get_context("fork").Pool(count) as pool:
            tasks = [
                pool.apply_async(load_connections, (path, *rest), more | {"clients": clients // count})
                for _ in range(count)
            ]
            results = [task.get() for task in tasks]
    counts = [counted for _, counted in results]
    seconds = max(counted["seconds"] for counted in counts)
    totals = {key: sum(counted[key] for counted in counts) for key in ("errors", "answered", "load_cpu")}
    return statistics([latency for latencies, _ in results for latency in latencies], seconds) | totals


def statistics(latencies: Sequence[float], seconds: float) -> dict[str, float]:
    """Return the number of requests, the requests per second, and percentiles of the latencies in milliseconds."""
    ordered = sorted(latencies)
    if not ordered:
        return {"requests": 0, "rate": 0.0, "p50": float("inf"), "p99": float("inf"), "max": float("inf")}
    last = len(ordered) - 1
    return {
        "requests": len(ordered),
        "rate": len(ordered) / seconds,
        "p50": 1e3 * ordered[round(0.5 * last)],
        "p99": 1e3 * ordered[round(0.99 * last)],
        "max": 1e3 * ordered[-1],
    }


def load_http(address: str, bodies: Sequence[bytes], clients: int, seconds: float, warm_up: float) -> dict[str, float]:
    url = urlsplit(address)
    host = (url.hostname or "127.0.0.1", url.port or 80)
    requests = [post(url.netloc, url.path or "/", body) for body in bodies]

    def connect() -> socket.socket:
        connection = socket.create_connection(host, timeout=STALL_TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    gc.disable()  # a garbage collection would lengthen latencies, and there are no reference cycles to collect
    return load(connect, requests, clients=clients, seconds=seconds, warm_up=warm_up)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.2)
    parser.add_argument("--replies", type=Path)
    parser.add_argument("--processes", type=int, default=1, help="number of processes for a unix socket's clients")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bodies = arguments.bodies.read_bytes().splitlines()
    if not bodies:
        parser.error(f"{arguments.bodies} is empty")
    kind, _, path = arguments.url.partition(":")
    if arguments.clients % arguments.processes or (kind != "unix" and arguments.processes > 1):
        parser.error("--processes needs a unix socket, and --clients must be a multiple of --processes")
    if kind == "unix":
        replies = arguments.replies.read_bytes().splitlines() if arguments.replies else []
        result = load_from_processes(
            arguments.processes,
            path,
            bodies,
            replies,
            clients=arguments.clients,
            seconds=arguments.seconds,
            warm_up=arguments.warm_up,
        )
    else:
        result = load_http(arguments.url, bodies, arguments.clients, arguments.seconds, arguments.warm_up)
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{result['rate']:.0f} requests/s with {arguments.clients} clients; ms: p50 {result['p50']:.2f}, "
        f"p99 {result['p99']:.2f}, max {result['max']:.2f}; {result['errors']} errors; "
        f"{100 * result['load_cpu']:.0f} % of a CPU for the load itself"
    )


if __name__ == "__main__":
    main()
