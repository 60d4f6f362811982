"""Load on a server: N clients, each of which sends its next request when its answer is complete.

One process and one thread, requests made beforehand: it takes little of the CPU that it has to share
with the server. Without `--json` prints requests per second and latencies.

    python bench/load.py http://127.0.0.1:8100/model BODIES [--clients 16] [--seconds 3] [--json]
    python bench/load.py unix:/tmp/estimator.sock BODIES [--replies REPLIES] [--processes 8] [...]

BODIES is a file with one request body per line; they are sent in turn. HTTP clients keep their
connection. Those of a unix socket do as Kepler does: a new connection for each request, nothing after
it, one read of 4096 bytes. REPLIES has the right reply to each body; another one is an error.
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

STALLED = 5.0
"""Seconds without any answer after which a run ends."""

_PART = 1 << 18
KEPLER_READS = 4096


def post(host: str, path: str, body: bytes) -> bytes:
    """An HTTP request as Kepler's Go client sends it."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    ).encode() + body


def http_answer(begun: bytes | bytearray) -> tuple[int, bool]:
    """The size of the answer that begins so (0: its head is not complete), and whether it is a 200."""
    end = begun.find(b"\r\n\r\n")
    if end < 0:
        return 0, False
    head = begun[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {bytes(head[:200])!r}")
    line_end = head.find(b"\r\n", at + 2)
    size = int(head[at + 17 : line_end if line_end > 0 else end])
    return end + 4 + size, head[9:12] == b"200"


class Client:
    """One connection with at most one request under way."""

    __slots__ = ("begun", "ok", "sent_at", "size", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.begun = bytearray()
        self.size = 0
        self.ok = False
        self.sent_at = 0.0


def load(
    connect: Callable[[], socket.socket],
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    warm_up: float = 0.0,
    answer: Callable[[bytes | bytearray], tuple[int, bool]] = http_answer,
) -> dict[str, float]:
    """Put the load on for `warm_up` + `seconds`; what was answered in the latter, see `figures`.

    `answer` tells from the beginning of an answer how long it is and whether it is a good one. An
    answer that is not, and a connection that is closed, are errors.
    """
    selector = selectors.DefaultSelector()
    clock = time.perf_counter
    waiting = itertools.cycle(requests)
    latencies: list[float] = []
    errors = answered = 0

    def open_client() -> None:
        client = Client(connect())
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.sent_at = clock()
        client.socket.sendall(next(waiting))

    cpu = time.process_time()
    for _ in range(clients):
        open_client()
    started = clock()
    counted = started + warm_up
    deadline = now = counted + seconds
    while True:
        ready = selector.select(STALLED)
        if not ready:
            errors += clients
            break
        for key, _ in ready:
            client = key.data
            try:
                part = client.socket.recv(_PART)
            except ConnectionError:
                part = b""
            now = clock()
            if not part:
                errors += 1
                selector.unregister(client.socket)
                client.socket.close()
                open_client()
                continue
            if client.begun or client.size:
                client.begun += part
                if not client.size:
                    client.size, client.ok = answer(client.begun)
                if not client.size or len(client.begun) < client.size:
                    continue
                client.begun.clear()
            else:
                client.size, client.ok = answer(part)
                if not client.size or len(part) < client.size:
                    client.begun += part
                    continue
            client.size = 0
            answered += 1
            if now >= counted:
                latencies.append(now - client.sent_at)
                errors += not client.ok
            client.sent_at = now
            client.socket.sendall(next(waiting))
        if now >= deadline:
            break
    elapsed = clock() - started
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    return {
        **figures(latencies, now - counted),
        "errors": errors,
        "answered": answered,
        "load_cpu": (time.process_time() - cpu) / elapsed,
    }


def load_connections(
    path: str,
    requests: Sequence[bytes],
    replies: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    warm_up: float = 0.0,
) -> tuple[list[float], dict[str, float]]:
    """Put the load on a unix socket, with a new connection for each request.

    The latencies of `seconds` after `warm_up`, from before the connection to the reply, and what else
    was counted. Without `replies`, any reply is a good one.
    """
    clock = time.perf_counter
    waiting = itertools.cycle(zip(requests, replies or [b""] * len(requests), strict=True))
    poller = select.epoll()
    under_way: dict[int, tuple[socket.socket, float, bytes]] = {}
    latencies: list[float] = []
    errors = answered = 0
    stalled = struct.pack("ll", int(STALLED), 0)

    def open_connection() -> socket.socket:
        request, reply = next(waiting)
        began = clock()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        connection.sendall(request)
        number = connection.fileno()
        under_way[number] = connection, began, reply
        if clients > 1:
            poller.register(number, select.EPOLLIN)
        else:  # its read waits
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stalled)
        return connection

    cpu = time.process_time()
    started = clock()
    counted = started + warm_up
    deadline = now = counted + seconds
    alone = [(open_connection().fileno(), 0) for _ in range(clients)]
    while True:
        ready = poller.poll(STALLED) if clients > 1 else alone
        if not ready:
            errors += len(under_way)
            break
        for number, _ in ready:
            connection, began, wanted = under_way.pop(number)
            try:
                reply = connection.recv(KEPLER_READS)
            except (ConnectionError, BlockingIOError):
                reply = b""
            now = clock()
            connection.close()
            answered += 1
            if now >= counted:
                latencies.append(now - began)
                errors += reply != wanted if wanted else not reply
            alone = [(open_connection().fileno(), 0)]
        if now >= deadline:
            break
    elapsed = clock() - started
    for connection, _, _ in under_way.values():
        connection.close()
    poller.close()
    counts = {"errors": errors, "answered": answered, "seconds": now - counted}
    return latencies, counts | {"load_cpu": (time.process_time() - cpu) / elapsed}


def load_from_processes(count: int, path: str, *rest: Any, clients: int, **more: Any) -> dict[str, float]:
    """The same from several processes, which share the clients; see `figures`.

    One process takes the least CPU per request (about 40 µs; eight take 45 to 60, with more changes
    between processes), so it leaves the server the most. Where much else runs on the machine, eight get
    a larger part of it than one, and show more requests per second.
    """
    gc.disable()  # nothing here is a cycle, and a collection would be somebody's latency
    if count == 1:
        found = [load_connections(path, *rest, clients=clients, **more)]
    else:
        with multiprocessing.get_context("fork").Pool(count) as pool:
            tasks = [
                pool.apply_async(load_connections, (path, *rest), more | {"clients": clients // count})
                for _ in range(count)
            ]
            found = [task.get() for task in tasks]
    counts = [counted for _, counted in found]
    seconds = max(counted["seconds"] for counted in counts)
    totals = {key: sum(counted[key] for counted in counts) for key in ("errors", "answered", "load_cpu")}
    return figures([latency for latencies, _ in found for latency in latencies], seconds) | totals


def figures(latencies: Sequence[float], seconds: float) -> dict[str, float]:
    """Requests per second, and latencies in ms."""
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
        connection = socket.create_connection(host, timeout=STALLED)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    gc.disable()  # nothing here is a cycle, and a collection would be somebody's latency
    return load(connect, requests, clients=clients, seconds=seconds, warm_up=warm_up)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=0.2)
    parser.add_argument("--replies", type=Path)
    parser.add_argument("--processes", type=int, default=1, help="that share the clients of a unix socket")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bodies = arguments.bodies.read_bytes().splitlines()
    if not bodies:
        parser.error(f"{arguments.bodies} is empty")
    kind, _, path = arguments.url.partition(":")
    if arguments.clients % arguments.processes or (kind != "unix" and arguments.processes > 1):
        parser.error("--processes: only for unix sockets, and each gets as many clients")
    if kind == "unix":
        replies = arguments.replies.read_bytes().splitlines() if arguments.replies else []
        found = load_from_processes(
            arguments.processes,
            path,
            bodies,
            replies,
            clients=arguments.clients,
            seconds=arguments.seconds,
            warm_up=arguments.warm_up,
        )
    else:
        found = load_http(arguments.url, bodies, arguments.clients, arguments.seconds, arguments.warm_up)
    if arguments.json:
        print(json.dumps(found))
        return
    print(
        f"{found['rate']:.0f} requests/s with {arguments.clients} clients; ms: p50 {found['p50']:.2f}, "
        f"p99 {found['p99']:.2f}, max {found['max']:.2f}; {found['errors']} errors; "
        f"{100 * found['load_cpu']:.0f} % of a CPU for the load itself"
    )


if __name__ == "__main__":
    main()
