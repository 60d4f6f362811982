"""The client for programs, `kepler-model ask`, `estimator status`, and the metrics."""

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
from support.estimator_process import ABS, ALL, DYN, EstimatorProcess, estimating, publish, watts_request
from support.server_process import BPF, free_port

from kepler_core.client import EstimatorClient, EstimatorError

ROWS = [[100.0, 200.0], [0.0, 0.0], [3.5, 7.0]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EstimatorProcess, int]]:
    """An estimator, and the port of its metrics."""
    folder = tmp_path_factory.mktemp("client")
    publish(folder / "store", *ALL)
    machine = folder / "machine.json"
    machine.write_text('{"cores":16,"processor":"other"}')
    port = free_port()
    arguments = ("--store", folder / "store", "--machine-spec", machine, "--metrics-port", str(port))
    with estimating(folder / "e.sock", *arguments) as estimator:
        yield estimator, port


def kepler(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kepler_core", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert len(done.stderr.splitlines()) <= (1 if code == 1 else 4), done.stderr
    return done.stderr if code else done.stdout


# --- the client ---


def test_watts(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, ROWS) == {
        component: [round(value, 3) for value in values]
        for component, values in ABS.expected(BPF, ROWS).items()
        if any(values)
    }
    # the node's model takes its columns by name, whatever else there is
    turned = [[9.0, cache, 1.0, cpu] for cpu, cache in ROWS]
    assert client.watts(["x", BPF[1], "y", BPF[0]], turned, source="rapl") == client.watts(BPF, ROWS)
    assert client.watts(BPF, ROWS, output_type="DynPower")["dram"] == [0.4, 0.0, 0.014]
    assert client.watts(BPF, ROWS, source="acpi") == {"platform": [102.0, 100.0, 100.07]}


def test_all_zero_is_an_answer(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, [[0, 0]] * 3, output_type="DynPower", source="intel_rapl") == {"package": [0.0] * 3}


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_no_answer_is_an_error_that_says_why(running: tuple[EstimatorProcess, int], output_type: str) -> None:
    client = EstimatorClient(str(running[0].path))
    with pytest.raises(EstimatorError, match=r"e\.sock: .*'SGDRegresorTrainer'; did you mean SGDRegressorTrainer"):
        client.watts(BPF, ROWS, output_type=output_type, trainer_name="SGDRegresorTrainer")
    with pytest.raises(EstimatorError, match="did you mean acpi"):
        client.watts(BPF, ROWS, output_type=output_type, source="acip")
    with pytest.raises(EstimatorError, match="lowest mae"):
        client.watts(BPF, ROWS, output_type=output_type, filter="mae:0.5")


def test_not_a_number_is_a_row_of_nothing(running: tuple[EstimatorProcess, int]) -> None:
    client = EstimatorClient(str(running[0].path))
    assert client.watts(BPF, [[math.nan, 1], [100, 200], [math.inf, 1]])["package"] == [0.0, 51.2, 0.0]


def test_nobody_there(tmp_path: Path) -> None:
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
def test_what_answers_is_no_estimator(tmp_path: Path, reply: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "f.sock"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(EstimatorError, match=r"f\.sock: ") as caught:
            EstimatorClient(str(tmp_path / "f.sock")).watts(BPF, ROWS)
        assert "\n" not in str(caught.value)
        thread.join()


def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "f.sock"))
        listener.listen()
        with pytest.raises(EstimatorError, match=r"no answer within 0\.2 s"):
            EstimatorClient(str(tmp_path / "f.sock"), timeout=0.2).status()


# --- the commands ---


def test_ask(running: tuple[EstimatorProcess, int]) -> None:
    path = running[0].path
    out = kepler("ask", "--socket", path, "--metrics", ", ".join(BPF), "--values", "100,200", "--values", "0, 0")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["row", "package", "W", "dram", "W"]
    assert lines[2:] == [["0", "51.200", "8.400"], ["1", "50.000", "8.000"]]
    out = kepler(
        "ask", "--socket", path, "--metrics", ",".join(BPF), "--values", "100,200", "--output-type", "DynPower",
        "--source", "intel_rapl", "--trainer", "SGDRegressorTrainer", "--filter", "mae:5", "--json",
    )  # fmt: skip
    assert json.loads(out)["powers"] == {"package": [1.2], "dram": [0.4]}


def test_ask_says_what_is_wrong(running: tuple[EstimatorProcess, int]) -> None:
    path = running[0].path
    plain = ("ask", "--socket", path, "--metrics", ",".join(BPF), "--values")
    assert "did you mean SGDRegressorTrainer" in kepler(*plain, "1,2", "--trainer", "SGDRegresor", code=1)
    assert "expected 2 numbers" in kepler(*plain, "1,2,3", code=2)
    assert "expected 2 numbers" in kepler(*plain, "1,x", code=2)
    assert "missing: bpf_page_cache_hit" in kepler("ask", "--socket", path, "--metrics", BPF[0], "--values", 1, code=1)
    assert "running?" in kepler("ask", "--socket", "/none.sock", "--metrics", "a", "--values", "1", code=1)


def test_status(running: tuple[EstimatorProcess, int]) -> None:
    estimator = running[0]
    before = estimator.status()
    estimator.ask(watts_request(ROWS))
    estimator.ask(watts_request([[-1, 0], *ROWS]))
    estimator.ask(watts_request(output_type="DynPower", trainer_name="Nobody"))
    estimator.ask(b"garbage")
    found = json.loads(kepler("estimator", "status", "--socket", estimator.path, "--json"))
    requests, earlier = found["requests"], before["requests"]
    assert requests["answered"] == earlier["answered"] + 2
    assert requests["failed"] == earlier["failed"] + 2
    assert requests["commands"] == earlier["commands"] + 1
    assert found["rows"] == before["rows"] + 7
    assert found["invalid_rows"] == before["invalid_rows"] + 1
    assert found["sockets"] == [str(estimator.path)]
    assert found["pid"] == estimator.process.pid
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    (model,) = (
        m for m in found["models"]
        if (m["output_type"], m["source"], m["trainer"], m["filter"], m["metrics"])
        == ("AbsPower", "intel_rapl", "", "", sorted(BPF))
    )  # fmt: skip
    assert model["model"] == "made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
    assert model["origin"].startswith("store ")
    assert model["core_ratio"] == 0.5
    assert model["mae"] == ABS.mae
    assert model["age_seconds"] >= 0
    assert model["problem"] == ""
    (nobody,) = (m for m in found["models"] if m["trainer"] == "Nobody")
    assert "known: SGDRegressorTrainer" in nobody["problem"]
    text = kepler("estimator", "status", "--socket", estimator.path)
    for part in (str(estimator.path), "store ", model["model"], "requests answered", "rows that could not be right"):
        assert part in text


def test_status_of_nobody_and_of_something_else(tmp_path: Path) -> None:
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


def test_an_unknown_command(running: tuple[EstimatorProcess, int]) -> None:
    reply = EstimatorClient(str(running[0].path)).ask({"command": "halt"})
    assert "halt" in reply["msg"]
    assert "status" in reply["msg"]


# --- metrics ---


def samples(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(running: tuple[EstimatorProcess, int]) -> None:
    estimator, port = running
    before = samples(port)
    estimator.ask(watts_request(ROWS))
    estimator.ask(watts_request([[-1, 0]], output_type="DynPower"))
    estimator.ask(b"garbage")
    found = samples(port)

    def value(where: dict[Any, float], name: str, **labels: str) -> float:
        return where.get((f"kepler_estimator_{name}", frozenset(labels.items())), 0.0)

    for name, labels, more in (
        ("requests_total", {"outcome": "answered"}, 2),
        ("requests_total", {"outcome": "failed"}, 1),
        ("rows_total", {}, 4),
        ("invalid_rows_total", {}, 1),
        ("connections_total", {}, 3),
    ):
        assert value(found, name, **labels) == value(before, name, **labels) + more, name
    assert value(found, "latency_seconds", quantile="0.99") >= value(found, "latency_seconds", quantile="0.5") > 0
    ages: list[dict[str, str]] = [
        dict(labels) for name, labels in found if name == "kepler_estimator_model_age_seconds"
    ]
    assert {(labels["output_type"], labels["model"]) for labels in ages} >= {
        ("AbsPower", "made/rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"),
        ("DynPower", f"made/{DYN.source}/DynPower/BPFOnly/SGDRegressorTrainer_0"),
    }


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        estimator = EstimatorProcess(tmp_path / "e.sock", "--metrics-port", str(port))
        assert estimator.process.wait(30) == 2
        assert f"cannot serve metrics on port {port}" in estimator.log
        assert "Traceback" not in estimator.log
        assert not estimator.path.exists()
