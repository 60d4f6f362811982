"""Tests of the estimator's Python client, the commands `ask` and `estimator status`, and the estimator's metrics."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.estimator_clients import DYN_WATTS, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import ABS, ALL, DYN, publish
from support.process import PATIENCE
from support.server_process import SHORT_BODIES, free_port, status_of_half_closed
from support.small_pipelines import BPF

from kepler_core.client import EstimatorClient, EstimatorError

ROWS = [[100.0, 200.0], [0.0, 0.0], [3.5, 7.0]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EstimatorProcess, int]]:
    """A running estimator, and the port on which it serves Prometheus metrics."""
    folder = tmp_path_factory.mktemp("client")
    publish(folder / "store", *ALL)
    machine = folder / "machine.json"
    machine.write_text('{"cores":16,"processor":"other"}')
    port = free_port()
    arguments = ("--store", folder / "store", "--machine-spec", machine, "--metrics-port", str(port))
    with running_estimator(folder / "e.sock", *arguments) as process:
        yield process, port


def kepler(*arguments: str | Path, code: int = 0) -> str:
    """Run a command and check its exit code. Return the output, or the error message if the exit code is not 0."""
    completed = subprocess.run(
        [sys.executable, "-m", "kepler_core", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert completed.returncode == code, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stderr
    if code:
        assert len(completed.stderr.splitlines()) <= (1 if code == 1 else 4), completed.stderr
    return completed.stderr if code else completed.stdout


# --- the Python client ---


def test_the_client_returns_the_models_watts(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, ROWS) == {
        component: [round(value, 3) for value in values]
        for component, values in ABS.expected(BPF, ROWS).items()
        if any(values)
    }
    # The estimator finds the columns of a request by their names, and ignores columns with unknown names.
    shuffled = [[9.0, cache, 1.0, cpu] for cpu, cache in ROWS]
    assert client.watts(["x", BPF[1], "y", BPF[0]], shuffled, source="rapl") == client.watts(BPF, ROWS)
    assert client.watts(BPF, ROWS, output_type="DynPower")["dram"] == [0.4, 0.0, 0.014]
    assert client.watts(BPF, ROWS, source="acpi") == {"platform": [102.0, 100.0, 100.07]}


def test_zero_watts_are_not_an_error(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, [[0, 0]] * 3, output_type="DynPower", source="intel_rapl") == {"package": [0.0] * 3}


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_a_reply_without_watts_is_an_error_with_its_reason(
    running: tuple[EstimatorProcess, int], output_type: str
) -> None:
    client = EstimatorClient(str(running[0].path))
    with pytest.raises(EstimatorError, match=r"e\.sock: .*'SGDRegresorTrainer'; did you mean SGDRegressorTrainer"):
        client.watts(BPF, ROWS, output_type=output_type, trainer_name="SGDRegresorTrainer")
    with pytest.raises(EstimatorError, match="did you mean acpi"):
        client.watts(BPF, ROWS, output_type=output_type, source="acip")
    with pytest.raises(EstimatorError, match="lowest mae"):
        client.watts(BPF, ROWS, output_type=output_type, filter="mae:0.5")


def test_rows_with_nan_or_infinity_get_zero_watts(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, [[math.nan, 1], [100, 200], [math.inf, 1]])["package"] == [0.0, 51.2, 0.0]


def test_the_error_without_an_estimator_hints_at_the_command(tmp_path: Path) -> None:
    for make in (lambda _: None, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))):
        path = tmp_path / "none.sock"
        make(path)
        with pytest.raises(EstimatorError, match=r"none\.sock: .*is `kepler-model serve estimator` running\?"):
            EstimatorClient(str(path)).status()


@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense", b"[]", b'"text"', b"{", b'{"powers":', b"\xff\xfe", b'{"msg":"\xff"}', b"[" * 100_000,
     b'{"powers":[]}', b'{"powers":5,"msg":""}', b'{"powers":{"package":5},"msg":"no"}', b'{"powers":null}', b"{}"],
    ids=repr,
)  # fmt: skip
def test_the_reply_of_another_program_is_an_error(tmp_path: Path, reply: bytes) -> None:
    thread = replying(tmp_path / "f.sock", reply)
    with pytest.raises(EstimatorError, match=r"f\.sock: ") as caught:
        EstimatorClient(str(tmp_path / "f.sock")).watts(BPF, ROWS)
    assert "\n" not in str(caught.value)
    thread.join()


def replying(path: Path, reply: bytes) -> threading.Thread:
    """Start a program that listens at `path` and sends `reply` to the first client."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("explanation", "message"),
    [
        ("", "does not explain its replies"),
        (',"explanation":5', "the explanation is malformed: Expected `object`"),
        (',"explanation":{"model":"m","flags":[]}', "the explanation is malformed: Object missing"),
        (',"explanation":{"model":"m","flags":[],"half_width":{"package":[1]}}', "too few or too many rows"),
    ],
)
def test_an_explanation_that_is_missing_or_malformed(explanation: str, message: str, tmp_path: Path) -> None:
    reply = f'{{"powers":{{"package":[1,2]}},"msg":""{explanation}}}'
    thread = replying(tmp_path / "f.sock", reply.encode())
    values = [word for row in ROWS[:2] for word in ("--values", ",".join(map(str, row)))]
    error = kepler("ask", "--socket", tmp_path / "f.sock", "--metrics", ",".join(BPF), "--explain", *values, code=1)
    assert message in error
    thread.join()


def test_the_client_has_a_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "f.sock"))
        listener.listen()
        with pytest.raises(EstimatorError, match=r"no answer within 0\.2 s"):
            EstimatorClient(str(tmp_path / "f.sock"), timeout=0.2).status()


# --- the commands `ask` and `estimator status` ---


def test_ask_prints_a_table_or_json(running: tuple[EstimatorProcess, int]) -> None:
    path = running[0].path
    out = kepler("ask", "--socket", path, "--metrics", ", ".join(BPF), "--values", "100,200", "--values", "0, 0")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["row", "package", "W", "dram", "W"]
    assert lines[2:] == [["0", "51.200", "8.400"], ["1", "50.000", "8.000"]]
    out = kepler(
        "ask", "--socket", path, "--metrics", ",".join(BPF), "--values", "100,200", "--output-type", "DynPower",
        "--source", "intel_rapl", "--trainer", "SGDRegressorTrainer", "--filter", "mae:5", "--json",
    )  # fmt: skip
    assert json.loads(out)["powers"] == DYN_WATTS


def test_errors_of_ask(running: tuple[EstimatorProcess, int]) -> None:
    path = running[0].path
    plain = ("ask", "--socket", path, "--metrics", ",".join(BPF), "--values")
    assert "did you mean SGDRegressorTrainer" in kepler(*plain, "1,2", "--trainer", "SGDRegresor", code=1)
    assert "expected 2 numbers" in kepler(*plain, "1,2,3", code=2)
    assert "expected 2 numbers" in kepler(*plain, "1,x", code=2)
    assert "missing: bpf_page_cache_hit" in kepler("ask", "--socket", path, "--metrics", BPF[0], "--values", 1, code=1)
    assert "running?" in kepler("ask", "--socket", "/none.sock", "--metrics", "a", "--values", "1", code=1)


def test_status_counts_requests_and_rows(running: tuple[EstimatorProcess, int]) -> None:
    estimator = running[0]
    before = estimator.status()
    estimator.ask(watts_request(ROWS))
    estimator.ask(watts_request([[-1, 0], *ROWS]))
    estimator.ask(watts_request(output_type="DynPower", trainer_name="Nobody"))
    estimator.ask(b"garbage")
    after = json.loads(kepler("estimator", "status", "--socket", estimator.path, "--json"))
    increases = {outcome: count - before["requests"][outcome] for outcome, count in after["requests"].items()}
    assert increases == {"answered": 2, "failed": 2, "commands": 1}
    assert after["rows"] == before["rows"] + 7
    assert after["invalid_rows"] == before["invalid_rows"] + 1
    assert after["sockets"] == [str(estimator.path)]
    assert after["pid"] == estimator.process.pid
    assert 0 < after["latency_ms"]["p50"] <= after["latency_ms"]["p99"]
    (nobody,) = (model for model in after["models"] if model["trainer"] == "Nobody")
    assert "known: SGDRegressorTrainer" in nobody["problem"]


def test_status_describes_the_models_in_use(running: tuple[EstimatorProcess, int]) -> None:
    estimator = running[0]
    estimator.ask(watts_request(ROWS))
    estimator.ask(watts_request([[-1, 0]]))
    conditions = ("AbsPower", "intel_rapl", "", "", sorted(BPF))
    (model,) = (
        model for model in estimator.status()["models"]
        if tuple(model[key] for key in ("output_type", "source", "trainer", "filter", "metrics")) == conditions
    )  # fmt: skip
    assert model["model"] == "made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
    assert model["origin"].startswith("store ")
    assert model["core_ratio"] == 0.5
    assert model["mae"] == ABS.mae
    assert model["age_seconds"] >= 0
    assert model["problem"] == ""
    text = kepler("estimator", "status", "--socket", estimator.path)
    for part in (str(estimator.path), "store ", model["model"], "requests answered", "invalid rows"):
        assert part in text


def test_status_without_an_estimator_and_of_another_program(tmp_path: Path) -> None:
    assert "running?" in kepler("estimator", "status", "--socket", tmp_path / "none.sock", code=1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "old.sock"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b'{"powers":[],"msg":"fail to handle request"}')

        thread = threading.Thread(target=serve)
        thread.start()
        kepler("estimator", "status", "--socket", tmp_path / "old.sock", code=1)
        thread.join()


def test_an_unknown_command_names_the_known_one(running: tuple[EstimatorProcess, int]) -> None:
    reply = EstimatorClient(str(running[0].path)).ask({"command": "halt"})
    assert "halt" in reply["msg"]
    assert "status" in reply["msg"]


# --- metrics ---


def samples(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the values of the Prometheus metrics that the estimator serves, by metric name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_and_name_the_models(running: tuple[EstimatorProcess, int]) -> None:
    estimator, port = running
    before = samples(port)
    estimator.ask(watts_request(ROWS))
    estimator.ask(watts_request([[-1, 0]], output_type="DynPower"))
    estimator.ask(b"garbage")
    after = samples(port)

    def value(samples: dict[Any, float], name: str, **labels: str) -> float:
        return samples.get((f"kepler_estimator_{name}", frozenset(labels.items())), 0.0)

    for name, labels, increase in (
        ("requests_total", {"outcome": "answered"}, 2),
        ("requests_total", {"outcome": "failed"}, 1),
        ("rows_total", {}, 4),
        ("invalid_rows_total", {}, 1),
        ("connections_total", {}, 3),
    ):
        assert value(after, name, **labels) == value(before, name, **labels) + increase, name
    assert value(after, "latency_seconds", quantile="0.99") >= value(after, "latency_seconds", quantile="0.5") > 0
    ages: list[dict[str, str]] = [
        dict(labels) for name, labels in after if name == "kepler_estimator_model_age_seconds"
    ]
    assert {(labels["output_type"], labels["model"]) for labels in ages} >= {
        ("AbsPower", "made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"),
        ("DynPower", f"made/{DYN.source}/DynPower/BPFOnly/SGDRegressorTrainer_0"),
    }


def test_readiness(running: tuple[EstimatorProcess, int], tmp_path: Path) -> None:
    process, port = running
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as answer:
        ready = json.load(answer)
    assert ready["sockets"] == [str(process.path)]
    assert (len(ready["origins"]), ready["not_ready"]) == (1, None)
    free = free_port()
    with running_estimator(tmp_path / "e.sock", "--metrics-port", str(free)):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"http://127.0.0.1:{free}/readyz", timeout=PATIENCE)
        assert error.value.code == 503
        assert json.load(error.value)["not_ready"] == "no model server, URL or store is configured"


def test_silent_clients_of_the_metrics_port_do_not_affect_the_estimator(running: tuple[EstimatorProcess, int]) -> None:
    estimator, port = running
    descriptors = estimator.descriptors()
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(24)]
    try:
        assert estimator.ask(watts_request())["powers"]
        assert estimator.descriptors() <= descriptors + 20
        assert samples(port)
    finally:
        for connection in silent:
            connection.close()


def test_bodies_shorter_than_their_content_length(running: tuple[EstimatorProcess, int]) -> None:
    """The metrics port ignores the body of a request, so it answers even if the body is shorter than Content-Length."""
    for end in SHORT_BODIES:
        assert status_of_half_closed(running[1], "GET", "/metrics", end) == 200
        assert status_of_half_closed(running[1], "POST", "/metrics", end) < 500


def test_a_metrics_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        estimator = EstimatorProcess(tmp_path / "e.sock", "--metrics-port", str(port))
        assert estimator.process.wait(30) == 2
        assert f"cannot serve metrics: cannot listen on 127.0.0.1:{port}" in estimator.log
        assert "Traceback" not in estimator.log
        assert not estimator.path.exists()
