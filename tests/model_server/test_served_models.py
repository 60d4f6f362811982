"""Tests that the server returns the models in its store, and that `kepler-model select` chooses the same models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.model_server import (
    ALL_FEATURES,
    MINIMAL,
    OTHER_MACHINE,
    checked_error,
    checked_weights,
    kepler_process,
)
from support.server_process import ServerProcess, serving
from support.small_pipelines import BPF, CAPTURED, evaluate
from support.training import train

from kepler_core.models.loading import load_model
from kepler_core.selection import read_catalogue
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_core.store.archive import read_zip
from kepler_core.store.local import LocalStore
from kepler_profiler.similarity import SpecTable


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model store with a pipeline that was trained on a simulated recording."""
    folder = tmp_path_factory.mktemp("trained")
    write(Simulation(containers=5, timestamps=150), str(folder / "recording.json.gz"))
    (folder / "small.yaml").write_text(
        "energy_sources: [rapl-sysfs]\nfeature_groups: [BPFOnly]\n"
        "abs_trainers: [SGDRegressorTrainer, GradientBoostingRegressorTrainer]\ndyn_trainers: [SGDRegressorTrainer]\n"
        "validation: {folds: 2, regimes: 2}\n"
    )
    train(folder / "small.yaml", "-i", folder / "recording.json.gz", "-s", folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def trained_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(trained, tmp_path_factory.mktemp("log") / "trained.log") as process:
        yield process


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_kepler_computes_the_watts_of_the_model(trained: Path, trained_server: ServerProcess, output_type: str) -> None:
    models = {model.path: model for model in read_catalogue(open_store(str(trained)), compare=SpecTable).models}
    answer = checked_weights(trained_server.post({**CAPTURED, "output_type": output_type}))
    model = models[answer["selection"]["model"]].load()
    metrics = CAPTURED["metrics"]
    scales = dict(zip(model.features, model.scale, strict=True))
    random_rows = np.random.default_rng(1).random((50, len(metrics)))
    rows = np.vstack([np.zeros(len(metrics)), random_rows]) * [scales.get(metric, 1.0) for metric in metrics]
    expected = model.predict(rows, metrics)
    columns = {name: rows[:, index].tolist() for index, name in enumerate(metrics)}
    watts = evaluate(answer, columns, metrics[0])
    assert set(watts) == set(expected)
    for component, values in expected.items():
        np.testing.assert_allclose(watts[component], values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("trainer", ["GradientBoostingRegressorTrainer", "SGDRegressorTrainer"])
def test_archive_is_the_model(trained: Path, trained_server: ServerProcess, trainer: str) -> None:
    request = {**CAPTURED, "weight": False, "trainer_name": trainer, "portable": True}
    answer = trained_server.post(request)
    assert answer.status == 200
    model = load_model(read_zip(answer.body, "answer"))
    path = answer.headers["x-kepler-model"].partition("/")[2]
    stored = next(m for m in read_catalogue(open_store(str(trained))).models if m.path == path).load()
    rows = np.random.default_rng(2).random((20, 2)) * model.scale
    expected = stored.predict(rows)
    assert stored.metadata["trainer"] == trainer
    for component, watts in model.predict(rows).items():
        np.testing.assert_array_equal(watts, expected[component])


# --- the command `kepler-model select` ---


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"weight": False, "trainer_name": ""},
        {"machine_spec": OTHER_MACHINE},
        {"filter": "mae:3", "metrics": ALL_FEATURES},
    ],
)
def test_select(server: ServerProcess, store: LocalStore, tmp_path: Path, change: dict[str, Any]) -> None:
    request = {**CAPTURED, **change}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = kepler_process("select", "-s", store.root, "--request", tmp_path / "request.json", "--json")
    assert command.returncode == 0, command.stderr
    assert json.loads(command.stdout) == server.post(request, "/model?explain=1").json()


def test_select_with_options(server: ServerProcess, store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(OTHER_MACHINE))
    command = kepler_process(
        "select", "-s", store.root, "--metrics", ",".join(BPF), "--weights", "--source", "rapl",
        "--machine-spec", tmp_path / "spec.json", "--exact", "--json",
    )  # fmt: skip
    request = {**MINIMAL, "weight": True, "source": "rapl", "machine_spec": OTHER_MACHINE, "loose_node_type": False}
    assert json.loads(command.stdout) == server.post(request, "/model?explain=1").json()
    text = kepler_process("select", "-s", store.root, "--metrics", ",".join(BPF), "--node-type", "1")
    assert "XgboostFitTrainer_1 of pipeline made, version 1" in text.stdout


@pytest.mark.parametrize(("change", "code", "status"), [({"metrics": []}, 1, 404), ({"filter": "maee:1"}, 2, 400)])
def test_select_without_a_model(
    server: ServerProcess, store: LocalStore, tmp_path: Path, change: dict[str, Any], code: int, status: int
) -> None:
    (tmp_path / "request.json").write_text(json.dumps({**CAPTURED, **change}))
    command = kepler_process("select", "-s", store.root, "--request", tmp_path / "request.json")
    assert command.returncode == code
    assert command.stdout == ""
    assert checked_error(server.post({**CAPTURED, **change}), status) in command.stderr
    assert len(command.stderr.splitlines()) == 1
