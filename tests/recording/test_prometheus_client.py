"""Test the client of Prometheus' HTTP API, the planning of queries, and the joining of their answers."""

from __future__ import annotations

import base64
import datetime
import email.utils
import gzip
import ipaddress
import itertools
import json
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.process import wait_for
from support.prometheus_process import Reply, answering
from support.server_process import check_one_line
from support.slow_servers import GENEROUS, SLOW_SERVERS, slow_server

from kepler_core.cli.prometheus import headers_of
from kepler_core.configuration import Configuration
from kepler_core.errors import PrometheusError, UsageError
from kepler_core.pipeline.load import load_pipeline
from kepler_core.prometheus import (
    PrometheusClient,
    Query,
    Selection,
    Server,
    answers,
    plan_queries,
    select_metrics,
    transport,
)
from kepler_core.prometheus.joining import joined_series

EMPTY = b'{"status":"success","data":{"resultType":"matrix","result":[]}}'


def ok(body: bytes = EMPTY) -> Reply:
    return 200, {"Content-Type": "application/json"}, body


def failing(status: int, error: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    return status, headers or {}, json.dumps({"status": "error", "errorType": "x", "error": error}).encode()


def parameters(path: str) -> dict[str, str]:
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))


def query_up(url: str, patience: float = 0.0, **more: Any) -> bytes:
    return PrometheusClient(Server(url, **more), patience=patience).matrix("/api/v1/query", {"query": "up"})


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://host", "http://", "http://host:port", "http://h?x=1", "http://h/#a", ""]
)
def test_wrong_urls_are_rejected(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        PrometheusClient(Server(url))
    check_one_line(caught.value)


def test_errors_do_not_show_the_password_of_the_url() -> None:
    client = PrometheusClient(Server("http://me:secret@127.0.0.1:1/prefix/"), patience=0)
    assert client.location == "http://127.0.0.1:1/prefix"
    with pytest.raises(PrometheusError) as caught:
        client.now()
    assert caught.value.kind == "unreachable"
    assert "secret" not in str(caught.value)
    check_one_line(caught.value)
    with pytest.raises(UsageError) as wrong:
        PrometheusClient(Server("http://me:secret@127.0.0.1:1/?a"))
    assert "secret" not in str(wrong.value)


def basic(user_and_password: bytes) -> str:
    return "Basic " + base64.b64encode(user_and_password).decode()


@pytest.mark.parametrize(
    ("credentials", "arguments", "sent"),
    [
        ("", {}, None),
        ("", {"username": "me", "password": "pä:ss"}, basic("me:pä:ss".encode("latin-1"))),
        ("me:p%40ss@", {}, basic(b"me:p@ss")),
        ("", {"token": "abc.def"}, "Bearer abc.def"),
    ],
)  # fmt: skip
def test_authentication(credentials: str, arguments: dict[str, str], sent: str | None) -> None:
    received: list[str | None] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        lowercase = {name.casefold(): value for name, value in headers.items()}
        received.append(lowercase.get("authorization"))
        return ok()

    with answering(reply) as url:
        address = url.replace("://", "://" + credentials)
        assert json.loads(query_up(address, **arguments)) == []
    assert received == [sent]


def test_wrong_credentials_are_rejected() -> None:
    with pytest.raises(UsageError):
        PrometheusClient(Server("http://h", username="a", token="b"))
    with pytest.raises(UsageError, match="token"):
        PrometheusClient(Server("http://h", token="a\r\nHost: evil"))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((401, {}, b""), "access"),
        ((403, {}, b"<html>"), "access"),
        ((404, {}, b"not found"), "refused"),
        (failing(400, "parse error\nat char 3"), "refused"),
        (failing(422, "query processing would load too many samples into memory"), "too large"),
        (failing(400, "exceeded maximum resolution of 11,000 points per timeseries."), "too large"),
        (failing(503, "starting"), "unavailable"),
        (ok(b"<html>a login page</html>"), "answer"),
        (ok(b""), "answer"),
        (ok(b'{"status":"success"}'), "answer"),
        (ok(b'{"status":"success","data":{"resultType":"vector","result":[]}}'), "answer"),
        (failing(422, "cannot select more than -search.maxSamplesPerQuery=1000 samples"), "too large"),
        (failing(422, "the number of matching timeseries exceeds 30; see -search.maxUniqueTimeseries"), "too large"),
        (failing(422, "the query exceeded the maximum number of chunks (limit: 5) (err-mimir-...)"), "too large"),
        (failing(422, "exceeded series limit: rpc error: limit 1 violated (got 2)"), "too large"),
        (failing(422, "proxy Series(): rpc error: code = Unavailable desc = no connection"), "unavailable"),
        ((413, {}, b"<html>Request Entity Too Large</html>"), "too large"),
        (
            failing(429, "the request has been rejected because the tenant exceeded the request rate limit"),
            "unavailable",
        ),
        (failing(503, "query timed out in query execution"), "timeout"),
        (failing(422, "timeout exceeded during query execution: 30.000 seconds"), "timeout"),
        (failing(503, "couldn't start the query, since -search.maxConcurrentRequests=8 are executed"), "unavailable"),
        ((504, {}, b"<html>Gateway Time-out</html>"), "timeout"),
        ((401, {}, b"no org id\n"), "access"),
        (ok(b'{"status":"error","errorType":"timeout","error":"query timed out"}'), "timeout"),
        (ok(EMPTY[:-1] + b',"isPartial":true}'), "partial"),
        (ok(EMPTY[:-1] + b',"warnings":["a store did not answer"]}'), "partial"),
        ((200, {"Content-Length": "500"}, EMPTY), "unreachable"),
        ((200, {"Content-Encoding": "gzip"}, EMPTY), "unreachable"),
    ],
)
def test_errors_have_a_kind(reply: Reply, kind: str) -> None:
    with answering(lambda path, headers: reply) as url, pytest.raises(PrometheusError) as caught:
        query_up(url)
    assert caught.value.kind == kind
    check_one_line(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_an_error(body: bytes) -> None:
    client = PrometheusClient(Server("http://h"))
    try:
        assert isinstance(client._data(body), bytes)
    except PrometheusError as error:
        check_one_line(error)


def test_only_temporary_errors_are_retried() -> None:
    replies = [failing(503), (200, {"Content-Length": "500"}, b"{"), failing(429, headers={"Retry-After": "0"}), ok()]
    requests: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        requests.append(path)
        return replies[len(requests) - 1]

    with answering(reply) as url:
        assert json.loads(query_up(url, patience=60)) == []
        assert len(requests) == 4
        replies[:] = [failing(400, "wrong")]
        requests.clear()
        with pytest.raises(PrometheusError):
            query_up(url, patience=60)
        assert len(requests) == 1


@pytest.mark.parametrize(
    ("retry_after", "patience", "n_requests"), [("2", 60, 2), ("http-date", 60, 2), ("2", 1, 1), ("9" * 400, 60, 1)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_server_chooses_the_time_of_the_next_request(
    status: int, retry_after: str, patience: float, n_requests: int
) -> None:
    """Before it repeats a request, the client waits as long as the header Retry-After demands.

    If the header demands more than the client's patience, the client raises the error of the answer at once.
    The client does not use retries of urllib3, which would raise an error without headers after an answer 503.
    """
    times: list[float] = []
    after = email.utils.formatdate(time.time() + 3, usegmt=True) if retry_after == "http-date" else retry_after

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        times.append(time.monotonic())
        return failing(status, "busy", {"Retry-After": after}) if len(times) == 1 else ok()

    with answering(reply) as url:
        if n_requests == 2:
            assert json.loads(query_up(url, patience)) == []
            assert times[1] - times[0] > 1.5
        else:
            with pytest.raises(PrometheusError, match=f"status {status}: busy") as caught:
                query_up(url, patience)
            assert caught.value.kind == "unavailable"
        assert len(times) == n_requests


@pytest.mark.parametrize("kind", SLOW_SERVERS)
@pytest.mark.parametrize("end", ["deadline", "stop"])
def test_a_request_to_a_slow_server_ends_and_closes_its_connection(kind: str, end: str) -> None:
    """A request ends at its deadline, or as soon as the event `stop` is set."""
    pieces, repeat = SLOW_SERVERS[kind]
    stop = threading.Event()
    with slow_server(*pieces, repeat=repeat) as server:
        seconds = 1.0 if end == "deadline" else 600.0
        client = PrometheusClient(Server(server.url), patience=0, request_seconds=seconds, stop=stop)
        if end == "stop":
            threading.Timer(1.0, stop.set).start()
        started = time.monotonic()
        with pytest.raises(PrometheusError) as caught:
            client.now()
        assert time.monotonic() - started < GENEROUS
        assert caught.value.kind == ("unreachable" if end == "deadline" else "stopped")
        check_one_line(caught.value)
        wait_for(lambda: server.open_connections == 0, "the connection is still open", GENEROUS)


def test_an_interruption_ends_all_requests() -> None:
    pieces, repeat = SLOW_SERVERS["a-byte-at-a-time-of-the-body"]
    with slow_server(*pieces, repeat=repeat) as server:
        client = PrometheusClient(Server(server.url), patience=600)
        queries = plan_queries([Selection(f"m{n}") for n in range(8)], 0, 10, 1)
        threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(answers(client, queries))
        assert time.monotonic() - started < GENEROUS
        wait_for(lambda: server.open_connections == 0, "a connection is still open", GENEROUS)


def test_the_packed_and_the_unpacked_bytes_of_an_answer_are_bounded() -> None:
    """An answer of 0.7 MB that would unpack to 700 MB is rejected without using much memory."""
    blanks = gzip.compress(EMPTY[:-3] + b" " * 700_000_000, compresslevel=1)
    with answering(lambda path, headers: (200, {"Content-Encoding": "gzip"}, blanks)) as url:
        code = f"""
from pathlib import Path
from kepler_core.prometheus import PrometheusClient, Server
try:
    PrometheusClient(Server({url!r}), patience=0).matrix("/api/v1/query", {{}})
except Exception as error:
    print(error.kind)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kind, peak_kib = done.stdout.splitlines()
    assert kind == "too large"
    assert int(peak_kib) < 300 * 1024


@pytest.mark.parametrize("packed", [True, False])
def test_an_answer_beyond_the_bound_is_too_large(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_PACKED_BYTES", 1000)
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 100_000)
    body = EMPTY[:-1] + b" " * 100_000 + b"}"
    noise = EMPTY[:-1] + b',"x":"' + base64.b64encode(random.Random(1).randbytes(5000)) + b'"}'

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        return (200, {"Content-Encoding": "gzip"}, gzip.compress(noise)) if packed else (200, {}, body)

    with answering(reply) as url, pytest.raises(PrometheusError) as caught:
        query_up(url)
    assert caught.value.kind == "too large"


def test_the_error_of_a_packed_answer_is_shown() -> None:
    status, _, body = failing(400, "parse error")
    with (
        answering(lambda path, headers: (status, {"Content-Encoding": "gzip"}, gzip.compress(body))) as url,
        pytest.raises(PrometheusError, match="parse error"),
    ):
        query_up(url)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "deflate", "x" * 5000])
def test_only_gzip_is_unpacked(encoding: str) -> None:
    with (
        answering(lambda path, headers: (200, {"Content-Encoding": encoding}, EMPTY)) as url,
        pytest.raises(PrometheusError, match="not with gzip") as caught,
    ):
        query_up(url)
    check_one_line(caught.value)


def test_the_stop_event_ends_the_retries() -> None:
    stop = threading.Event()
    client = PrometheusClient(Server("http://127.0.0.1:1"), patience=3600, stop=stop)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(PrometheusError):
        client.now()


TOO_LONG = {
    "Prometheus": failing(422, "query processing would load too many samples into memory in query execution"),
    "VictoriaMetrics": failing(422, "cannot select more than -search.maxSamplesPerQuery=1000 samples"),
    "a timeout": failing(503, "query timed out in query execution"),
    "a timeout of a proxy": (504, {}, b"<html>Gateway Time-out</html>"),
}
"""Error answers to a query whose time range is too long for the server. A key describes the answer."""


@pytest.mark.parametrize("kind", TOO_LONG)
def test_a_query_that_is_too_large_is_split(kind: str) -> None:
    spans: list[tuple[float, float]] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        query = parameters(path)
        start, end = float(query["start"]), float(query["end"])
        if end - start > 100:
            return TOO_LONG[kind]
        spans.append((start, end))
        return ok()

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=600)  # a client that repeated timeouts would need ten minutes
        ((query, results),) = answers(client, plan_queries([Selection("m")], 0, 999, 3))
    assert query.metric == "m"
    assert len(results) == len(spans) == 16
    points = sorted(t for start, end in spans for t in range(int(start), int(end) + 1, 3))
    assert points == list(range(0, 1000, 3))


def test_later_queries_of_a_metric_are_split_before_they_fail() -> None:
    """After a query of a metric has timed out, the client divides the metric's later queries into shorter time ranges.

    It does not wait until they fail, because each timeout can take minutes.
    """
    lengths: list[float] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        query = parameters(path)
        lengths.append(float(query["query"].partition("[")[2].partition("ms")[0]) / 1000)
        return TOO_LONG["a timeout"] if lengths[-1] > 1000 else ok()

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=0)
        assert len(list(answers(client, plan_queries([Selection("m")], 0, 36_000, None), jobs=1))) == 10
    assert sum(length > 1000 for length in lengths) == 2  # only the queries for one hour and half an hour


def test_a_query_that_always_times_out_is_not_split_without_end() -> None:
    requests: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        requests.append(path)
        return TOO_LONG["a timeout"]

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=0)
        with pytest.raises(PrometheusError, match=r"m: .*timed out") as caught:
            list(answers(client, plan_queries([Selection("m")], 0, 3600, None), jobs=1))
    assert caught.value.kind == "timeout"
    assert len(requests) < 10


def test_headers_are_sent_but_not_to_another_host() -> None:
    received: list[str | None] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        received.append({name.casefold(): value for name, value in headers.items()}.get("x-scope-orgid"))
        return ok()

    with answering(reply) as url:
        elsewhere = url.replace("127.0.0.1", "localhost")
        assert json.loads(query_up(url, headers={"X-Scope-OrgID": "team-a"})) == []
        with answering(lambda path, headers: (302, {"Location": f"{elsewhere}{path}"}, b"")) as first:
            query_up(first, headers={"X-Scope-OrgID": "team-a"})
    assert received == ["team-a", None]


def test_headers_come_from_options_and_from_the_configuration(tmp_path: Path) -> None:
    configuration = Configuration(str(tmp_path), {})
    assert headers_of([], configuration) == {}
    (tmp_path / "PROM_HEADERS").write_text("X-Scope-OrgID: a\n\nX-Key:b:c \n")
    assert headers_of([], configuration) == {"X-Scope-OrgID": "a", "X-Key": "b:c"}
    assert headers_of(["x-scope-orgid: d"], configuration) == {"X-Key": "b:c", "x-scope-orgid": "d"}
    environ = {"PROM_HEADERS": "X-Key: e"}
    assert headers_of([], Configuration(str(tmp_path), environ)) == {"X-Key": "e"}


@pytest.mark.parametrize(
    "header",
    ["SECRET", ": SECRET", "a b: SECRET", "X-Key: SECRET\r\nHost: evil", "X-Key: SECRETä", "X-Key:", "Host: SECRET"],
)
def test_wrong_headers_are_rejected_without_showing_their_value(header: str) -> None:
    with pytest.raises(UsageError) as caught:
        headers_of([header], Configuration("/none", {}))
    check_one_line(caught.value)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(UsageError, match="twice"):
        headers_of(["X-Key: a", "x-key: b"], Configuration("/none", {}))
    assert "SECRET" not in repr(Server("http://h", headers={"X-Key": "SECRET"}))


def test_jobs_limits_the_requests_at_a_time() -> None:
    lock, most, now = threading.Lock(), [0], [0]
    all_running = threading.Event()

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 3:
                all_running.set()
        all_running.wait(5)
        with lock:
            now[0] -= 1
        return ok()

    with answering(reply) as url:
        queries = plan_queries([Selection(f"m{n}") for n in range(20)], 0, 10, 1)
        metrics = [query.metric for query, _ in answers(PrometheusClient(Server(url)), queries, jobs=3)]
    assert sorted(metrics) == sorted(f"m{n}" for n in range(20))
    assert most[0] == 3


def test_queries_are_planned_within_the_server_limits() -> None:
    queries = plan_queries([Selection("m")], 1_000_000.5, 1_000_000.5 + 100_000, 3)
    assert [(q.end - q.start) // 3000 + 1 for q in queries] == [11_000, 11_000, 11_000, 334]
    assert all(b.start - a.end == 3000 for a, b in itertools.pairwise(queries))
    raw = plan_queries([Selection("m")], 0, 7200, None)
    assert [(q.start, q.end) for q in raw] == [(0, 3_599_999), (3_600_000, 7_200_000)]
    path, query = raw[0].request()
    assert (path, query) == ("/api/v1/query", {"query": "m[3600000ms]", "time": "3599.999"})
    path, query = Query(Selection("a b", ('x="y"',)), 0, 6000, 3000).request()
    assert path == "/api/v1/query_range"
    assert query["query"] == 'last_over_time({__name__="a b",x="y"}[2999ms])'


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=12, unique_by=lambda p: p[0]), max_size=4
    ),
    st.lists(st.integers(0, 50), max_size=5),
)
def test_joined_parts_equal_the_whole(series: list[list[tuple[int, int]]], cuts: list[int]) -> None:
    """A sample at the boundary between two time ranges occurs only once in the joined series.

    A server may return such a sample in the answer for each of the two time ranges.
    """
    whole = {n: sorted([t, str(v)] for t, v in samples) for n, samples in enumerate(series)}
    edges = [-1, *sorted(set(cuts)), 50]
    results = []
    for start, end in itertools.pairwise(edges):
        part = [
            {"metric": {"n": str(n)}, "values": [s for s in samples if start <= s[0] <= end]}
            for n, samples in whole.items()
        ]
        results.append(json.dumps([p for p in part if p["values"]]).encode())
    joined = {int(s["metric"]["n"]): s["values"] for s in json.loads(joined_series(results))}
    assert joined == {n: samples for n, samples in whole.items() if samples}


NAMES = [
    "kepler_container_bpf_cpu_time_ms_total", "kepler_container_bpf_page_cache_hit_total",
    "kepler_container_cpu_cycles_total", "kepler_process_bpf_cpu_time_ms_total",
    "kepler_process_bpf_page_cache_hit_total", "kepler_node_package_joules_total",
    "kepler_node_platform_joules_total", "kepler_vm_package_joules_total", "kepler_node_node_info", "up", "node_load1",
]  # fmt: skip


def test_only_metrics_that_a_pipeline_needs_are_selected(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "p.yaml"
    path.write_text(
        "energy_sources: [rapl]\nfeature_groups: [BPFOnly, ThirdParty]\nthird_party: [node_load1]\n"
        "abs_trainers: [LinearRegressionTrainer]\n"
    )
    spec = load_pipeline(path)
    selections = select_metrics(NAMES, spec=spec, instance="a.*", matchers=('c="1"',))
    selected = {s.metric: s.matchers for s in selections}
    node = 'instance=~"a.*"'
    assert selected == {
        "kepler_container_bpf_cpu_time_ms_total": (node, 'c="1"'),
        "kepler_container_bpf_page_cache_hit_total": (node, 'c="1"'),
        "kepler_node_package_joules_total": (selected["kepler_node_package_joules_total"][0], node, 'c="1"'),
        "node_load1": ('c="1"',),
    }
    assert selected["kepler_node_package_joules_total"][0].startswith('source=~"')
    assert "rapl\\\\-sysfs" in selected["kepler_node_package_joules_total"][0]
    vm = load_pipeline(path, settings=["use_vm_metrics=true", "feature_groups=[BPFOnly]", "third_party=[]"])
    assert {s.metric: s.matchers for s in select_metrics(NAMES, spec=vm)} == {
        "kepler_process_bpf_cpu_time_ms_total": ('job="vm"',),
        "kepler_process_bpf_page_cache_hit_total": ('job="vm"',),
        "kepler_vm_package_joules_total": (selected["kepler_node_package_joules_total"][0],),
    }
    guests = load_pipeline(path, settings=["use_vm_metrics=true", 'vm_guests={"vm-1:9100": "vm-1"}'])
    assert {s.matchers for s in select_metrics(NAMES, spec=guests) if "process" in s.metric} == {()}
    assert {s.metric for s in select_metrics(NAMES)} == {n for n in NAMES if n.startswith("kepler_")}
    assert select_metrics(["up"]) == []


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its private key; return the paths of both files."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, private


def test_tls_certificates_are_verified(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(EMPTY)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(PrometheusError) as caught:
            query_up(url, patience=60)  # the client does not wait, because a TLS error is not temporary
        assert caught.value.kind == "TLS"
        check_one_line(caught.value)
        assert json.loads(query_up(url, ca_file=str(pem))) == []
        assert json.loads(query_up(url, verify=False)) == []
        with pytest.raises(UsageError, match="no such file"):
            query_up(url, ca_file=str(tmp_path / "none.pem"))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "location",
    ["http://[", "http://[::1", "//", "ftp://127.0.0.1/", "http://127.0.0.1:x/", "http://\xff\xfe/", "/again"],
)
def test_odd_redirects_are_errors(location: str) -> None:
    with (
        answering(lambda path, headers: (302, {"Location": location, "Retry-After": "3600"}, b"")) as url,
        pytest.raises(PrometheusError) as caught,
    ):
        query_up(url)
    check_one_line(caught.value)


def test_malformed_headers_are_not_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Malformed headers are an error, and are not logged. urllib3 would log a traceback and the text from the server.

    The headers after the malformed one are lost, so the client waits for the end of the answer until its time limit.
    """
    monkeypatch.setattr(transport, "READ_TIMEOUT_SECONDS", 0.5)
    with slow_server(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\n{}") as server:
        client = PrometheusClient(Server(server.url), patience=0)
        with pytest.raises(PrometheusError):
            client.now()
    assert not caplog.records
