"""The client of Prometheus' HTTP API: requests, answers and errors; queries and their joined answers."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import itertools
import json
import ssl
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.prometheus_process import Reply, answering
from support.server_process import check_one_line

from kepler_core.errors import PrometheusError, UsageError
from kepler_core.pipeline.load import load_pipeline
from kepler_core.prometheus import PrometheusClient, Query, Selection, Server, answers, plan_queries, select_metrics
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
        (ok(b'{"status":"error","errorType":"timeout","error":"query timed out"}'), "refused"),
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


def test_the_stop_event_ends_the_retries() -> None:
    stop = threading.Event()
    client = PrometheusClient(Server("http://127.0.0.1:1"), patience=3600, stop=stop)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(PrometheusError):
        client.now()


def test_a_query_that_is_too_large_is_split() -> None:
    spans: list[tuple[float, float]] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        query = parameters(path)
        start, end = float(query["start"]), float(query["end"])
        if end - start > 100:
            return failing(422, "query processing would load too many samples into memory in query execution")
        spans.append((start, end))
        return ok()

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=0)
        ((query, results),) = answers(client, plan_queries([Selection("m")], 0, 999, 3))
    assert query.metric == "m"
    assert len(results) == len(spans) == 16
    points = sorted(t for start, end in spans for t in range(int(start), int(end) + 1, 3))
    assert points == list(range(0, 1000, 3))


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
    assert [(q.start, q.end) for q in raw] == [(0, 3_599_999), (3_600_000, 7_199_999), (7_200_000, 7_200_000)]
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
    """A server may return the sample on an edge in both parts."""
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
    assert {s.metric for s in select_metrics(NAMES)} == {n for n in NAMES if n.startswith("kepler_")}
    assert select_metrics(["up"]) == []


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key; return both paths."""
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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(PrometheusError) as caught:
            query_up(url, patience=60)  # no retry: the error is not temporary
        assert caught.value.kind == "TLS"
        check_one_line(caught.value)
        assert json.loads(query_up(url, ca_file=str(pem))) == []
        assert json.loads(query_up(url, verify=False)) == []
        with pytest.raises(UsageError, match="no such file"):
            query_up(url, ca_file=str(tmp_path / "none.pem"))
    finally:
        server.shutdown()
        server.server_close()
