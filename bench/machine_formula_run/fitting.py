"""Fit the machine formula: ridge regressions on the logarithms of the power, and the quantiles of their residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_profiler.formula import Estimate, MachineFormula
from kepler_profiler.formula_document import LAYOUT, LEVELS, ErrorClass, FormulaDocument, Residuals, Shape
from kepler_profiler.machine_description import MachineDescription, imputed_values, terms
from kepler_profiler.machine_tables import MeasuredMachine

ENDS = ("one", "tdp", "cores", "threads", "memory", "chips", "year", "year2", "amd")
"""Names of the terms in the equation for the power at full load, and in the equation for the idle power."""
BENDS = ("one", "year", "year2", "amd")
"""Names of the terms in the equations for r and s, the coefficients of the curve of power over load (`shape`)."""
PLAIN = ("one", "cores", "threads", "chips", "amd")
FACTS = ("tdp", "memory", "year")
RIDGE = 1.0
DIGITS = 5
MIDDLE = LEVELS.index(0.5)
"""Index of the load 50 % in `LEVELS`."""
NO_COEFFICIENTS: Mapping[str, Mapping[str, float]] = {fact: {} for fact in FACTS}
Folds = Mapping[str, Sequence[tuple[frozenset[str], frozenset[str]]]]
"""The folds of each split, by the split's name. A fold has the names of its training machines and test machines."""


def patterns() -> list[tuple[str, ...]]:
    """Return all combinations of the facts in `FACTS` that may be missing in a description of a machine."""
    return [missing for count in range(len(FACTS) + 1) for missing in combinations(FACTS, count)]


def without(machine: MachineDescription, missing: Sequence[str]) -> MachineDescription:
    """Return the description without the facts that `missing` names."""
    names = {"tdp": "tdp_watts", "memory": "memory_gib", "year": "year"}
    return attrs.evolve(machine, **{names[fact]: None for fact in missing})


def fit(machines: Sequence[MeasuredMachine], folds: Folds) -> FormulaDocument:
    """Fit the formula to machines with 11 measured loads. Compute the residuals on held-out processor models."""
    document = _coefficients(machines)
    held_out = [
        (
            _coefficients([machine for machine in machines if machine.name in train]),
            [m for m in machines if m.name in test],
        )
        for train, test in folds["cpumodel5"]
    ]
    newer = [
        (
            _coefficients([machine for machine in machines if machine.name in train]),
            [m for m in machines if m.name in test],
        )
        for train, test in folds["newer"]
    ]
    for by_idle, target in ((False, document.residuals), (True, document.residuals_by_idle)):
        for missing in patterns():
            logs = np.concatenate([_log_ratios(one, tested, missing, by_idle) for one, tested in held_out])
            target["+".join(missing)] = _residuals(logs)
    document.classes["newer"].scale = _scale(newer, document)
    return document


def _coefficients(machines: Sequence[MeasuredMachine]) -> FormulaDocument:
    """Return a document with coefficients, but without residuals."""
    # Desktops (clients) differ from servers in idle power, and there are too few desktops to fit a term for desktops.
    complete = [one for one in machines if not one.description.missing and not one.description.client]
    plain = np.array([[_terms(machine.description)[name] for name in PLAIN] for machine in complete])
    targets = {
        "tdp": [math.log(machine.description.tdp_watts or 1) for machine in complete],
        "memory": [math.log(machine.description.memory_gib or 1) for machine in complete],
        "year": [float(machine.description.year or 2012) - 2012 for machine in complete],
    }
    imputed = {fact: _named(PLAIN, _ridge(plain, np.array(values))) for fact, values in targets.items()}
    watts = np.array([machine.watts for machine in complete])
    rows = [_terms(machine.description) for machine in complete]
    ends = np.array([[row[name] for name in ENDS] for row in rows])
    bends = np.array([[row[name] for name in BENDS] for row in rows])
    log_full, log_idle = np.log(watts[:, -1]), np.log(watts[:, 0])
    by_idle = np.column_stack([ends, log_idle - math.log(100)])
    root, square = _bends(bends, watts)
    return FormulaDocument(
        layout=LAYOUT,
        source="SPECpower_ssj2008 results, https://www.spec.org/power_ssj2008/",
        attribution="Coefficients fitted to published SPECpower_ssj2008 results. SPEC and SPECpower_ssj are registered "
        "trademarks of the Standard Performance Evaluation Corporation, which has not reviewed these coefficients.",
        machines=len(complete),
        full=_named(ENDS, _ridge(ends, log_full)),
        idle=_named(ENDS, _ridge(ends, log_idle - log_full)),
        full_by_idle=_named((*ENDS, "idle"), _ridge(by_idle, log_full)),
        shape=Shape(_named(BENDS, root), _named(BENDS, square)),
        imputed=imputed,
        residuals={},
        residuals_by_idle={},
        classes=_classes(),
        guest_factor=_guest_factor(watts),
    )


def _terms(machine: MachineDescription) -> dict[str, float]:
    return terms(machine, imputed_values(machine, NO_COEFFICIENTS))


def _bends(bends: FloatArray, watts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the coefficients from which r and s, the parameters of the curve of power over load, are computed."""
    loads = np.array(LEVELS)
    measured = (watts - watts[:, :1]) / (watts[:, -1:] - watts[:, :1]) - loads
    functions = np.stack([np.sqrt(loads) - loads, loads**2 - loads])
    design = np.einsum("mt,fl->mlft", bends, functions).reshape(-1, 2 * bends.shape[1])
    solution = _ridge(design, measured.ravel(), free=False)
    return solution[: bends.shape[1]], solution[bends.shape[1] :]


def _ridge(design: FloatArray, target: FloatArray, *, free: bool = True) -> FloatArray:
    """Return the coefficients of a ridge regression. If `free` is true, the first coefficient has no penalty."""
    penalty = RIDGE * np.eye(design.shape[1])
    if free:
        penalty[0, 0] = 0.0
    solution: FloatArray = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    return solution


def _named(names: Sequence[str], values: FloatArray) -> dict[str, float]:
    return {name: round(float(value), DIGITS) for name, value in zip(names, values, strict=True)}


def _guest_factor(watts: FloatArray) -> list[float]:
    loads = np.array(LEVELS[1:])
    slopes = (watts[:, 1:] - watts[:, :1]) / (watts[:, -1:] - watts[:, :1]) / loads
    return [round(float(value), 3) for value in np.quantile(slopes, (0.05, 0.95))]


def _log_ratios(
    document: FormulaDocument, machines: Sequence[MeasuredMachine], missing: Sequence[str], by_idle: bool
) -> FloatArray:
    """Return ln(measured ÷ estimated watts), shape (machines, loads)."""
    formula = MachineFormula(document)
    rows = []
    for machine in machines:
        description = without(machine.description, missing)
        idle, full = formula.ends(description, float(machine.watts[0]) if by_idle else None)
        estimated = idle + (full - idle) * np.array(formula.shape(description))
        rows.append(np.log(machine.watts / estimated))
    return np.array(rows)


def _residuals(logs: FloatArray) -> Residuals:
    def rounded(values: FloatArray) -> list[float]:
        return [round(float(value), 4) for value in values]

    errors = 100 * np.abs(np.exp(-logs) - 1).mean(axis=0)
    return Residuals(
        rounded(np.quantile(logs, 0.05, axis=0)), rounded(np.quantile(logs, 0.95, axis=0)), rounded(errors)
    )


def _scale(held_out: Sequence[tuple[FormulaDocument, list[MeasuredMachine]]], document: FormulaDocument) -> float:
    """Return the factor by which intervals must be wider to cover 90 % of the measured powers of newer machines."""
    own = document.residuals[""]
    logs = np.concatenate([_log_ratios(one, tested, (), False) for one, tested in held_out])
    needed = np.where(logs < 0, logs / np.array(own.lower), logs / np.array(own.upper))
    return max(round(float(np.quantile(needed, 0.9)), 2), 1.0)


def _classes() -> dict[str, ErrorClass]:
    newer = "the processor is newer than, or has more cores than, all measured machines; the interval is extrapolated"
    other = "no machine with a processor of this vendor was measured; the interval is an assumption"
    unusual = "no machine of such a size or age was measured; the interval is an assumption"
    client = "few desktop machines were measured; the interval is an assumption"
    laptop = "no laptop was measured; the interval is an assumption"
    return {
        "server": ErrorClass("a server of 2006 to 2021 with processors of Intel or AMD", 1.0, 1.0, True),
        "newer": ErrorClass(newer, 1.0, 1.3, False),
        "client": ErrorClass(client, 1.5, 2.0, False),
        "laptop": ErrorClass(laptop, 2.0, 3.0, False),
        "unusual": ErrorClass(unusual, 2.0, 2.5, False),
        "other": ErrorClass(other, 1.5, 2.5, False),
    }


def interval(formula: MachineFormula, machine: MachineDescription, load: float, idle: float | None) -> Estimate:
    """Return the estimate of a machine. The formula must be able to estimate this machine."""
    result = formula.estimate(machine, load, idle_watts=idle)
    assert isinstance(result, Estimate)
    return result
