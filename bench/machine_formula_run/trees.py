"""Errors of the models that `kepler-model machines fit` trains, on the fixed splits of the public table.

The trainer, the held-out machines and the calibration of the intervals are those of `machines fit`. To save time, the
models are not stored, and the terms of an interval are measured only on held-out machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask
from kepler_core.honesty.interval import SAME_TYPE, half_width
from kepler_core.pipeline.interval_terms import interval_terms
from kepler_core.plugins import registry
from kepler_profiler.machine_features import LOAD, REFERENCE, YEAR, machine_features, vendors_of
from kepler_profiler.machine_model import NEWER_FACTOR, outside_half
from kepler_profiler.machine_pipeline import TRAINER, nodes_of
from kepler_profiler.machine_tables import MeasuredMachine
from machine_formula_run.fitting import Folds

SPLITS = ("group5", "cpumodel5", "newer")
INNER_FOLDS = 5


def tree_errors(
    machines: Sequence[MeasuredMachine], folds: Folds, splits: Sequence[str] = SPLITS
) -> dict[str, dict[str, float]]:
    """Return the errors (in percent) on each split, without and with a known idle power.

    The errors are measured for models from all facts of the table, and for models from the facts that every machine can
    find out about itself (`basic`).
    """
    result = {}
    for basic in (False, True):
        for with_idle in (False, True):
            for split in splits:
                key = f"trees{', basic facts' if basic else ''}, {split}{', idle power known' if with_idle else ''}"
                result[key] = split_errors(machines, folds[split], with_idle=with_idle, basic=basic)
    return result


def split_errors(
    machines: Sequence[MeasuredMachine],
    folds: Sequence[tuple[frozenset[str], frozenset[str]]],
    *,
    with_idle: bool,
    basic: bool = False,
) -> dict[str, float]:
    """Return MAPE, coverage and mean half-width (in percent) of each fold's models on its test machines."""
    relative, inside, widths = [], [], []
    for train, test in folds:
        fitted = [machine for machine in machines if machine.name in train]
        tested = [machine for machine in machines if machine.name in test]
        vendors = () if basic else vendors_of(fitted)
        X, y, features = _rows(fitted, vendors, with_idle, basic)
        test_X, measured, _ = _rows(tested, vendors, with_idle, basic)
        watts = _predicted(features, X, y, test_X)
        terms = _terms(fitted, features, X, y)
        half = half_width(terms, watts, np.zeros(len(watts), dtype=bool), SAME_TYPE)
        idle = np.repeat([one.watts[0] if with_idle else 0.0 for one in tested], [len(one.loads) for one in tested])
        year = features.index(YEAR)
        is_newer = test_X[:, year] > X[:, year].max()
        half = np.where(is_newer, outside_half(half, watts - idle, NEWER_FACTOR), half)
        relative.append(np.abs(watts / measured - 1))
        inside.append(np.abs(watts - measured) <= half)
        widths.append(half / watts)
    return {
        "mape": 100 * float(np.mean(np.concatenate(relative))),
        "coverage": 100 * float(np.mean(np.concatenate(inside))),
        "half_width": 100 * float(np.mean(np.concatenate(widths))),
    }


def _rows(
    machines: Sequence[MeasuredMachine], vendors: Sequence[str], with_idle: bool, basic: bool
) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """Return the features, shape (rows, features), the measured watts, shape (rows,), and the features' names."""
    rows = []
    for machine in machines:
        idle = float(machine.watts[0]) if with_idle else None
        facts = machine_features(machine.description, None if basic else machine.facts, machine.words, vendors, idle)
        rows += [{LOAD: float(load), **facts} for load in machine.loads]
    features = tuple(rows[0])
    watts = np.concatenate([machine.watts for machine in machines])
    return np.array([[row[name] for name in features] for row in rows]), watts, features


def _predicted(features: tuple[str, ...], X: FloatArray, y: FloatArray, test_X: FloatArray) -> FloatArray:
    """Return the watts that the trainer's model predicts for `test_X`. Columns are divided by their maximum, as in a
    training."""
    largest = np.abs(X).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    trainer = registry.trainers.create(TRAINER, {"reference": REFERENCE, "rising": [LOAD]})
    task = FitTask("platform", features, LOAD, "AbsPower", 0, tuple(map(float, scale)))
    watts: FloatArray = trainer.regressor(task).fit(X / scale, y).predict(test_X / scale)
    return np.maximum(watts, 0.0)


def _terms(machines: Sequence[MeasuredMachine], features: tuple[str, ...], X: FloatArray, y: FloatArray) -> Any:
    """Return the terms of the interval, measured on held-out nodes."""
    counts = [len(machine.loads) for machine in machines]
    node = np.repeat(np.unique(nodes_of(machines), return_inverse=True)[1].reshape(-1), counts)
    predicted = np.empty(len(y))
    for fold in range(INNER_FOLDS):
        test = node % INNER_FOLDS == fold
        predicted[test] = _predicted(features, X[~test], y[~test], X[test])
    rows: Any = SimpleNamespace(
        node_watts={"platform": y},
        node=node,
        recording=np.zeros_like(node),
        stream=node,
        load=X[:, features.index(LOAD)],
    )
    held_out = {"platform": predicted}
    return interval_terms(rows, {"blocks": held_out, "nodes": held_out}, "platform")
