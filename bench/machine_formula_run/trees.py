"""Measure the errors of the models of `kepler-model machines fit` on the fixed splits of the public table.

The trainer, the held-out machines and the calibration of the intervals are those of `machines fit`. To save time, the
models are not stored, and all error terms of an interval are measured on the same held-out machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from kepler_core.honesty.interval import SAME_TYPE, half_width
from kepler_core.pipeline.interval_terms import interval_terms
from kepler_profiler.machine_calibration import MachineRows, interval_factors, predicted
from kepler_profiler.machine_features import LOAD, YEAR, vendors_of
from kepler_profiler.machine_pipeline import ARGUMENTS, TRAINER, nodes_of
from kepler_profiler.machine_tables import MeasuredMachine
from machine_formula_run.fitting import Folds

SPLITS = ("group5", "cpumodel5", "newer")
INNER_FOLDS = 5


def tree_errors(
    machines: Sequence[MeasuredMachine], folds: Folds, splits: Sequence[str] = SPLITS
) -> dict[str, dict[str, float]]:
    """Return the errors (in percent) on each split, without and with a known idle power.

    There are two kinds of models. Models of the first kind use all facts in the table. Models of the second kind
    (`basic`) use only the facts that every machine can find out about itself.
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
        rows = MachineRows.of(fitted, vendors, with_idle=with_idle, basic=basic)
        new = MachineRows.of(tested, vendors, with_idle=with_idle, basic=basic)
        watts = predicted(rows.features, rows.X, rows.watts, new.X, TRAINER, ARGUMENTS)
        nodes = nodes_of(fitted)
        terms = _terms(rows, nodes)
        factors = interval_factors(fitted, nodes, rows, terms, TRAINER, ARGUMENTS)
        year = rows.features.index(YEAR)
        is_newer = new.X[:, year] > rows.X[:, year].max()
        is_known = np.array([factors.has(machine.description) for machine in tested])[new.machine]
        factor = np.where(is_newer, factors.newer or 1.0, np.where(is_known, factors.known, 1.0))
        half = factor * half_width(terms, watts, np.zeros(len(watts), dtype=bool), SAME_TYPE)
        relative.append(np.abs(watts / new.watts - 1))
        inside.append(np.abs(watts - new.watts) <= half)
        widths.append(half / watts)
    return {
        "mape": 100 * float(np.mean(np.concatenate(relative))),
        "coverage": 100 * float(np.mean(np.concatenate(inside))),
        "half_width": 100 * float(np.mean(np.concatenate(widths))),
    }


def _terms(rows: MachineRows, nodes: Sequence[str]) -> Any:
    """Return the error terms from which intervals are computed, measured on held-out nodes."""
    node = np.unique(nodes, return_inverse=True)[1].reshape(-1)[rows.machine]
    watts = np.empty(len(node))
    for fold in range(INNER_FOLDS):
        test = node % INNER_FOLDS == fold
        watts[test] = rows.predicted(test, TRAINER, ARGUMENTS)
    training: Any = SimpleNamespace(
        node_watts={"platform": rows.watts},
        node=node,
        recording=np.zeros_like(node),
        stream=node,
        load=rows.X[:, rows.features.index(LOAD)],
    )
    held_out = {"platform": watts}
    return interval_terms(training, {"blocks": held_out, "nodes": held_out}, "platform")
