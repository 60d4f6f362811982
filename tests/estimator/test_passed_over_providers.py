"""Tests that replies and the table of `estimator status` state why the estimator did not use a model provider."""

from __future__ import annotations

from pathlib import Path

from support.command import kepler
from support.estimator_clients import REQUEST, WATTS, watts_request
from support.estimator_process import EstimatorProcess, running_estimator
from support.linear_models import ABS, ALL, publish
from support.server_process import free_port

from kepler_core.store.layout import zip_bytes

NOBODY = "no model of trainer 'Nobody'; known: SGDRegressorTrainer"


def status_lines(estimator: EstimatorProcess) -> list[str]:
    """Return the lines that `kepler-model estimator status` prints."""
    return kepler("estimator", "status", "--socket", estimator.path).stdout.splitlines()


def test_joined_reasons_say_whose_they_are(tmp_path: Path) -> None:
    publish(tmp_path / "s", *ALL)
    url = f"http://127.0.0.1:{free_port()}"
    keys = {"NODE_TOTAL_INIT_URL": (tmp_path / "x.zip").as_uri()}
    with running_estimator(tmp_path / "e.sock", "--model-server", url, "-s", tmp_path / "s", environ=keys) as estimator:
        message = estimator.ask(watts_request(trainer_name="Nobody"))["msg"]
    server, _, rest = message.partition("; ")
    assert server.startswith(f"model server {url}/model: ")
    assert server.count(url) == 1
    assert rest == f"configured URLs: NODE_COMPONENTS_INIT_URL is not set; store {tmp_path / 's'}: {NOBODY}"


def test_a_reason_that_two_providers_give_is_not_repeated(tmp_path: Path) -> None:
    publish(tmp_path / "s", ABS)
    (tmp_path / "m.zip").write_bytes(zip_bytes(ABS.stored()[1]))
    keys = {"NODE_COMPONENTS_INIT_URL": (tmp_path / "m.zip").as_uri()}
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "s", environ=keys) as estimator:
        message = estimator.ask(watts_request(trainer_name="Nobody"))["msg"]
    assert message == f"NODE_COMPONENTS_INIT_URL, store {tmp_path / 's'}: {NOBODY}"


def test_a_single_reason_names_the_missing_keys(tmp_path: Path) -> None:
    keys = {"NODE_COMPONENTS_INIT_URL": (tmp_path / "m.zip").as_uri()}
    with running_estimator(tmp_path / "e.sock", environ=keys) as estimator:
        assert estimator.ask(watts_request(source="acpi"))["msg"] == "NODE_TOTAL_INIT_URL is not set"
        message = estimator.ask(watts_request(output_type="DynPower", source="acpi"))["msg"]
    assert message == "none of CONTAINER_TOTAL_INIT_URL, PROCESS_TOTAL_INIT_URL is set"


def test_the_table_shows_reasons_below_it(tmp_path: Path) -> None:
    publish(tmp_path / "s", *ALL)
    keys = {"NODE_COMPONENTS_INIT_URL": (tmp_path / "missing.zip").as_uri()}
    with running_estimator(tmp_path / "e.sock", "-s", tmp_path / "s", environ=keys) as estimator:
        for trainer in ("", "SGDRegressorTrainer"):
            assert estimator.ask({**REQUEST, "trainer_name": trainer})["powers"] == WATTS
        reason = estimator.ask(watts_request(trainer_name="Nobody"))["msg"]
        lines = status_lines(estimator)
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["type", "source", "trainer", "model", "origin", "age", "s", "core", "ratio"]
    rows = {line.split()[2]: line for line in table[2:5]}
    assert rows.keys() == {"-", "SGDRegressorTrainer", "Nobody"}
    assert "none: NODE_COMPONENTS_INIT_URL: file://" in rows["Nobody"]
    assert "…" in rows["Nobody"]
    unreachable = f"NODE_COMPONENTS_INIT_URL: {keys['NODE_COMPONENTS_INIT_URL']}: No such file or directory"
    assert table[5:] == [
        f"passed over for AbsPower, intel_rapl and 1 more: {unreachable}",
        f"no model for AbsPower, intel_rapl, Nobody: {reason}",
    ]
    assert reason == f"{unreachable}; store {tmp_path / 's'}: {NOBODY}"
