"""Errors of the models that `kepler-model machines fit` trains, on the fixed splits of the public table."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kepler_core.cli.tables import TableFiles
from kepler_core.cli.train import run
from kepler_core.honesty.document import read_honesty
from kepler_core.honesty.interval import SAME_TYPE, half_width
from kepler_core.store import open_store
from kepler_core.store.models import StoredModel, read_models
from kepler_profiler.machine_features import LOAD, machine_features, vendors_of
from kepler_profiler.machine_pipeline import write_machine_pipeline
from kepler_profiler.machine_tables import MeasuredMachine
from machine_formula_run.fitting import Folds

SPLITS = ("group5", "cpumodel5", "newer")


def tree_errors(
    machines: Sequence[MeasuredMachine], folds: Folds, splits: Sequence[str] = SPLITS
) -> dict[str, dict[str, float]]:
    """Return MAPE and interval coverage (in percent) on each split, without and with a known idle power."""
    result = {}
    for with_idle in (False, True):
        for split in splits:
            key = f"trees, {split}" + (", idle power known" if with_idle else "")
            result[key] = split_errors(machines, folds[split], with_idle=with_idle)
    return result


def split_errors(
    machines: Sequence[MeasuredMachine], folds: Sequence[tuple[frozenset[str], frozenset[str]]], *, with_idle: bool
) -> dict[str, float]:
    """Return MAPE, coverage and mean half-width (in percent) of each fold's models on its test machines."""
    relative, inside, widths = [], [], []
    for train, test in folds:
        fitted = [machine for machine in machines if machine.name in train]
        with tempfile.TemporaryDirectory() as folder:
            files = write_machine_pipeline(fitted, "machines", Path(folder), with_idle=with_idle)
            tables = TableFiles((str(files.table),), (), None)
            with contextlib.redirect_stderr(io.StringIO()):
                run(str(files.pipeline), (), str(Path(folder) / "store"), tables=tables, jobs=1)
            (stored,) = read_models(open_store(str(Path(folder) / "store")).snapshot("machines"))
            vendors = vendors_of(fitted)
            for machine in (machine for machine in machines if machine.name in test):
                watts, half = _predicted(stored, machine, vendors, with_idle)
                relative.append(np.abs(watts / machine.watts - 1))
                inside.append(np.abs(watts - machine.watts) <= half)
                widths.append(half / watts)
    return {
        "mape": 100 * float(np.mean(relative)),
        "coverage": 100 * float(np.mean(inside)),
        "half_width": 100 * float(np.mean(widths)),
    }


def _predicted(
    stored: StoredModel, machine: MeasuredMachine, vendors: Sequence[str], with_idle: bool
) -> tuple[np.ndarray, np.ndarray]:
    idle = float(machine.watts[0]) if with_idle else None
    facts = machine_features(machine.description, machine.facts, machine.words, vendors, idle)
    model = stored.load()
    names = list(model.features)
    rows = np.array([[{**facts, LOAD: load}[name] for name in names] for load in machine.loads])
    watts = model.predict(rows, names)["platform"]
    honesty = read_honesty(stored.metadata)
    assert honesty is not None
    return watts, half_width(honesty.intervals["platform"], watts, model.outside(rows, names), SAME_TYPE)
