"""Tests that the watts of the estimator are the watts of `kepler-model estimate` and of the model itself."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from support.command import kepler
from support.estimator_clients import checked_reply, watts_request
from support.estimator_process import EstimatorProcess, running_estimator

from kepler_core.client import EstimatorClient
from kepler_core.estimate import estimate
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.selection import ModelRequest, read_catalogue
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_servers.estimator.replies import READ_LIMIT, watts_reply

_FEW_TREES = "{name: GradientBoostingRegressorTrainer, args: {n_estimators: 20}}"
_PIPELINE = f"""
name: trained
energy_sources: [rapl-sysfs, acpi]
feature_groups: [BPFOnly, CounterOnly]
abs_trainers: [SGDRegressorTrainer, {_FEW_TREES}, KNeighborsRegressorTrainer]
dyn_trainers: [SGDRegressorTrainer, {_FEW_TREES}]
validation: {{folds: 2, regimes: 2}}
max_rows: 400
"""


@attrs.frozen
class Trained:
    """An estimator with replies of unlimited length, its store, and the observations on which models were trained."""

    estimator: EstimatorProcess
    store: Path
    observations: Any


@contextmanager
def trained(folder: Path, recording: Path) -> Iterator[Trained]:
    """Train a pipeline on a recording, and start an estimator with the trained models."""
    pipeline = folder / "trained.yaml"
    pipeline.write_text(_PIPELINE)
    completed = kepler("train", pipeline, "-i", recording, "-s", folder, "--jobs", "1")
    # The exit code is 3 if the recording lacks the features of one of the feature groups.
    assert completed.returncode in (0, 3), completed.stderr
    with running_estimator(folder / "e.sock", "-s", folder, "--reply-limit", "0") as estimator:
        yield Trained(estimator, folder, observe([read_recording(str(recording))]))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("simulated")
    write(Simulation(containers=6, timestamps=120), str(folder / "r.json.gz"))
    with trained(folder, folder / "r.json.gz") as on_simulation:
        yield on_simulation


@pytest.fixture(scope="module")
def coremark(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with trained(tmp_path_factory.mktemp("coremark"), recordings / "kepler_coremark.json") as on_coremark:
        yield on_coremark


def check_same_watts(trained: Trained, output_type: Any, source: str, trainer: str) -> None:
    """Compare the estimator's watts with the watts from `kepler-model estimate` and from the model itself."""
    catalogue = read_catalogue(open_store(str(trained.store)))
    features = tuple(trained.observations.features)
    request = ModelRequest(output_type, features, source, trainer=trainer or None, portable=True)
    model = catalogue.select(request).model
    estimated = estimate(model, trained.observations)
    extractor = registry.extractors.create("DefaultExtractor")
    by_container = output_type == "DynPower"
    rows = extractor.extract(trained.observations, model.features, model.source, (), by_container=by_container)
    random_order = random.Random(f"{output_type} {source} {trainer}")
    for count in (1, 130, 260, 500):
        indices = np.resize(np.arange(len(rows.X)), count)
        X = rows.X[indices].copy()
        X[-1] = 0.0  # the last row requests the idle power
        expected = {
            component: np.append(
                estimated.frame[f"{component}_predicted"].to_numpy()[indices][:-1],
                model.load().predict(X[-1:])[component],
            )
            for component in model.load().components
        }
        columns = {name: X[:, n] for n, name in enumerate(model.features)}
        powers = ask_in_random_orders(trained.estimator, columns, random_order, output_type, source, trainer)
        for component, watts in expected.items():
            replied = np.array(powers.get(component, [0.0] * count))
            assert np.abs(replied - watts).max() <= 0.0005 + 1e-9, component
        assert set(powers) <= set(expected)
        # If a reply is limited to `READ_LIMIT` bytes, it may be less exact, but still has a value for each row.
        content = watts_reply(tuple(expected), np.array(list(expected.values())), limit=READ_LIMIT).content
        assert len(content) <= READ_LIMIT
        assert all(len(values) == count for values in checked_reply(content)["powers"].values())


def ask_in_random_orders(
    estimator: EstimatorProcess,
    columns: dict[str, Any],
    random_order: random.Random,
    output_type: str,
    source: str,
    trainer: str,
) -> dict[str, list[float]]:
    """Request watts three times, with columns in random order and additional columns.

    Check that the three replies are equal, and return their powers.
    """
    count = len(next(iter(columns.values())))
    columns |= {"task_clock_ms": np.arange(count, dtype=float), "other": np.full(count, 3.25)}
    client = EstimatorClient(str(estimator.path))
    replies = []
    for _ in range(3):
        names = random_order.sample(sorted(columns), len(columns))
        values = np.column_stack([columns[name] for name in names]).tolist()
        values[0] = [int(value) if value == int(value) else value for value in values[0]]
        replies.append(client.ask(watts_request(values, names, output_type, source, trainer_name=trainer)))
    assert replies[0] == replies[1] == replies[2]
    powers: dict[str, list[float]] = replies[0]["powers"]
    return powers


_REQUESTS = [
    ("AbsPower", "intel_rapl", ""),
    ("DynPower", "intel_rapl", ""),
    ("AbsPower", "acpi", ""),
    ("DynPower", "acpi", ""),
    ("AbsPower", "rapl", "GradientBoostingRegressorTrainer"),
    ("DynPower", "rapl-sysfs", "GradientBoostingRegressorTrainer"),
    ("AbsPower", "acpi", "GradientBoostingRegressorTrainer"),
    ("AbsPower", "intel_rapl", "KNeighborsRegressorTrainer"),
    ("AbsPower", "intel_rapl", "SGDRegressorTrainer"),
]


@pytest.mark.parametrize(("output_type", "source", "trainer"), _REQUESTS)
def test_same_watts(simulated: Trained, output_type: str, source: str, trainer: str) -> None:
    check_same_watts(simulated, output_type, source, trainer)


@pytest.mark.parametrize(("output_type", "source", "trainer"), _REQUESTS)
def test_same_watts_on_real_data(coremark: Trained, output_type: str, source: str, trainer: str) -> None:
    check_same_watts(coremark, output_type, source, trainer)


def test_integers_and_floats_are_the_same(simulated: Trained) -> None:
    estimator = simulated.estimator
    floats = watts_request([[1500.0, 20.0], [0.0, 0.0]])
    integers = watts_request([[1500, 20], [0, 0]])
    assert estimator.ask(integers) == estimator.ask(floats)
    assert estimator.ask(json.dumps(integers).replace("1500", "15e2").encode()) == estimator.ask(floats)
