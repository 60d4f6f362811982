"""Fuzz answers of a Prometheus server: each is used completely, or rejected with a one-line `KeplerError`."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from typing import Any

import pytest
from fuzz.test_recordings import labels, samples, values
from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz
from support.prometheus_answers import END, REFUSED, START, USED
from support.server_process import check_one_line

from kepler_core.errors import KeplerError, PrometheusError
from kepler_core.prometheus import PrometheusClient, Selection, Server, answers, plan_queries
from kepler_core.prometheus.joining import recording_bytes
from kepler_core.recording import observe, read_recording

METRIC = "kepler_node_package_joules_total"

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
good_samples = st.lists(st.integers(START, END), max_size=10).map(lambda times: [[time, str(time)] for time in times])
series = st.fixed_dictionaries(
    {"metric": labels | anything}, optional={"values": good_samples | samples | anything, "histograms": anything}
)
results = st.lists(series | anything, max_size=5) | anything | st.tuples(anything, values)
kinds = st.sampled_from(["matrix", "matrix", "vector", "scalar", "string"]) | anything
data = st.fixed_dictionaries({}, optional={"resultType": kinds, "result": results}) | st.lists(anything) | anything
bodies = st.fixed_dictionaries(
    {"status": st.sampled_from(["success", "success", "error"]) | anything},
    optional={"data": data, "error": anything, "errorType": anything, "warnings": anything, "isPartial": anything},
)
documents = st.sampled_from([*REFUSED.values(), *(body for body, _ in USED.values())]) | bodies.map(
    lambda body: json.dumps(body).encode()
)


class ScriptedServer:
    """A server that sends the bytes `reply` on every connection, and then closes the connection."""

    def __init__(self) -> None:
        self.reply = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    connection.settimeout(5.0)
                    connection.recv(2**16)
                    connection.sendall(self.reply)
                except OSError:
                    continue


@pytest.fixture(scope="module")
def server() -> ScriptedServer:
    return ScriptedServer()


def check_answer(client: PrometheusClient) -> None:
    """Ask a server for its time, its metric names and one metric. An error must be one line.

    Also make observations from the recording of the metric.
    """
    for ask in (client.now, lambda: client.metric_names(START, END)):
        try:
            ask()
        except PrometheusError as error:
            check_one_line(error)
    try:
        parts = [result for _, result in answers(client, plan_queries([Selection(METRIC)], START, END, None), jobs=1)]
        recording = read_recording(recording_bytes({METRIC: [result for part in parts for result in part]}))
        observe([recording])
    except PrometheusError as error:
        check_one_line(error)
        if error.kind == "answer" and not str(error).startswith(METRIC):
            raise AssertionError("the error does not name the metric") from error
    except KeplerError as error:
        check_one_line(error, longest=2000)


def http(status: bytes, headers: dict[bytes, bytes], body: bytes) -> bytes:
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers.items())
    return b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n" + body


def test_answers(server: ScriptedServer) -> None:
    client = PrometheusClient(Server(server.url), patience=0, request_seconds=10)

    def check(body: bytes) -> None:
        server.reply = http(b"200 OK", {b"Content-Length": b"%d" % len(body)}, body)
        check_answer(client)

    fuzz(documents | damaged(documents), check)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Generate a random HTTP answer with its status line and headers. The answer is often damaged."""
    body = draw(documents)
    headers: dict[bytes, bytes] = {}
    if draw(st.booleans()):
        headers[b"Content-Encoding"] = draw(st.sampled_from([b"gzip", b"x-gzip", b"br", b"gzip, gzip", b"", b"\xff"]))
        body = gzip.compress(body, mtime=0)
    length = draw(st.sampled_from([b"%d" % len(body), b"%d" % (len(body) + 5), b"-1", b"x", b"9" * 5000]))
    framing: Any = draw(
        st.sampled_from(
            [{b"Content-Length": length}, {}, {b"Transfer-Encoding": b"chunked"}, {b"Retry-After": b"9" * 40}]
        )
    )
    if b"Transfer-Encoding" in framing:
        body = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    if draw(st.booleans()):
        framing[b"Location"] = draw(st.sampled_from([b"/x", b"http://[", b"ftp://x", b"\xff", b"http://127.0.0.1:1/"]))
    status = draw(
        st.sampled_from([b"200 OK", b"200 OK", b"302 Found", b"400 Bad", b"503 Busy", b"999", b"100 Continue"])
    )
    reply = http(status, headers | framing, body)
    return draw(damaged(st.just(reply))) if draw(st.booleans()) else reply


def test_http_answers(server: ScriptedServer) -> None:
    client = PrometheusClient(Server(server.url), patience=0, request_seconds=10)

    def check(reply: bytes) -> None:
        server.reply = reply
        check_answer(client)

    fuzz(replies(), check)
