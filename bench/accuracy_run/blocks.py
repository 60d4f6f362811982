"""Measure the errors of models on held-out blocks of time of the stress-ng recording.

The script `evaluate.py`, which is part of the data, computes the errors.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np

from accuracy_run.documents import Document, part, read_document
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import compared, default_spec, observed, trained
from accuracy_run.tail import RECORDING
from kepler_core.pipeline.spec import PluginSpec, ValidationSpec
from kepler_core.store.models import read_models

SPLIT = "nx12/block5"
ASKED = {"CounterOnly": 5.2, "BasicNoPageCache": 4.0}
QUICK_FOLDS = 1
_METRICS = (
    "kepler_container_bpf_cpu_time_ms_total",
    "kepler_container_cpu_cycles_total",
    "kepler_container_cpu_instructions_total",
    "kepler_container_cache_miss_total",
    "kepler_node_package_joules_total",
)


def measure(settings: Settings) -> list[Figure]:
    """Train `BlendTrainer` with `LaggedExtractor` on each fold, and score its predictions for the held-out rows."""
    document = {
        metric: series for metric, series in read_document(settings.path(RECORDING)).items() if metric in _METRICS
    }
    ids = _ids(settings.path("public/nx12_rapl.csv"))
    rows: dict[str, list[tuple[str, float, str]]] = {group: [] for group in ASKED}
    for fold, (train_ids, test_ids) in _folds(settings.path("public/splits/nx12__block5.csv")).items():
        for group, predicted in _predicted(settings, document, fold, {ids[one] for one in train_ids}).items():
            # The first row of the table has no previous timestamp, so it gets the mean of all estimates.
            mean = float(np.mean(list(predicted.values())))
            rows[group] += [(one, predicted.get(ids[one], mean), fold) for one in test_ids]
        if settings.quick and int(fold) + 1 == QUICK_FOLDS:
            break
    errors = {group: _score(settings, group, rows[group]) for group in ASKED}
    return [
        Figure(
            "stress-ng, blocks of time (nx12 block5): BlendTrainer with LaggedExtractor, CounterOnly / Basic",
            "5.95 / 4.44 W",
            " / ".join(f"≤ {asked}" for asked in ASKED.values()) + " W",
            " / ".join(f"{errors[group]:.2f}" for group in ASKED) + " W",
            None if settings.quick else all(errors[group] <= asked for group, asked in ASKED.items()),
            dict(errors),
        )
    ]


def _ids(path: Path) -> dict[str, float]:
    """Return the timestamp of each row of the table, by the row's id."""
    with path.open(newline="") as file:
        return {row["id"]: float(row["timestamp"]) for row in csv.DictReader(file)}


def _folds(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return the ids of the training rows and of the test rows of each fold."""
    folds: dict[str, tuple[list[str], list[str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            folds.setdefault(row["fold"], ([], []))[row["role"] == "test"].append(row["unit"])
    return folds


def _predicted(
    settings: Settings, document: Document, fold: str, train_times: set[float]
) -> dict[str, dict[float, float]]:
    """Train on the training rows of one fold. Return the estimate at each timestamp, for each feature group.

    The held-out times are gaps in the recording that the models are trained on. No rate is computed over a gap.
    """
    spec = default_spec(
        settings,
        f"blocks-{fold}",
        "AbsPower",
        feature_groups=list(ASKED),
        extractor=PluginSpec("LaggedExtractor"),
        validation=ValidationSpec(folds=2),
    )
    if not settings.quick:
        spec = attrs.evolve(spec, abs_trainers=[PluginSpec("BlendTrainer")])
    store, _ = trained(settings, spec, [part(document, train_times.__contains__)])
    observations = observed(spec, document, "all")
    result = {}
    for model in read_models(store.snapshot(spec.name)):
        comparison = compared(model, observations)
        result[model.feature_group] = dict(zip(comparison.time.tolist(), comparison.predicted.tolist(), strict=True))
    return result


def _score(settings: Settings, group: str, rows: list[tuple[str, float, str]]) -> float:
    """Return the mean absolute error in watts, which the script `evaluate.py` computes.

    A quick run has too few folds for `evaluate.py`, so this function then computes the error itself.
    """
    if settings.quick:
        with settings.path("public/nx12_rapl.csv").open(newline="") as file:
            measured = {row["id"]: float(row["package_power"]) for row in csv.DictReader(file)}
        return float(np.mean([abs(watts - measured[one]) for one, watts, _ in rows]))
    path = settings.folder / f"{group}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("id", "prediction", "fold"), *rows])
    command = [sys.executable, str(settings.path("evaluate.py")), "--split", SPLIT, "--json", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout)["all"]["mae"])
