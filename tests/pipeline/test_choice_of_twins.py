"""Test that a training chooses a model's twin by the same rule by which model selection ranks models."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import pytest

from kepler_core.dataset import NODE_LEVELS, Dataset
from kepler_core.pipeline.fit import FitJob, FitResult, all_baselines, fit
from kepler_core.pipeline.honesty import seen
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.pipeline.twins import with_twins
from kepler_core.pipeline.validation import folds

COUNTERS = ("cpu_cycles", "cpu_instructions")
SAMPLES = 200


def job(trainer: str, group: str, features: tuple[str, ...]) -> FitJob:
    rng = np.random.default_rng(0)
    cycles = rng.uniform(0, 1e11, SAMPLES)
    columns = {
        "cpu_cycles": cycles,
        "cpu_instructions": 1.2 * cycles,
        "bpf_cpu_time_ms": cycles / 3e6,
        "package_power": 40 + 1e-9 * cycles + rng.standard_normal(SAMPLES),
    }
    index = pd.MultiIndex.from_product([["r"], ["node"], 1e9 + 3.0 * np.arange(SAMPLES)]).set_names(NODE_LEVELS)
    frame = pd.DataFrame(columns, index=index)[[*features, "package_power"]]
    data = Dataset(frame, features, "rapl-sysfs", ("package",), feature_group=group)
    rows = training_rows(data, 1000, 1000, 0)
    held_out = folds(ValidationSpec(), rows.stream, rows.time)
    return FitJob(
        rows=rows, folds=held_out, splits={"blocks": held_out}, seen=seen(data, rows),
        baselines=all_baselines(rows, held_out), trainer=trainer, args={}, seed=0, node_type=0, machine_spec={},
        validation={}, lineage={},
    )  # fmt: skip


def stating(result: FitResult, **blocks: Any) -> FitResult:
    """Return a fitted model whose metadata have other errors on the split `blocks` (held-out blocks of time)."""
    assert result.files is not None, result.reason
    metadata = msgspec.json.decode(msgspec.json.encode(result.metadata))
    metadata["honesty"]["splits"]["blocks"] |= {"worst": None, **blocks}
    return attrs.evolve(result, metadata=metadata)


@pytest.mark.parametrize(
    ("standard_error", "chosen"),
    [(0.8, "KNeighborsRegressorTrainer_0"), (0.1, "LinearRegressionTrainer_0"), (None, "LinearRegressionTrainer_0")],
)
def test_the_error_before_a_recalibration_decides_between_twins_with_nearly_equal_errors(
    standard_error: float | None, chosen: str
) -> None:
    jobs = [
        job("LinearRegressionTrainer", "Basic", (*COUNTERS, "bpf_cpu_time_ms")),
        job("LinearRegressionTrainer", "CounterOnly", COUNTERS),
        job("KNeighborsRegressorTrainer", "CounterOnly", COUNTERS),
    ]
    richer, linear, neighbours = map(fit, jobs)
    results = [
        richer,
        stating(linear, mae=5.0, standard_error=standard_error, earlier=30.0),
        stating(neighbours, mae=5.5, standard_error=standard_error, earlier=10.0),
    ]
    twin = with_twins(jobs, results)[0].metadata["honesty"]["twin"]
    assert (twin["feature_group"], twin["model_name"]) == ("CounterOnly", chosen)
