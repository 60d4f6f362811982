"""The machine formula: it estimates the watts of a machine that was never measured.

    watts(load) = idle + (full − idle) · shape(load)

`full` is the power at full load, `idle` the power without load. The logarithms of `full` and of `idle ÷ full` are
weighted sums of terms. The terms describe the thermal design power of the machine's chips, its cores, threads, chips
and memory, and the year and vendor of its processor. `shape` rises from 0 to 1. All coefficients are in the file
`machines/formula.json` of `kepler_config`. `bench/machine_formula.py` has fitted them to published SPECpower_ssj2008
results. docs/machine-formula.md explains the coefficients and their errors.

The watts are the AC power of the whole machine at the wall plug. They include the losses of the power supply, and the
power of fans, disks and memory. `load` is the throughput as a fraction of the highest throughput. If the throughput is
not known, use the busy fraction of the CPU time. `package_watts` estimates the power of the processors alone.

    machine = describe(discover().spec, lookup(model_name))
    result = estimate(machine, load=0.3)
    if isinstance(result, Estimate):
        print(result.watts, result.lower, result.upper)
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import attrs

from kepler_core.errors import UsageError
from kepler_profiler.formula_document import LEVELS, FormulaDocument, Residuals, published_formula
from kepler_profiler.machine_description import (
    LAST_MEASURED_YEAR,
    MEASURED_VENDORS,
    MachineDescription,
    describe,
    host_of,
    imputed_values,
    terms,
)

__all__ = [
    "Estimate", "GuestPower", "IdleShare", "MachineDescription", "MachineFormula", "NoEstimate", "describe", "estimate",
    "guest_share", "host_of", "package_watts",
]  # fmt: skip

IdleShare = Literal["reservation", "none"]
"""The part of the host's idle power that belongs to a guest: its reserved share of the host's threads, or nothing."""

SMALL_THREADS = 32
"""A machine with fewer threads may be something other than a server."""
_MAX_MEASURED_CORES_PER_CHIP = 64
_MAX_MEASURED_CHIPS = 8
_MAX_IDLE_PART = 0.95
_MIN_FULL_BY_IDLE = 1.05
_MAX_WATTS = 50_000.0
"""No single machine draws more than this power. A higher estimate shows that the machine's description is wrong."""
IDLE_METER_ERROR = 0.03
"""Assumed error of an idle power that a user states, as a fraction."""
_CONTRADICTION = 4.0
"""If a stated idle power differs from the formula's by more than this factor, the description counts as wrong."""
_REFUSED = 20.0
"""If a stated idle power differs from the formula's idle power by more than this factor, the power is not estimated."""

# The packages' share of the AC power of a two-socket Haswell server in Kepler's public recordings: 32 W of
# 171 W at idle, 168 W of the 225 W between idle and full load. The bounds are assumptions for other machines.
_PACKAGE_OF_IDLE = (0.08, 0.19, 0.5)
_PACKAGE_OF_DYNAMIC = (0.5, 0.75, 0.95)

_FACTS = {
    "tdp": "the processor's thermal design power is not known",
    "memory": "the size of the memory is not known",
    "year": "the year of the processor is not known",
}


@attrs.frozen
class Estimate:
    """Estimated power in watts, with an interval that is meant to contain 90 % of the true values."""

    watts: float
    lower: float
    upper: float
    idle: float
    """Estimated (or stated) power of the idle machine."""
    full: float
    """Estimated power at full load."""
    error_class: str
    """Name of the machine's class in `FormulaDocument.classes`. The class determines the width of the interval."""
    reasons: tuple[str, ...]
    """Reasons for the width of the interval, and what would make it narrower. One sentence each."""


@attrs.frozen
class NoEstimate:
    """The result for a machine whose power cannot be estimated. `reasons` states why."""

    reasons: tuple[str, ...]


@attrs.frozen
class GuestPower:
    """Estimated power of a virtual machine in watts, with an interval that is meant to contain 90 % of true values."""

    watts: float
    lower: float
    upper: float
    idle: float
    """The virtual machine's share of the host's idle power."""
    dynamic: float
    """The power that the work of the virtual machine adds to `idle`."""
    full: float
    """Power of the virtual machine if all of its virtual CPUs are busy."""
    idle_share: IdleShare
    error_class: str
    reasons: tuple[str, ...]


class MachinePowers(Protocol):
    """Estimates the power of machines from their description: the machine formula, or a model that replaces it."""

    @property
    def guest_factor(self) -> Sequence[float]:
        """Two factors for the dynamic power of a guest whose host has an unknown load.

        The estimated dynamic power, multiplied by these factors, gives the lowest and highest usual dynamic power.
        """

    def estimate(
        self, machine: MachineDescription, load: float, *, idle_watts: float | None = None
    ) -> Estimate | NoEstimate:
        """Return the AC power of a whole machine at a load from 0 to 1; see `MachineFormula.estimate`."""

    def shape(self, machine: MachineDescription) -> Sequence[float]:
        """Return for each load in `LEVELS` how far the power has risen from idle power (0) to full power (1)."""


class MachineFormula:
    """The machine formula with one set of coefficients."""

    def __init__(self, document: FormulaDocument) -> None:
        self.document = document

    def error_class(self, machine: MachineDescription) -> str:
        """Return the name of the machine's class. The class determines the width of the interval."""
        cores = machine.known_cores / machine.known_chips
        if machine.vendor not in MEASURED_VENDORS:
            return "other"
        if machine.client:
            return "laptop" if machine.tdp_watts is not None and machine.tdp_watts < 30 else "client"
        if machine.known_chips > _MAX_MEASURED_CHIPS or machine.chips is None:
            return "unusual"
        if (machine.year or 0) > LAST_MEASURED_YEAR or cores > _MAX_MEASURED_CORES_PER_CHIP:
            return "newer"
        if machine.year is not None and machine.year < 2006:
            return "unusual"
        return "server"

    def ends(self, machine: MachineDescription, idle_watts: float | None = None) -> tuple[float, float]:
        """Return the watts of a machine at idle and at full load. `idle_watts` is the idle power, if it is known."""
        values = terms(machine, imputed_values(machine, self.document.imputed))
        if idle_watts is not None:
            log_full = _sum(self.document.full_by_idle, {**values, "idle": math.log(idle_watts / 100)})
            return idle_watts, max(math.exp(min(log_full, 20.0)), idle_watts * _MIN_FULL_BY_IDLE)
        full = math.exp(min(_sum(self.document.full, values), 20.0))
        return full * min(math.exp(_sum(self.document.idle, values)), _MAX_IDLE_PART), full

    def shape(self, machine: MachineDescription) -> tuple[float, ...]:
        """Return for each load in `LEVELS` how far the power has risen from idle power (0) to full power (1).

        The values never fall with rising load.
        """
        values = terms(machine, imputed_values(machine, self.document.imputed))
        root, square = _sum(self.document.shape.root, values), _sum(self.document.shape.square, values)
        parts: list[float] = [0.0]
        for load in LEVELS[1:-1]:
            part = load + root * (math.sqrt(load) - load) + square * (load * load - load)
            parts.append(min(max(part, parts[-1]), 1.0))
        return (*parts, 1.0)

    def estimate(
        self, machine: MachineDescription, load: float, *, idle_watts: float | None = None
    ) -> Estimate | NoEstimate:
        """Return the AC power of a whole machine at a load from 0 (idle) to 1 (highest throughput).

        `idle_watts` is the machine's measured idle power. It makes the interval of the estimate narrower. Returns
        `NoEstimate` if the machine's facts contradict `idle_watts`, or if the estimate is above any machine's power.
        Also returns `NoEstimate` for a small machine with an unknown processor that is not by Intel or AMD: it may be a
        board of a few watts. Raises `UsageError` if `load` or `idle_watts` is out of its range.
        """
        _check_load(load)
        is_unknown = {"tdp", "year"} <= set(machine.missing)
        if is_unknown and machine.vendor not in MEASURED_VENDORS and machine.threads < SMALL_THREADS:
            return NoEstimate(
                ("a small machine with an unknown processor may be a board of a few watts; state the TDP",)
            )
        usual_idle, usual_full = self.ends(machine)
        if usual_full > _MAX_WATTS:
            return NoEstimate((f"{machine.threads} threads would draw {usual_full:,.0f} W: no such machine is known",))
        error_class, reasons = self.error_class(machine), list(self.reasons(machine))
        if idle_watts is not None:
            if not 0.5 <= idle_watts <= _MAX_WATTS:
                raise UsageError(f"{idle_watts} W is no idle power of a machine; give 0.5 to {_MAX_WATTS:g} W")
            ratio = max(idle_watts / usual_idle, usual_idle / idle_watts)
            stated = f"the stated idle power of {idle_watts:g} W is far from the {usual_idle:.0f} W of such machines"
            if ratio > _REFUSED:
                return NoEstimate((f"{stated}: the description or the idle power is wrong",))
            if ratio > _CONTRADICTION:
                error_class = error_class if error_class == "laptop" else "other"
                reasons.append(stated)
        idle, full = self.ends(machine, idle_watts)
        watts = idle + (full - idle) * float(_at(load, self.shape(machine)))
        residuals = self.document.residuals if idle_watts is None else self.document.residuals_by_idle
        low, high = self._factors(error_class, residuals["+".join(machine.missing)], load)
        lower, upper = watts * low, watts * high
        if idle_watts is not None:
            # At idle, the only error is the error of the stated idle power. The error grows with the power that the
            # load adds.
            part = min((watts - idle) / max(0.1 * (full - idle), 1e-9), 1.0)
            error = IDLE_METER_ERROR * idle
            lower = watts - error - part * max(watts - error - lower, 0.0)
            upper = watts + error + part * max(upper - watts - error, 0.0)
            lower = max(lower, idle - error)
        else:
            reasons.append("a measured idle power of the machine would make the interval much narrower")
        return Estimate(watts, lower, upper, idle, full, error_class, tuple(reasons))

    def mape(self, machine: MachineDescription, *, idle_known: bool = False) -> float | None:
        """Return the mean error in percent for machines of the same class; None if it was never measured."""
        if not self.document.classes[self.error_class(machine)].measured:
            return None
        residuals = self.document.residuals_by_idle if idle_known else self.document.residuals
        errors = residuals["+".join(machine.missing)].mape
        return sum(errors) / len(errors)

    @property
    def guest_factor(self) -> Sequence[float]:
        """Two factors for the dynamic power of a guest whose host has an unknown load.

        The estimated dynamic power, multiplied by these factors, gives the lowest and highest usual dynamic power.
        """
        return self.document.guest_factor

    def class_factor(self, machine: MachineDescription) -> float:
        """Return the factor of the machine's class. The interval is at least watts ÷ factor to watts · factor."""
        return self.document.classes[self.error_class(machine)].factor

    def missing_factor(self, machine: MachineDescription, *, idle_known: bool) -> float:
        """Return the factor by which missing facts about a machine raise the mean error; at least 1.

        It is the mean error of machines that lack the same facts, divided by that of fully described machines.
        """
        residuals = self.document.residuals_by_idle if idle_known else self.document.residuals
        errors, complete = residuals["+".join(machine.missing)].mape, residuals[""].mape
        return max(sum(errors) / sum(complete), 1.0)

    def _factors(self, error_class: str, residuals: Residuals, load: float) -> tuple[float, float]:
        """Return the lower and the upper end of the interval, as factors of the watts."""
        width = self.document.classes[error_class]
        low = min(_at(load, residuals.lower) * width.scale, -math.log(width.factor))
        high = max(_at(load, residuals.upper) * width.scale, math.log(width.factor))
        return math.exp(low), math.exp(high)

    def reasons(self, machine: MachineDescription) -> list[str]:
        error_class = self.error_class(machine)
        reasons = [] if error_class == "server" else [self.document.classes[error_class].about]
        reasons += [f"{_FACTS[fact]}, so a usual value is assumed" for fact in machine.missing]
        if machine.chips is None:
            reasons.append("the number of chips is not known, so one chip is assumed")
        return reasons


@functools.cache
def published() -> MachineFormula:
    """Return the formula with the coefficients that ship with Kepler Core."""
    return MachineFormula(published_formula())


def estimate(machine: MachineDescription, load: float, *, idle_watts: float | None = None) -> Estimate | NoEstimate:
    """Return the AC power of a whole machine by the shipped coefficients; see `MachineFormula.estimate`."""
    return published().estimate(machine, load, idle_watts=idle_watts)


def package_watts(whole: Estimate) -> Estimate:
    """Return the power of the processors (RAPL's packages), computed from the power of the whole machine.

    The shares of idle power and of the remaining power come from one two-socket server. The interval assumes that the
    processors of other machines draw 8 % to 50 % of the idle power, and 50 % to 95 % of the remaining power. No table
    of machines has both AC and package power, so this interval was never tested.
    """
    dynamic = max(whole.watts - whole.idle, 0.0)
    low, middle, high = (
        of_idle * min(whole.idle, whole.watts) + of_dynamic * dynamic
        for of_idle, of_dynamic in zip(_PACKAGE_OF_IDLE, _PACKAGE_OF_DYNAMIC, strict=True)
    )
    reason = "the processors' share of the machine's power is known of one server only"
    return Estimate(
        watts=middle,
        lower=low * whole.lower / whole.watts,
        upper=min(high * whole.upper / whole.watts, whole.upper),
        idle=_PACKAGE_OF_IDLE[1] * whole.idle,
        full=_PACKAGE_OF_IDLE[1] * whole.idle + _PACKAGE_OF_DYNAMIC[1] * (whole.full - whole.idle),
        error_class=whole.error_class,
        reasons=(*whole.reasons, reason),
    )


def guest_share(
    host: MachineDescription,
    virtual_cpus: int,
    busy: float,
    *,
    host_load: float | None = None,
    idle_share: IdleShare = "reservation",
    idle_watts: float | None = None,
    powers: MachinePowers | None = None,
) -> GuestPower | NoEstimate:
    """Return the power of a virtual machine that has `virtual_cpus` threads of a host.

    `busy` is the share of the guest's CPU time that is busy, from 0 to 1. The guest's power is the sum of two parts.
    The first part is a share of the host's idle power, in proportion to the reserved threads. If `idle_share` is
    "none", this part is 0 W. The second part is the dynamic power of the guest's work. A host's power is not linear, so
    equal work draws a different power at each load of the host. `host_load` is this load. If it is not known, the lower
    end of the interval uses 0.72 times the dynamic power, and the upper end 1.75 times. These factors cover 90 % of all
    loads of the measured machines. `idle_watts` is the measured idle power of the host. `powers` estimates the host's
    power; by default, it is the formula with the shipped coefficients.

    Returns `NoEstimate` if the guest has more virtual CPUs than its host has threads, or if the host has no estimate.
    Raises `UsageError` if a number is out of its range.
    """
    powers = powers or published()
    _check_load(busy)
    if host_load is not None:
        _check_load(host_load)
    if virtual_cpus < 1:
        raise UsageError(f"{virtual_cpus} virtual CPUs; a guest has at least one")
    if virtual_cpus > host.threads:
        return NoEstimate((f"the guest has {virtual_cpus} virtual CPUs, but the host only {host.threads} threads",))
    share = virtual_cpus / host.threads
    at_idle, at_full = (powers.estimate(host, load, idle_watts=idle_watts) for load in (0.0, 1.0))
    if isinstance(at_idle, NoEstimate):
        return at_idle
    if isinstance(at_full, NoEstimate):
        return at_full
    reasons = list(at_full.reasons)
    work = share * busy * (at_full.full - at_full.idle)
    if host_load is None:
        slope, (low, high) = 1.0, powers.guest_factor
        reasons.append(
            f"the load of the host is not known, so the dynamic part can be {low:.2f} to {high:.2f} times as high"
        )
    else:
        load = max(host_load, share * busy, LEVELS[1])
        slope = _at(load, powers.shape(host)) / load
        low, high = slope, slope
    idle = share * at_idle.idle if idle_share == "reservation" else 0.0
    # The interval of the dynamic power is wide for two reasons: the formula has errors at full load, and the load of
    # the host changes the dynamic power.
    error_low, error_high = at_full.lower / at_full.watts, at_full.upper / at_full.watts
    idle_low, idle_high = at_idle.lower / at_idle.watts, at_idle.upper / at_idle.watts
    return GuestPower(
        watts=idle + work * slope,
        lower=idle * idle_low + work * low * error_low,
        upper=idle * idle_high + work * high * error_high,
        idle=idle,
        dynamic=work * slope,
        full=idle + share * (at_full.full - at_full.idle) * (1.0 if host_load is None else slope),
        idle_share=idle_share,
        error_class=at_full.error_class,
        reasons=tuple(reasons),
    )


def _check_load(load: float) -> None:
    if not 0 <= load <= 1:  # rejects NaN, too
        raise UsageError(f"{load} is not a load; give a number from 0 (idle) to 1 (all CPUs busy)")


def _sum(coefficients: Mapping[str, float], values: Mapping[str, float]) -> float:
    return sum(coefficient * values[name] for name, coefficient in coefficients.items())


def _at(load: float, values: Sequence[float]) -> float:
    """Return the value at a load, interpolated linearly between the values at the neighbouring loads of `LEVELS`."""
    right = min(max(bisect.bisect_left(LEVELS, load), 1), len(LEVELS) - 1)
    part = (load - LEVELS[right - 1]) / (LEVELS[right] - LEVELS[right - 1])
    return values[right - 1] + part * (values[right] - values[right - 1])
