"""Tests of the block `honesty` (errors and intervals) in the metadata of models that a retraining publishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("scipy")

from support.linear_models import MACHINE, LinearModel, publish
from support.small_pipelines import BPF

from kepler_core.arrays import FloatArray
from kepler_core.machine import Machine, machine_spec_from
from kepler_core.store import Store, open_store
from kepler_core.store.layout import REPORT_FILE
from kepler_core.store.models import StoredModel, read_models
from kepler_servers.online_trainer.retraining.candidates import Candidate, Candidates
from kepler_servers.online_trainer.retraining.comparison import CandidateResult, Comparison
from kepler_servers.online_trainer.retraining.evaluation import Evaluation
from kepler_servers.online_trainer.retraining.inputs import read_served
from kepler_servers.online_trainer.retraining.publishing import Outcome, publish_better
from kepler_servers.online_trainer.retraining.restated_errors import restate

RICH, POOR = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0", "rapl-sysfs/AbsPower/CPUTime/SGDRegressorTrainer_0"
TERMS: dict[str, Any] = {
    "lowest": 10.0, "highest": 200.0, "edges": [50.0], "quantiles": [3.0, 3.0], "session": 1.0,
    "machine_idle": 0.1, "machine_loaded": 0.1, "noise": 0.1,
}  # fmt: skip
HONESTY: dict[str, Any] = {
    "splits": {
        "blocks": {"mae": 1.0, "components": {}, "parts": 5, "worst": 2.0},
        "regimes": {"mae": 4.0, "components": {}, "parts": 8, "worst": 5.0},
    },
    "hardest": "regimes",
    "seen": {"recordings": 1, "days": 1, "nodes": 1, "samples": 100, "features": {}},
    "level": 0.9,
    "intervals": {"package": TERMS, "dram": TERMS},
    "twin": {"model_name": "SGDRegressorTrainer_0", "feature_group": "CPUTime", "limits": {"package": 5.0}},
}
CHECKED = LinearModel(honesty=HONESTY)
TWIN = LinearModel(group="CPUTime", features=BPF[:1], watts={"package": (50.0, {}), "dram": (1.0, {})})


def evaluation(error: FloatArray, power: float = 40.0) -> Evaluation:
    """Return an evaluation with a sample for each error in `error`.

    The errors, in watts, are errors of `package`. The predictions of `dram` have no error.
    """
    measured = np.full(len(error), power)
    predicted = {"package": measured + error, "dram": measured}
    samples = tuple(("a-node", float(second)) for second in range(len(error)))
    load = np.arange(len(error), dtype=np.float64)
    return Evaluation(samples, predicted, {"package": measured, "dram": measured}, load, np.zeros(len(error), bool))


def test_higher_errors_are_in_the_splits_and_the_intervals() -> None:
    """Errors and intervals in the metadata are increased, and so is the error on the worst part of the samples."""
    error = np.repeat([2.0, 2.0, 2.0, 9.0, 3.0], 20)
    metadata, files = CHECKED.stored()
    restated = restate(metadata | {"package_mae": 1.0, "dram_mae": 1.0}, files, evaluation(error))
    assert restated is not None
    honesty = restated[0]["honesty"]
    blocks = honesty["splits"]["blocks"]
    assert (blocks["mae"], blocks["worst"], honesty["hardest"]) == (3.6, 9.0, "blocks")
    assert (blocks["components"]["package"]["bias"], blocks["components"]["package"]["rows"]) == (3.6, 100)
    assert honesty["splits"]["regimes"] == {**HONESTY["splits"]["regimes"]}
    # All 100 samples are in the lower of two load bins. The 91st of the 100 sorted errors is the bin's quantile.
    assert honesty["intervals"]["package"]["quantiles"] == [9.0, 3.0]
    assert honesty["intervals"]["dram"]["quantiles"] == [3.0, 3.0]
    assert json.loads(restated[1]["metadata.json"])["honesty"] == honesty


def test_lower_errors_leave_the_model_as_it_is() -> None:
    metadata, files = CHECKED.stored()
    errors = {"package_mae": 1.0, "dram_mae": 1.0}
    assert restate(metadata | errors, files, evaluation(np.full(100, 0.5))) is None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    publish(tmp_path / "store", CHECKED, TWIN)
    return open_store(str(tmp_path / "store"))


def published_twin(store: Store, **kinds: str) -> Any:
    """Publish a version with new models in place of the served models `rich` or `poor`.

    `kinds` states for each new model whether it is retrained or recalibrated. Returns the twin in the published
    metadata of `rich`, or None.
    """
    served = read_served(store, "made", Machine(machine_spec_from(MACHINE, "machine")))
    by_name = {"rich": RICH, "poor": POOR}
    winners = {by_name[name]: candidate(served.own[by_name[name]], kind) for name, kind in kinds.items()}
    better = Comparison(True, "it is better", 1.0)
    results = [CandidateResult(path, winner, None, None, better) for path, winner in winners.items()]
    outcome = Outcome(Candidates({}, served.snapshot, None), results, winners, {})
    decision: dict[str, Any] = {}
    publish_better(store, "made", served, outcome, decision, lambda _: b"the page")
    assert decision["version"] == 2
    assert store.snapshot("made").read(REPORT_FILE) == b"the page"
    return next(m for m in read_models(store.snapshot("made")) if m.path == RICH).metadata["honesty"]["twin"]


def candidate(entry: StoredModel, kind: str) -> Candidate:
    model = CHECKED if entry.path == RICH else TWIN
    metadata, files = model.stored()
    return Candidate(kind, metadata, files, 0.0)


@pytest.mark.parametrize("kind", ["retrained", "recalibrated"])
def test_models_that_become_new_together_stay_twins(kind: str, store: Store) -> None:
    assert published_twin(store, rich=kind, poor=kind) == HONESTY["twin"]


@pytest.mark.parametrize(
    "kinds",
    [{"rich": "retrained"}, {"poor": "retrained"}, {"rich": "retrained", "poor": "recalibrated"}],
    ids=["only the model", "only the twin", "in different ways"],
)
def test_a_twin_of_another_training_is_dropped(kinds: dict[str, str], store: Store) -> None:
    """The twin is removed from a model's metadata if the two models were not made in the same way at the same time."""
    assert published_twin(store, **kinds) is None
