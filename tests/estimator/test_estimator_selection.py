"""Tests that the estimator chooses the right model for a request, and tests of the ratio of cores in its reply."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.estimator_clients import REQUEST, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import ALL, PLATFORM, LinearModel, publish
from support.process import PATIENCE
from support.small_pipelines import BPF


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EstimatorProcess]:
    """An estimator with several models. Each model predicts a different constant power, which identifies the model."""
    folder = tmp_path_factory.mktemp("selection")
    publish(
        folder / "store",
        LinearModel(mae=1.0, watts={"package": (1.0, {})}),
        LinearModel(trainer="OtherTrainer", mae=2.0, watts={"package": (2.0, {})}),
        LinearModel(group="CounterOnly", features=("cpu_cycles",), mae=0.5, watts={"package": (3.0, {})}),
        LinearModel(output_type="DynPower", mae=1.0, watts={"package": (4.0, {}), "dram": (5.0, {})}),
        PLATFORM,
    )
    with running_estimator(folder / "e.sock", "-s", folder / "store") as process:
        yield process


def package_watts(estimator: EstimatorProcess, **changes: Any) -> Any:
    """Send a request. Return the watts of the component `package`, or the message of a reply without these watts."""
    reply = estimator.ask(watts_request(**changes))
    return reply["powers"].get("package", reply["msg"])


def test_the_model_of_a_request_does_not_depend_on_earlier_requests(estimator: EstimatorProcess) -> None:
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, [1.0]),
        ({"trainer_name": "OtherTrainer"}, [2.0]),
        ({"trainer_name": "SGDRegressorTrainer"}, [1.0]),
        ({"metrics": [*BPF, "cpu_cycles"], "rows": [[1, 2, 3]]}, [3.0]),
        ({"metrics": ["cpu_cycles"], "rows": [[3]]}, [3.0]),
        ({"output_type": "DynPower"}, [4.0]),
        ({"filter": "mae:1.5"}, [1.0]),
        ({"trainer_name": "OtherTrainer", "filter": "mae:3"}, [2.0]),
        ({"metrics": [*BPF, "cpu_cycles"], "rows": [[1, 2, 3]], "filter": f"features:{','.join(BPF)}"}, [1.0]),
        ({"trainer_name": "OtherTrainer", "filter": "mae:1.5"}, "none of 1 models meets mae"),
        ({"filter": "mae:0.1"}, "lowest mae"),
        ({"trainer_name": "OthrTrainer"}, "did you mean OtherTrainer"),
        ({"metrics": ["cpu_cycle"], "rows": [[3]]}, "missing"),
        ({"source": "acpy"}, "did you mean acpi"),
        ({"filter": "mea:5"}, "did you mean mae"),
        ({"filter": "mae"}, "attribute:number"),
        ({"filter": "mae:x"}, "not a number"),
        ({"source": "hmc"}, "hmc"),
    ]  # fmt: skip
    shuffled = random.Random(7)
    for _ in range(6):
        shuffled.shuffle(cases)
        for changes, expected in cases:
            result = package_watts(estimator, **changes)
            assert result == expected if isinstance(expected, list) else expected in result, (changes, result)


def test_all_names_of_an_energy_source_select_the_same_model(estimator: EstimatorProcess) -> None:
    for source in ("intel_rapl", "rapl", "rapl-sysfs", ""):
        assert package_watts(estimator, source=source) == [1.0], source
    request = watts_request()
    del request["source"]
    assert estimator.ask(request)["powers"]["package"] == [1.0]


@pytest.mark.parametrize(
    "changes",
    [{"trainer_name": "Nobody"}, {"filter": "mae:0.1"}, {"metrics": ["x"]}, {"metrics": ["x", "x"]}, {"filter": "?"}],
    ids=str,
)
def test_a_failed_dynpower_request_gets_a_zero_per_row(estimator: EstimatorProcess, changes: dict[str, Any]) -> None:
    width = len(changes.get("metrics", BPF))
    reply = estimator.ask(watts_request([[1] * width] * 7, output_type="DynPower", **changes))
    assert reply["powers"]["package"] == [0] * 7
    assert reply["msg"]
    reply = estimator.ask(watts_request([[1] * width] * 7, **changes))
    assert reply["powers"] == {}
    assert reply["msg"]


def test_a_failed_dynpower_request_gets_the_component_of_its_source(estimator: EstimatorProcess) -> None:
    reply = estimator.ask(watts_request([[1, 1]] * 3, output_type="DynPower", source="acpi"))
    assert reply["powers"] == {"platform": [0, 0, 0]}


def test_the_reason_for_a_failure_is_about_the_request_itself(estimator: EstimatorProcess) -> None:
    for name in ("first_of_them", "second_of_them"):
        reply = estimator.ask(watts_request([[1]], metrics=[name]))
        assert name in reply["msg"]
        assert {"first_of_them": "second", "second_of_them": "first"}[name] not in reply["msg"]


def test_invalid_rows_get_zeros_and_are_counted(estimator: EstimatorProcess) -> None:
    before = estimator.status()["invalid_rows"]
    content = json.dumps(watts_request(output_type="DynPower")).replace("[100, 200]", "[1,2],[NaN,1],[1],[3,4]")
    reply = estimator.ask(content.encode())
    assert reply["powers"] == {"package": [4.0, 0.0, 0.0, 4.0], "dram": [5.0, 0.0, 0.0, 5.0]}
    assert "2 rows" in reply["msg"]
    assert estimator.status()["invalid_rows"] == before + 2


# --- the machines of the estimator and of the model ---


@pytest.mark.parametrize(
    ("own", "model", "ratio"),
    [
        ({"cores": 16}, {"cores": 32}, 0.5),
        ({"cores": 96, "processor": "other"}, {"cores": 32}, 3.0),
        ({"cores": 1}, {"cores": 3}, 0.333333),
        ({"processor": "other"}, {"cores": 32}, None),
        ({"cores": 0}, {"cores": 32}, None),
        ({"cores": 16}, {"processor": "made_up"}, None),
        ({"cores": 16}, {"cores": 0}, None),
        ({"cores": 16}, {"cores": True}, None),
        ({"cores": 16}, {"cores": "32"}, None),
        (None, {"cores": 32}, round((os.cpu_count() or 0) / 32, 6)),
    ],
    ids=str,
)
def test_every_reply_has_the_ratio_of_cores(
    tmp_path: Path, own: dict[str, Any] | None, model: dict[str, Any], ratio: float | None
) -> None:
    """Check the key `core_ratio` of replies. `own` is the estimator's machine, `model` is the model's machine."""
    publish(tmp_path / "store", *ALL, machine=model)
    arguments: list[str | Path] = ["-s", tmp_path / "store"]
    if own is not None:
        (tmp_path / "machine.json").write_text(json.dumps(own))
        arguments += ["--machine-spec", tmp_path / "machine.json"]
    with running_estimator(tmp_path / "e.sock", *arguments) as estimator:
        requests: list[Any] = [
            REQUEST, REQUEST, watts_request(output_type="DynPower"), watts_request(source="acpi"),
            watts_request([[0, 0]]), watts_request([[1, 1]] * 700), watts_request([[-1, 0], [0, 0]]), watts_request([]),
        ]  # fmt: skip
        for request in requests:
            reply = estimator.ask(request)
            assert reply.get("core_ratio") == ratio
            assert ("core_ratio" in reply) == (ratio is not None)


@pytest.mark.parametrize("content", ["", "[]", '{"cores":"many"}', '{"cores":-1}', "{" * 5000, None], ids=repr)
def test_an_invalid_machine_spec_ends_the_command_with_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "machine.json").write_text(content)
    estimator = EstimatorProcess(tmp_path / "e.sock", "--machine-spec", tmp_path / "machine.json")
    assert estimator.process.wait(PATIENCE) == 2
    assert len(estimator.log.splitlines()) == 1
    assert "machine.json" in estimator.log
