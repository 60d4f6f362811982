"""Test that the series of a fleet are queried completely, in shards of instances, from servers with limits."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.generated_fleet import ENERGY, START, USAGE, GeneratedFleet
from support.prometheus_process import Reply, answering

from kepler_core.cli.main import cli
from kepler_core.deadlines import Deadline
from kepler_core.errors import PrometheusError
from kepler_core.prometheus import PrometheusClient, Query, Selection, Server, answers, plan_queries
from kepler_core.prometheus.instances import MAX_MATCHER_BYTES, instance_matcher, shards_of
from kepler_core.prometheus.pacing import Pace
from kepler_core.recording import read_recording

SECONDS = 1200
"""Length of the queried time range."""
EMPTY = b'{"status":"success","data":{"resultType":"matrix","result":[]}}'


def query(url: str, output: Path, *arguments: str) -> None:
    span = ["--start", str(START), "--end", str(START + SECONDS), "-o", str(output)]
    cli.main(["query", "--server", url, "--patience", "0s", *span, *arguments], standalone_mode=False)


def expected_counts(fleet: GeneratedFleet) -> dict[str, int]:
    """Return the number of samples of each metric in the queried time range."""
    per_series = int(SECONDS / fleet.interval)
    return {ENERGY: fleet.nodes * per_series, **dict.fromkeys(USAGE, fleet.nodes * fleet.containers * per_series)}


def listed(paths: Sequence[str]) -> list[int]:
    """Return the number of instances that each query for samples names; 0 for all instances."""
    queries = [query for path in paths if "ms]" in (query := urllib.parse.unquote_plus(path))]
    named = [re.search(r'instance=~?"([^"]*)"', query) for query in queries]
    return [0 if match is None else len(match[1].split("|")) for match in named]


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ((), {}),
        ((), {"max_series": 7}),
        ((), {"max_samples": 300}),
        (("--instances-per-query", "10"), {"max_series": 30, "max_samples": 700}),
    ],
)
@pytest.mark.parametrize("name", ["r.json", "r.parquet"])
def test_all_samples_are_queried_within_the_limits(
    arguments: tuple[str, ...], limits: dict[str, int], name: str, tmp_path: Path
) -> None:
    fleet = GeneratedFleet(nodes=25, containers=2, **limits)
    with answering(fleet.reply) as url:
        query(url, tmp_path / name, *arguments)
    if name.endswith(".json"):
        counts = read_recording(str(tmp_path / name)).sample_counts
    else:
        pytest.importorskip("pyarrow")
        from kepler_core.parquet import open_parts

        counts = open_parts(tmp_path / name).sample_counts
    assert dict(counts) == expected_counts(fleet)
    assert bool(fleet.rejected) == bool(limits)
    assert not (tmp_path / f"{name}.part").exists()


def test_the_size_of_answers_decides_the_number_of_instances(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = GeneratedFleet(nodes=40, containers=3)
    monkeypatch.setattr("kepler_core.prometheus.sharding.TARGET_BYTES", 60_000)
    with answering(fleet.reply) as url:
        query(url, tmp_path / "r.json")
    assert dict(read_recording(str(tmp_path / "r.json")).sample_counts) == expected_counts(fleet)
    assert 20_000 < fleet.largest < 80_000
    numbers = listed(fleet.requests)
    assert 0 not in numbers
    assert len(set(numbers)) > 2  # nodes have more usage than energy, so queries of energy name more instances


def test_a_query_of_shards_is_resumed(tmp_path: Path) -> None:
    fleet = GeneratedFleet(nodes=30)
    answered: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if "/query" in path and len(answered) >= 5 and not resumed:
            return 503, {}, b""
        answered.append(path)
        return fleet.reply(path, headers)

    resumed = False
    arguments = ("--instances-per-query", "8", "-j", "1")
    with answering(reply) as url:
        with pytest.raises(PrometheusError, match="the same command resumes"):
            query(url, tmp_path / "r.json", *arguments)
        resumed = True
        before = set(answered)
        query(url, tmp_path / "r.json", *arguments)
    assert not {path for path in answered[len(before) :] if "/query" in path} & before
    assert dict(read_recording(str(tmp_path / "r.json")).sample_counts) == expected_counts(fleet)


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=20), max_size=30, unique=True), st.none() | st.integers(1, 9))
def test_shards_name_each_instance_once(instances: list[str], most: int | None) -> None:
    shards = shards_of(instances, most)
    assert [instance for shard in shards for instance in shard] == instances
    for shard in shards:
        matcher = instance_matcher("instance", shard)
        assert len(urllib.parse.quote(matcher)) < MAX_MATCHER_BYTES + 100
        if len(shard) > 1:
            assert most is None or len(shard) <= most
            pattern = re.compile(json.loads(matcher.removeprefix("instance=~"), strict=False))
            assert all(pattern.fullmatch(instance) for instance in shard)


def test_characters_of_instances_have_no_meaning_as_a_regular_expression() -> None:
    assert instance_matcher("instance", ("a.b:9", "c|d")) == r'instance=~"a\\.b:9|c\\|d"'
    assert instance_matcher("node", ("a.b",)) == 'node="a.b"'
    whole = Query(Selection("m", ('c="1"',)), 0, 60_000, None, ("x", "y"))
    assert whole.request()[1]["query"] == 'm{c="1",instance=~"x|y"}[60001ms]'


LIMITS = {
    "a warning of Thanos": (
        200, EMPTY[:-1] + b',"warnings":["store 10.0.0.1: failed to send series: limit 4 violated (got 5)"]}'
    ),
    "Thanos without partial answers": (503, b'{"status":"error","error":"exceeded series limit: limit 4 violated"}'),
    "Mimir": (422, b'{"status":"error","error":"the query exceeded the maximum number of series (limit: 4 series)"}'),
    "VictoriaMetrics": (422, b'{"status":"error","error":"the number of unique timeseries exceeds 4; see '
                        b'-search.maxUniqueTimeseries"}'),
    "a proxy": (414, b"<html>Request-URI Too Large</html>"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIMITS)
def test_too_many_series_are_split_by_instances_and_not_by_time(kind: str) -> None:
    """The time range of a query is not split, because a shorter range has as many series."""
    paths: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if "/label/" in path:
            return 200, {}, json.dumps({"status": "success", "data": [f"n{n}" for n in range(10)]}).encode()
        paths.append(path)
        (number,) = listed([path])
        status, body = LIMITS[kind] if number == 0 or number > 4 else (200, EMPTY)
        return status, {}, body

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=0)
        ((_, results),) = answers(client, plan_queries([Selection("m")], 0, 3000, None))
    assert listed(paths) == [0, 5, 2, 3, 2, 3, 1]
    assert len(results) == 5
    assert all("[3000001ms]" in urllib.parse.unquote_plus(path) for path in paths)


def test_too_many_series_of_one_instance_are_an_error() -> None:
    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if "/label/" in path:
            return 200, {}, b'{"status":"success","data":["n1"]}'
        status, body = LIMITS["Mimir"]
        return status, {}, body

    with answering(reply) as url, pytest.raises(PrometheusError, match=r"^m: .*maximum number of series") as caught:
        list(answers(PrometheusClient(Server(url), patience=0), plan_queries([Selection("m")], 0, 3000, None)))
    assert caught.value.kind == "too large"


def test_series_of_other_instances_are_refused() -> None:
    """They would be counted twice, because the query for their own instances returns them, too."""
    series = {"metric": {"instance": "b"}, "values": [[5, "1"]]}
    body = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
    query = Query(Selection("m"), 0, 10_000, None, ("a", "c"))
    with (
        answering(lambda path, headers: (200, {}, json.dumps(body).encode())) as url,
        pytest.raises(PrometheusError, match="the instance 'b' was not queried") as caught,
    ):
        list(answers(PrometheusClient(Server(url), patience=0), [query]))
    assert caught.value.kind == "answer"


def test_complete_and_unchanged_samples_are_demanded() -> None:
    """Servers that reject unknown parameters get the queries without them."""
    paths: list[str] = []

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        paths.append(path)
        if strict and "nocache" in path:
            return 400, {}, b'Invalid JSON payload received. Unknown name "nocache": Cannot bind query parameter.'
        return 200, {}, EMPTY

    for strict in (False, True):
        paths.clear()
        with answering(reply) as url:
            client = PrometheusClient(Server(url), patience=0)
            for _ in range(2):
                assert client.matrix("/api/v1/query", {"query": "up"}) == b"[]"
        parameters = [dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query)) for path in paths]
        assert [len(sent) for sent in parameters] == ([5, 1, 1] if strict else [5, 5])
        assert parameters[0] == {
            "query": "up",
            "partial_response": "false",
            "max_source_resolution": "0s",
            "nocache": "1",
            "latency_offset": "1ms",
        }


@pytest.mark.parametrize(
    ("host", "compress", "sent"),
    [
        ("127.0.0.1", None, "identity"),
        ("prometheus", None, "gzip"),
        ("127.0.0.1", True, "gzip"),
        ("p", False, "identity"),
    ],
)
def test_answers_from_the_same_machine_are_not_compressed(host: str, compress: bool | None, sent: str) -> None:
    client = PrometheusClient(Server(f"http://{host}:9090", compress=compress))
    assert client._headers["accept-encoding"] == sent


def test_a_busy_server_gets_no_requests_for_a_while() -> None:
    """An answer 429 delays the requests of all threads, and does not use up the client's patience."""
    times: list[float] = []
    lock = threading.Lock()

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        with lock:
            times.append(time.monotonic())
            is_busy = len(times) <= 2
        return (429, {"Retry-After": "1"}, b"too many outstanding requests") if is_busy else (200, {}, EMPTY)

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=1.3)
        queries = plan_queries([Selection(f"m{n}") for n in range(3)], 0, 10, None)
        assert len(list(answers(client, queries, jobs=1))) == 3
        assert times[1] - times[0] >= 1
        assert times[2] - times[1] >= 1
        assert len(times) == 5


def test_the_rate_of_requests_is_limited() -> None:
    pace = Pace(20.0)
    deadline = Deadline(60)
    started = time.monotonic()
    for _ in range(25):
        pace.wait(deadline)
    assert time.monotonic() - started >= 0.24  # 20 requests start at once, and the others 50 ms apart
