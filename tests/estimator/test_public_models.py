"""Tests of the estimator with Kepler's public model database, whose models are pickles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.estimator_clients import watts_request
from support.estimator_process import running_estimator
from support.paths import SHARED
from support.server_process import serving
from support.small_pipelines import BPF, COUNTERS, GROUPS

from kepler_core.selection import ModelRequest
from kepler_core.vocabulary import OutputType
from kepler_servers.estimator.model_providers import UnreachableError
from kepler_servers.estimator.remote_providers import UrlProvider

STORE = SHARED / "data" / "model_db"
DATABASE = STORE / "ec2-0.7.11"
MODELS = DATABASE / "rapl-sysfs" / "AbsPower"

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATABASE.is_dir(), reason=f"the public model database is missing: {DATABASE}"),
]

ROWS = {
    "BPFOnly": [[0.0, 0.0], [1234.5, 17.0], [40_000.0, 250.0], [95_877.0, 1e6]],
    "CounterOnly": [[0.0, 0.0, 0.0], [1e9, 5e10, 4e10], [4e10, 2e11, 3e11], [9e9, 1e8, 3e8]],
}
"""Rows of features for each feature group, in the order of `GROUPS`. The first row is the idle node."""


def watts_of(weights: Path, group: str) -> dict[str, list[float]]:
    """Return the watts that a weight file gives for `ROWS`. Components that are always 0 W are left out."""
    powers: dict[str, list[float]] = {}
    for component, entry in json.loads(weights.read_bytes()).items():
        formula = entry["All_Weights"]
        variables = formula["Numerical_Variables"]
        powers[component] = [
            formula["Bias_Weight"]
            + sum(variables[f]["weight"] * x / variables[f]["scale"] for f, x in zip(GROUPS[group], row, strict=True))
            for row in ROWS[group]
        ]
    return {component: watts for component, watts in powers.items() if any(watts)}


def check_reply(reply: dict[str, Any], group: str, node_type: int, message: str) -> None:
    expected = watts_of(MODELS / group / f"SGDRegressorTrainer_{node_type}.json", group)
    assert reply["powers"].keys() == expected.keys() == {"package", "dram"}
    for component, watts in expected.items():
        assert reply["powers"][component] == pytest.approx(watts, abs=0.001)
        assert reply["powers"][component][0] > 10, "the idle node has power"
    assert reply["msg"] == message


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the description of the machine of node type 0."""
    path = tmp_path_factory.mktemp("machine") / "machine.json"
    path.write_text(json.dumps(json.loads((DATABASE / "node_type_index.json").read_bytes())["0"]["attrs"]))
    return path


def request_for(group: str) -> dict[str, Any]:
    features = GROUPS[group]
    order = range(len(features))[::-1]
    rows = [[row[index] for index in order] for row in ROWS[group]]
    return {**watts_request(rows), "metrics": [features[index] for index in order]}


@pytest.mark.parametrize("group", ROWS)
@pytest.mark.parametrize(
    "named", ["SGDRegressorTrainer_0.zip", "SGDRegressorTrainer_0.json", "XgboostFitTrainer_0.zip"]
)
def test_a_url(tmp_path: Path, machine: Path, group: str, named: str) -> None:
    keys = {"NODE_COMPONENTS_INIT_URL": (MODELS / group / named).as_uri()}
    with running_estimator(tmp_path / "e.sock", "--machine-spec", machine, environ=keys) as estimator:
        reply = estimator.ask(request_for(group))
    own_weights = named.startswith("SGDRegressorTrainer_0")
    message = "" if own_weights else "linear weights of SGDRegressorTrainer_0 stand in for XgboostFitTrainer_0"
    check_reply(reply, group, 0, message)
    assert reply["core_ratio"] == 1.0


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(STORE, tmp_path_factory.mktemp("log") / "server.log") as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("group", ROWS)
@pytest.mark.parametrize("trainer", ["", "LinearRegressionTrainer", "XgboostFitTrainer"])
@pytest.mark.parametrize("provider", ["store", "model server"])
def test_a_store_and_a_model_server(
    tmp_path: Path, machine: Path, server_url: str, provider: str, trainer: str, group: str
) -> None:
    arguments = ("-s", STORE) if provider == "store" else ("--model-server", server_url)
    with running_estimator(tmp_path / "e.sock", *arguments, "--machine-spec", machine) as estimator:
        reply = estimator.ask({**request_for(group), "trainer_name": trainer})
    best = trainer or "XgboostFitTrainer"
    check_reply(reply, group, 0, f"linear weights of SGDRegressorTrainer_0 stand in for {best}_0")
    assert reply["core_ratio"] == 1.0


def test_every_file_has_a_model_or_the_reason_why_not() -> None:
    answered: list[Path] = []
    refused: dict[str, str] = {}
    for path in sorted(DATABASE.glob("rapl-sysfs/*/*/*_*")):
        output_type: OutputType = "AbsPower" if path.parts[-3] == "AbsPower" else "DynPower"
        key = f"{'NODE' if output_type == 'AbsPower' else 'CONTAINER'}_COMPONENTS_INIT_URL"
        request = ModelRequest(output_type, (*BPF, *COUNTERS), "intel_rapl", portable=True)
        try:
            model = UrlProvider({key: path.as_uri()}).offer(request).load()
        except UnreachableError as error:
            refused[f"{path.parts[-3]}/{path.parts[-2]}/{path.name}"] = str(error)
            continue
        answered.append(path)
        idle, busy = model.watts([[0.0] * 5, [20_000, 100, 1e9, 5e10, 5e10]], (*BPF, *COUNTERS)).sum(axis=0)
        assert 50 < idle < busy < 1000
    # The database has no linear weights for DynPower, and no BPFOnly weights for node type 2.
    assert (len(answered), len(refused)) == (82, 11)
    assert all("no linear weights in its folder" in reason for reason in refused.values())
    assert {name for name in refused if not name.startswith("DynPower/")} == {
        f"AbsPower/BPFOnly/{name}"
        for name in (
            "LinearRegressionTrainer_2.zip",
            "LogarithmicRegressionTrainer_2.json",
            "LogarithmicRegressionTrainer_2.zip",
            "XgboostFitTrainer_2.zip",
        )
    }
