"""Test that unusual and hostile answers of a Prometheus server are used completely or rejected.

The error of a rejected answer is a single line that names the metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.prometheus_answers import END, REFUSED, START, USED, answer
from support.prometheus_process import Reply, answering
from support.server_process import check_one_line

from kepler_core.errors import PrometheusError
from kepler_core.prometheus import PrometheusClient, Selection, Server, answers, plan_queries
from kepler_core.prometheus.joining import recording_bytes
from kepler_core.recording import read_recording


def read(body: bytes, requests: list[str] | None = None) -> int:
    """Query a server that answers all requests with `body`. Return the number of samples in the resulting recording.

    The paths of the requests are appended to `requests`.
    """

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if requests is not None:
            requests.append(path)
        return 200, {}, body

    with answering(reply) as url:
        client = PrometheusClient(Server(url), patience=0)
        results = dict(answers(client, plan_queries([Selection("kepler_x_total")], START, END, None)))
    content = recording_bytes({query.metric: parts for query, parts in results.items()})
    return read_recording(content).n_samples


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_an_answer_that_is_not_whole_is_refused(body: bytes) -> None:
    requests: list[str] = []
    with pytest.raises(PrometheusError) as caught:
        read(body, requests)
    check_one_line(caught.value)
    assert str(caught.value).startswith("kepler_x_total: http://127.0.0.1:")
    assert len(requests) == 1


@pytest.mark.parametrize(("body", "n_samples"), USED.values(), ids=USED)
def test_an_unusual_answer_is_used(body: bytes, n_samples: int) -> None:
    assert read(body) == n_samples


def instant(kind: str, result: Any) -> bytes:
    return answer({"resultType": kind, "result": result})


@pytest.mark.parametrize(
    "body",
    [
        *(instant("scalar", [1, text]) for text in ("NaN", "+Inf", "-5", "1e300", "noon", "", "1e11")),
        *(instant("scalar", result) for result in (None, 5, [], [1], [1, 2], [1, None], ["x", "2"], {"a": 1})),
        *(instant("vector", result) for result in (None, [], [{}], [{"value": [1, "x"]}], [{"value": [1, "2"]}] * 2)),
        instant("scalar", [1, "1"]).replace(b'"1"', b'"\xff"'),
        instant("matrix", []),
        answer(None),
    ],
    ids=repr,
)
def test_a_time_that_cannot_be_is_refused(body: bytes) -> None:
    with answering(lambda path, headers: (200, {}, body)) as url, pytest.raises(PrometheusError) as caught:
        PrometheusClient(Server(url), patience=0).now()
    check_one_line(caught.value)
    assert caught.value.kind == "answer"


@pytest.mark.parametrize(
    "body", [instant("scalar", [1, "1700000000.5"]), instant("vector", [{"metric": {}, "value": [1, "1700000000.5"]}])]
)
def test_the_time_of_prometheus_and_of_victoriametrics(body: bytes) -> None:
    with answering(lambda path, headers: (200, {}, body)) as url:
        assert PrometheusClient(Server(url), patience=0).now() == 1_700_000_000.5


@pytest.mark.parametrize(
    "body", [*map(answer, ({}, 5, "x", [1], [None], [["x"]], ["x" * 100_000])), answer(["x"]).replace(b"x", b"\xff")]
)
def test_names_that_cannot_be_are_refused(body: bytes) -> None:
    with answering(lambda path, headers: (200, {}, body)) as url, pytest.raises(PrometheusError) as caught:
        PrometheusClient(Server(url), patience=0).metric_names(0, 1)
    check_one_line(caught.value)
    assert caught.value.kind == "answer"
