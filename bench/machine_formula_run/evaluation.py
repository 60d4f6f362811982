"""Errors of the machine formula on the fixed splits of the public table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kepler_profiler.formula import MachineFormula
from kepler_profiler.machine_tables import MeasuredMachine
from machine_formula_run.fitting import Folds, fit, interval

SPLITS = ("group5", "cpumodel5", "newer", "vendor")


def splits(folder: Path) -> Folds:
    """Read the splits of the public table: for each fold the machines to fit, and the machines to test."""
    found: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
    for split in SPLITS:
        folds: dict[str, dict[str, set[str]]] = {}
        with (folder / f"spec__{split}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                folds.setdefault(row["fold"], {"train": set(), "test": set()})[row["role"]].add(row["unit"])
        found[split] = [(frozenset(fold["train"]), frozenset(fold["test"])) for fold in folds.values()]
    return found


def errors(machines: Sequence[MeasuredMachine], folds: Folds) -> dict[str, dict[str, float]]:
    """Return the errors on each split: MAPE in percent, and the coverage of the 90 % intervals in percent.

    Within each fold, coefficients and intervals come from the fold's training machines alone.
    """
    result: dict[str, dict[str, float]] = {}
    for by_idle in (False, True):
        for split in SPLITS:
            key = split + (", idle power known" if by_idle else "")
            result[key] = _errors(machines, folds[split], by_idle)
    return result


def _errors(
    machines: Sequence[MeasuredMachine], folds: Sequence[tuple[frozenset[str], frozenset[str]]], by_idle: bool
) -> dict[str, float]:
    relative, covered, widths = [], [], []
    for train, test in folds:
        formula = MachineFormula(
            fit([machine for machine in machines if machine.name in train], _inner(machines, train))
        )
        for machine in (machine for machine in machines if machine.name in test):
            idle = float(machine.watts[0]) if by_idle else None
            found = [interval(formula, machine.description, float(load), idle) for load in machine.loads]
            watts = np.array([one.watts for one in found])
            lower, upper = np.array([one.lower for one in found]), np.array([one.upper for one in found])
            relative.append(np.abs(watts / machine.watts - 1))
            covered.append((machine.watts >= lower) & (machine.watts <= upper))
            widths.append((upper - lower) / watts / 2)
    table, inside = np.array(relative), np.array(covered)
    return {
        "mape": 100 * float(table.mean()),
        "idle": 100 * float(table[:, 0].mean()),
        "full": 100 * float(table[:, -1].mean()),
        "coverage": 100 * float(inside.mean()),
        "half_width": 100 * float(np.mean(widths)),
    }


def _inner(machines: Sequence[MeasuredMachine], train: frozenset[str]) -> Folds:
    """Return folds within the training machines: unseen processor models, and the newest fifth of the machines."""
    own = [machine for machine in machines if machine.name in train]
    models = sorted({machine.words.get("cpu_model", machine.name) for machine in own})
    fold_of = {model: index % 5 for index, model in enumerate(models)}
    unseen = []
    for fold in range(5):
        test = frozenset(m.name for m in own if fold_of[m.words.get("cpu_model", m.name)] == fold)
        unseen.append((frozenset(m.name for m in own) - test, test))
    years = sorted(machine.description.year or 0 for machine in own)
    limit = years[len(years) * 4 // 5]
    newest = frozenset(machine.name for machine in own if (machine.description.year or 0) >= limit)
    return {"cpumodel5": unseen, "newer": [(frozenset(m.name for m in own) - newest, newest)]}
