"""Measure the errors of the machine formula on the fixed splits of the public table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_profiler.formula import MachineFormula
from kepler_profiler.machine_tables import MeasuredMachine
from machine_formula_run.fitting import Folds, fit, interval

YEARS = ((2004, 2008), (2009, 2011), (2012, 2016), (2017, 2019), (2020, 2021))
SPLITS = ("group5", "cpumodel5", "newer", "vendor")


def splits(folder: Path) -> Folds:
    """Read the splits of the public table: the names of the training machines and test machines of each fold."""
    found: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
    for split in SPLITS:
        folds: dict[str, dict[str, set[str]]] = {}
        with (folder / f"spec__{split}.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                folds.setdefault(row["fold"], {"train": set(), "test": set()})[row["role"]].add(row["unit"])
        found[split] = [(frozenset(fold["train"]), frozenset(fold["test"])) for fold in folds.values()]
    return found


@attrs.frozen(eq=False)
class Judged:
    """Estimates for machines that were not used for the fit, compared with their measured power."""

    ratio: FloatArray
    """Measured ÷ estimated watts, shape (machines, loads)."""
    covered: BoolArray
    """Whether the measured watts are in the 90 % interval, shape (machines, loads)."""
    half_width: float
    """Mean half-width of the intervals as a fraction of the estimate."""
    years: tuple[int, ...]
    vendors: tuple[str, ...]
    """Vendor of each machine's processor."""

    @property
    def figures(self) -> dict[str, float]:
        """MAPE over all loads, at idle and at full load, and coverage and half-width of the intervals, in percent."""
        errors = 100 * np.abs(1 / self.ratio - 1)
        return {
            "mape": float(errors.mean()),
            "idle": float(errors[:, 0].mean()),
            "full": float(errors[:, -1].mean()),
            "coverage": 100 * float(self.covered.mean()),
            "half_width": 100 * self.half_width,
        }

    @property
    def by_class(self) -> dict[str, tuple[int, float, float]]:
        """Number of machines, MAPE and coverage (in percent) for each vendor and range of years."""
        errors = 100 * np.abs(1 / self.ratio - 1).mean(axis=1)
        result = {}
        for vendor in sorted(set(self.vendors)):
            for first, last in YEARS:
                rows = [v == vendor and first <= y <= last for v, y in zip(self.vendors, self.years, strict=True)]
                if count := sum(rows):
                    name = f"{vendor} {first}-{last}"
                    result[name] = count, float(errors[rows].mean()), 100 * float(self.covered[rows].mean())
        return result


def judge(machines: Sequence[MeasuredMachine], folds: Folds, split: str, *, by_idle: bool) -> Judged:
    """Compare estimates with measurements on a split.

    Within each fold, coefficients and intervals come from the fold's training machines alone.
    """
    ratios, covered, widths, tested = [], [], [], []
    for train, test in folds[split]:
        document = fit([machine for machine in machines if machine.name in train], _inner(machines, train))
        formula = MachineFormula(document)
        for machine in (machine for machine in machines if machine.name in test):
            idle = float(machine.watts[0]) if by_idle else None
            results = [interval(formula, machine.description, float(load), idle) for load in machine.loads]
            watts = np.array([one.watts for one in results])
            lower, upper = np.array([one.lower for one in results]), np.array([one.upper for one in results])
            ratios.append(machine.watts / watts)
            covered.append((machine.watts >= lower) & (machine.watts <= upper))
            widths.append((upper - lower) / watts / 2)
            tested.append(machine)
    years = tuple(machine.description.year or 0 for machine in tested)
    vendors = tuple(machine.description.vendor or "unknown" for machine in tested)
    return Judged(np.array(ratios), np.array(covered), float(np.mean(widths)), years, vendors)


def all_judged(machines: Sequence[MeasuredMachine], folds: Folds) -> dict[str, Judged]:
    """Compare estimates and measurements on each split, first without and then with a known idle power."""
    return {
        split + (", idle power known" if by_idle else ""): judge(machines, folds, split, by_idle=by_idle)
        for by_idle in (False, True)
        for split in SPLITS
    }


def _inner(machines: Sequence[MeasuredMachine], train: frozenset[str]) -> Folds:
    """Divide the training machines into folds again, to measure the intervals of the formula.

    The folds of `cpumodel5` hold out processor models. The fold of `newer` holds out the newest fifth of the machines.
    """
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
