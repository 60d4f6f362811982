"""Tests of replies with explanations, of twins that answer in place of a model, and of the estimator's metrics."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.command import kepler
from support.estimator_clients import KEPLERS_READ, ask_as_kepler, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import MACHINE, SCALE, LinearModel, publish
from support.process import PATIENCE
from support.server_process import free_port, serving
from support.small_pipelines import BPF

from kepler_core.client import EstimatorClient
from kepler_core.honesty.flags import EXPLANATIONS
from kepler_core.models.twins import CheckedWatts
from kepler_servers.estimator.explanation import MAX_KEPT_ROWS, kept

RICH, POOR = "GradientBoostingRegressorTrainer", "SGDRegressorTrainer"
TERMS = {
    "lowest": 50.0, "highest": 200.0, "edges": [], "quantiles": [3.0], "session": 4.0, "machine_idle": 0.0,
    "machine_loaded": 0.0, "noise": 0.1,
}  # fmt: skip
"""Numbers that define an interval. Its half-width is 5 W inside the training range, and 8.5 W outside."""
HONESTY: dict[str, Any] = {
    "splits": {"blocks": {"mae": 1.0, "components": {}, "parts": 5}, "recordings": None},
    "hardest": "blocks",
    "seen": {"recordings": 1, "days": 1, "nodes": 1, "samples": 100, "features": {}, "node_names": ["a-node"]},
    "level": 0.9,
    "intervals": {"package": TERMS},
    "twin": {"model_name": f"{POOR}_0", "feature_group": "CPUTime", "limits": {"package": 10.0}},
}
TWIN = LinearModel(
    POOR,
    group="CPUTime",
    features=BPF[:1],
    mae=9.0,
    # the order of the components differs from the order in `RICH_MODEL`
    watts={"dram": (9.0, {}), "package": (50.0, {"bpf_cpu_time_ms": 0.01})},
)
RICH_MODEL = LinearModel(
    RICH,
    lowest=60_000.0,
    honesty=HONESTY,
    watts={"package": (50.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001}), "dram": (8.0, {})},
)
ROWS = ([10_000, 8_000], [10_000, 20_000], [2e6, 8_000], [0, 0])
"""Four rows. The first row is usual. For the second row, the twin's package power differs by 20 W. The third row is
above the training range. The fourth row requests idle power, and is below the training range."""
POWERS = {"package": [158.0, 150.0, round(58.0 + 1.05 * SCALE / 100, 3), 50.0], "dram": [8.0, 9.0, 8.0, 8.0]}
EXPLAINED = {"half_width": {"package": [9.434, 20.616, 11.673, 8.5]}, "rows_outside": [2, 3], "rows_disagreeing": [1]}
REQUEST = watts_request(ROWS, trainer_name=RICH)


def edited(**changes: Any) -> LinearModel:
    """Return the model `RICH_MODEL` with `changes` to the block `honesty` of its metadata."""
    return LinearModel(RICH, lowest=60_000.0, honesty={**HONESTY, **changes}, watts=RICH_MODEL.watts)


def explained(estimator: EstimatorProcess, request: dict[str, Any] = REQUEST) -> dict[str, Any]:
    """Request watts with an explanation, and return the reply.

    Checks that the reply begins with the bytes of a reply without an explanation.
    """
    plain = ask_as_kepler(estimator.path, request)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(estimator.path))
        connection.sendall(json.dumps({**request, "explain": True}).encode())
        content = b""
        while piece := connection.recv(65536):
            content += piece
    assert content.startswith(plain[:-1] + b',"explanation":')
    reply: dict[str, Any] = json.loads(content)
    return reply


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[EstimatorProcess]:
    publish(tmp_path / "store", RICH_MODEL, TWIN)
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store") as estimator:
        yield estimator


def test_rows_in_which_the_models_differ_are_the_twins(twins: EstimatorProcess) -> None:
    reply = explained(twins)
    assert reply["powers"] == POWERS
    explanation = reply["explanation"]
    assert {key: explanation[key] for key in EXPLAINED} == EXPLAINED
    assert explanation["flags"] == ["one_session_only", "extrapolating", "disagreement", "other_machine"]
    assert explanation["model"] == f"made/rapl-sysfs/AbsPower/BPFOnly/{RICH}_0"
    assert explanation["twin"] == f"made/rapl-sysfs/AbsPower/CPUTime/{POOR}_0"
    assert (explanation["pipeline"], explanation["trainer"], explanation["level"]) == ("made", RICH, 0.9)
    assert (explanation["node_type"]["number"], explanation["problem"]) == (0, "")
    status = twins.status()
    # The test has sent the request twice. `rows_outside` does not count rows that request idle power.
    assert (status["rows_outside"], status["disagreements"]) == (2, 2)
    assert "rows are answered by the twin" in twins.log


def test_ask_prints_the_intervals_and_the_doubts(twins: EstimatorProcess) -> None:
    values = [word for row in ROWS for word in ("--values", ",".join(map(str, row)))]
    command = ("ask", "--socket", twins.path, "--metrics", ",".join(BPF), "--trainer", RICH, *values)
    assert "±" not in kepler(*command).stdout
    text = kepler(*command, "--explain").stdout
    cells = [line.split() for line in text.splitlines()[2:6]]
    package = zip(POWERS["package"], EXPLAINED["half_width"]["package"], strict=True)
    assert [row[1:4] for row in cells] == [[f"{watts:.3f}", "±", f"{half:.1f}"] for watts, half in package]
    assert [row[4:] for row in cells] == [[f"{watts:.3f}"] for watts in POWERS["dram"]]
    assert f"model: made/rapl-sysfs/AbsPower/BPFOnly/{RICH}_0" in text
    for flag, sentence in EXPLANATIONS.items():
        assert f"  - {flag}: {sentence}\n" in text
    assert json.loads(kepler(*command, "--explain", "--json").stdout)["explanation"]["rows_disagreeing"] == [1]


def test_a_usual_row_has_no_doubts(twins: EstimatorProcess) -> None:
    explanation = explained(twins, watts_request(ROWS[:1], trainer_name=RICH))["explanation"]
    assert explanation["half_width"] == {"package": [9.434]}
    assert explanation["flags"] == ["one_session_only", "other_machine"]
    assert (twins.status()["rows_outside"], twins.status()["disagreements"]) == (0, 0)


def test_invalid_rows_are_not_doubtful(twins: EstimatorProcess) -> None:
    reply = explained(twins, watts_request([[10_000, 20_000], [-1, 20_000]], trainer_name=RICH))
    assert reply["powers"] == {"package": [150.0, 0.0], "dram": [9.0, 0.0]}
    assert (reply["explanation"]["rows_disagreeing"], reply["explanation"]["rows_outside"]) == ([0], [])


def test_models_without_the_block_have_no_intervals(twins: EstimatorProcess) -> None:
    explanation = explained(twins, watts_request([[10_000, 0], [2e6, 0]], trainer_name=POOR))["explanation"]
    assert (explanation["half_width"], explanation["level"], explanation["twin"]) == ({}, None, None)
    assert (explanation["flags"], explanation["rows_outside"]) == (["extrapolating"], [1])


def test_long_explained_replies_are_whole(twins: EstimatorProcess) -> None:
    metrics, values = list(BPF), [[10_000.25 + row, 8_000.5] for row in range(1000)]
    request = {"metrics": metrics, "values": values, "output_type": "AbsPower", "trainer_name": RICH}
    assert len(ask_as_kepler(twins.path, request)) <= KEPLERS_READ
    reply = EstimatorClient(str(twins.path)).ask({**request, "explain": True})
    assert len(reply["powers"]["package"]) == len(reply["explanation"]["half_width"]["package"]) == 1000
    assert reply["powers"]["package"][999] == 167.993


def test_the_key_is_optional_and_must_be_a_boolean(twins: EstimatorProcess) -> None:
    assert twins.ask({**REQUEST, "explain": False}) == twins.ask({**REQUEST, "explain": None}) == twins.ask(REQUEST)
    reply = twins.ask({**REQUEST, "explain": "yes"})
    assert (reply["powers"], "$.explain" in reply["msg"]) == ({}, True)


def test_failed_requests_have_no_explanation(twins: EstimatorProcess) -> None:
    assert twins.ask({**REQUEST, "trainer_name": "Nobody", "explain": True}).keys() == {"powers", "msg"}


def test_metrics(tmp_path: Path) -> None:
    publish(tmp_path / "store", RICH_MODEL, TWIN)
    port = free_port()
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store", "--metrics-port", str(port)) as estimator:
        estimator.ask(REQUEST)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {sample.name: sample for family in families for sample in family.samples}
    assert samples["kepler_estimator_rows_outside_total"].value == 1
    assert samples["kepler_estimator_disagreements_total"].value == 1
    width = samples["kepler_estimator_interval_half_width_watts"]
    assert width.value == pytest.approx(np.mean(EXPLAINED["half_width"]["package"]), abs=0.001)  # type: ignore[call-overload]
    assert (width.labels["component"], width.labels["trainer"]) == ("package", RICH)


def test_the_twin_comes_from_the_model_server_too(tmp_path: Path) -> None:
    publish(tmp_path / "store", RICH_MODEL, TWIN)
    with (
        serving(tmp_path / "store", tmp_path / "server.log") as server,
        running_estimator(tmp_path / "e.sock", "--model-server", f"http://127.0.0.1:{server.port}") as estimator,
    ):
        reply = explained(estimator)
    assert reply["powers"] == POWERS
    assert reply["explanation"]["twin"] == f"made/rapl-sysfs/AbsPower/CPUTime/{POOR}_0"


@pytest.mark.parametrize("provider", ["store", "model server"])
def test_a_model_without_its_twin_still_answers(tmp_path: Path, provider: str) -> None:
    publish(tmp_path / "store", RICH_MODEL)
    with serving(tmp_path / "store", tmp_path / "server.log") as server:
        source = (
            ("-s", tmp_path / "store") if provider == "store" else ("--model-server", f"http://127.0.0.1:{server.port}")
        )
        with running_estimator(tmp_path / "e.sock", *source) as estimator:
            reply = explained(estimator)
            assert "is used without a check by its twin" in estimator.log
    assert reply["powers"]["package"][1] == 170.0
    assert (reply["explanation"]["twin"], reply["explanation"]["rows_disagreeing"]) == (None, [])
    assert f"rapl-sysfs/AbsPower/CPUTime/{POOR}_0" in reply["explanation"]["problem"]
    assert reply["explanation"]["half_width"]["package"][0] == 5.0


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (edited(level=7), "honesty"),
        (edited(twin={**HONESTY["twin"], "feature_group": "../.."}), "invalid path of a twin"),
        (edited(twin={**HONESTY["twin"], "feature_group": "BPFOnly"}), "the twin of"),
    ],
)
def test_a_malformed_block_is_a_problem_of_the_explanation_only(
    tmp_path: Path, model: LinearModel, problem: str
) -> None:
    publish(tmp_path / "store", model, TWIN)
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "store") as estimator:
        reply = explained(estimator)
    assert reply["powers"]["package"][0] == 158.0
    assert problem in reply["explanation"]["problem"]


@pytest.mark.parametrize(
    ("node", "cores", "trained"),
    [("{host}:9102", 32, True), ("{host}", 32, True), ("{host}", 16, False), ("localhost:9102", 32, False)],
)
def test_the_machine_of_the_training_is_known_by_its_name_and_description(
    tmp_path: Path, node: str, cores: int, trained: bool
) -> None:
    seen = {**HONESTY["seen"], "node_names": [node.format(host=socket.gethostname())]}
    publish(tmp_path / "store", edited(seen=seen), TWIN)
    (tmp_path / "machine.json").write_text(json.dumps({**MACHINE, "cores": cores}))
    arguments = ("-s", tmp_path / "store", "--machine-spec", tmp_path / "machine.json")
    with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
        explanation = explained(estimator)["explanation"]
    assert ("other_machine" in explanation["flags"]) == (not trained)


def test_the_intervals_of_a_less_similar_machine_are_wider(tmp_path: Path) -> None:
    terms = {**TERMS, "session": 0.0, "quantiles": [0.0], "machine_idle": 0.1, "machine_loaded": 0.1}
    publish(tmp_path / "store", edited(intervals={"package": terms}), TWIN)
    widths = []
    for name, cores in (("same.json", 32), ("other.json", 8)):
        (tmp_path / name).write_text(json.dumps({**MACHINE, "cores": cores}))
        arguments = ("-s", tmp_path / "store", "--machine-spec", tmp_path / name)
        with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
            explanation = explained(estimator, watts_request([[0, 0]], trainer_name=RICH))["explanation"]
        similarity = explanation["node_type"]["similarity"]
        widths.append(explanation["half_width"]["package"][0])
        assert widths[-1] == pytest.approx(0.1 * 50.0 / similarity, abs=0.001)
    assert widths[1] > widths[0] == 5.0


def test_few_rows_are_kept_for_the_mean_half_widths() -> None:
    rows = 3 * MAX_KEPT_ROWS
    checked = CheckedWatts(
        np.ones((2, rows)), np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool), np.ones((2, rows))
    )
    fewer = kept(checked)
    assert fewer.watts.shape == (2, MAX_KEPT_ROWS)
    assert fewer.watts.base is None
    assert kept(fewer) is fewer
