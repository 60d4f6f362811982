"""The power source that uses the machine formula, for machines without a meter and without a model."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import attrs

from kepler_core.errors import MeterError
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_profiler.formula import (
    Estimate,
    GuestPower,
    MachineDescription,
    MachinePowers,
    NoEstimate,
    guest_share,
    published,
)
from kepler_profiler.formula_document import LAYOUT
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.this_machine import ThisMachine

if TYPE_CHECKING:
    from kepler_profiler.machine_model import MachineModel

IdleShare = Literal["reservation", "none"]

LOADS = tuple(step / 20 for step in range(21))
"""Loads (0 to 1) at which the formula is evaluated at the start. Between these loads, the watts are interpolated."""
GUEST_LOADS = (0.0, 1.0)
"""Loads at which the formula is evaluated for a virtual machine. Two loads are enough, because the power of a virtual
machine is linear in its load."""
BUSY_HOST_STEAL = 0.03
"""Fraction of steal time (the virtual machine waits for a CPU) from which on all CPUs of the host are assumed to be
busy."""
_LOWER_QUANTILE, _MEDIAN, _UPPER_QUANTILE = 0.05, 0.5, 0.95
_MIN_VALUES = 10


@attrs.frozen
class PowerCurve:
    """Power of a machine, with its interval, as a function of the load."""

    loads: Sequence[float]
    """Ascending loads from 0 to 1."""
    points: Sequence[Power]
    """Power at each load in `loads`."""
    reasons: tuple[str, ...] = ()
    """Reasons for the width of the interval, and what would make it narrower."""

    def at(self, load: float) -> Power:
        """Return the power at a load from 0 to 1."""
        load = min(max(load, 0.0), 1.0)
        right = min(max(bisect.bisect_left(self.loads, load), 1), len(self.loads) - 1)
        part = (load - self.loads[right - 1]) / (self.loads[right] - self.loads[right - 1])
        low, high = self.points[right - 1], self.points[right]
        return Power(
            low.watts + part * (high.watts - low.watts),
            low.lower + part * (high.lower - low.lower),
            low.upper + part * (high.upper - low.upper),
        )


class FormulaSource:
    """Power source that applies the machine formula.

    The formula estimates the watts at the wall plug from facts about the machine and its load.
    """

    kind: Kind = "formula"
    name = "formula"

    def __init__(
        self,
        machine: ThisMachine,
        *,
        idle_watts: float | None = None,
        idle_share: IdleShare = "reservation",
        model: MachineModel | None = None,
    ) -> None:
        """`idle_watts` is the known idle power of the physical machine. `idle_share` states which part of the host's
        idle power a virtual machine gets. `model` is a model to use in place of the formula."""
        self._machine = machine
        self._provenance = Provenance("formula", "formula", str(LAYOUT), f"machine formula for {machine.description}")
        if model is not None:
            about = f"machine model {model.name} for {machine.description}"
            self._provenance = Provenance("model", model.name, model.version, about)
        self._idle_share: IdleShare = idle_share
        self._problem = ""
        self._busy_host: PowerCurve | None = None
        try:
            self._curve = machine_curve(machine, idle_watts, idle_share, model=model)
            if machine.virtual is not None:
                self._busy_host = machine_curve(machine, idle_watts, idle_share, host_load=1.0, model=model)
        except MeterError as error:
            self._problem = str(error)

    @property
    def curve(self) -> PowerCurve:
        """The power of this machine by load. Raises `MeterError` if the formula is not valid for this machine."""
        if self._problem:
            raise MeterError(self._problem)
        return self._curve

    def read(self, observation: Observation) -> Reading | None:
        curve = self.curve
        if observation.seconds <= 0:
            return None
        if not observation.features:
            raise MeterError("; ".join(observation.problems) or "no collector measures this machine")
        description = self._provenance.description
        if self._busy_host is not None and (observation.steal or 0.0) >= BUSY_HOST_STEAL:
            curve = self._busy_host
            description += "; the host is busy"
        idle, full = curve.at(0.0), curve.at(1.0)
        if observation.load is None:
            # The load is hidden, e.g. by lxcfs: the power is somewhere between idle and full load.
            power = Power((idle.watts + full.watts) / 2, idle.lower, full.upper)
            description += "; the load is not known"
        else:
            power = curve.at(observation.load)
        return Reading(
            observation.time,
            {"platform": power},
            attrs.evolve(self._provenance, description=description),
            idle,
            full,
            "all" if self._machine.virtual is None else self._idle_share,
            observation=observation,
        )

    def close(self) -> None:
        """Do nothing, because the formula keeps no files open."""


def machine_curve(
    machine: ThisMachine,
    idle_watts: float | None,
    idle_share: IdleShare,
    host_load: float | None = None,
    model: MachineModel | None = None,
) -> PowerCurve:
    """Return the power of a machine by load. It is computed by the formula, or by a model that replaces the formula.

    If several hosts are possible, the watts are the median over the hosts. The interval contains 90 % of the
    lower ends and 90 % of the upper ends of the hosts' intervals. Raises `MeterError` if no host has an estimate.
    """
    if not machine.hosts:
        raise MeterError(
            f"no measured machine is like this one ({machine.description}); describe this machine in a file for "
            "--machine-spec, or use a model of a similar machine"
        )
    source: MachinePowers = published() if model is None else model
    loads = LOADS if machine.virtual is None else GUEST_LOADS
    curves: list[list[Estimate | GuestPower]] = []
    refusals: dict[str, None] = {}
    for host in machine.hosts:
        powers = [_power(source, machine, host, load, idle_watts, idle_share, host_load) for load in loads]
        estimates = [power for power in powers if not isinstance(power, NoEstimate)]
        refusals.update(dict.fromkeys(r for power in powers if isinstance(power, NoEstimate) for r in power.reasons))
        if len(estimates) == len(loads):
            curves.append(estimates)
    if not curves:
        raise MeterError("; ".join(refusals))
    points = []
    for position in range(len(loads)):
        at_load = [curve[position] for curve in curves]
        points.append(
            Power(
                _quantile([power.watts for power in at_load], _MEDIAN),
                _quantile([power.lower for power in at_load], _LOWER_QUANTILE),
                _quantile([power.upper for power in at_load], _UPPER_QUANTILE),
            )
        )
    reasons = dict.fromkeys(reason for curve in curves for reason in curve[0].reasons)
    return PowerCurve(loads, points, tuple(reasons))


def _power(
    powers: MachinePowers,
    machine: ThisMachine,
    host: MachineDescription,
    load: float,
    idle_watts: float | None,
    idle_share: IdleShare,
    host_load: float | None,
) -> Estimate | GuestPower | NoEstimate:
    if machine.virtual is None:
        return powers.estimate(host, load, idle_watts=idle_watts)
    return guest_share(
        host,
        machine.spec.cores or 1,
        load,
        host_load=host_load,
        idle_share=idle_share,
        idle_watts=idle_watts,
        powers=powers,
    )


def _quantile(values: Sequence[float], part: float) -> float:
    """Return a quantile of values, interpolated linearly between the two neighbouring values.

    If there are fewer than `_MIN_VALUES` values, the lowest or the highest value is returned instead, except for the
    median.
    """
    ordered = sorted(values)
    if len(ordered) < _MIN_VALUES and part != _MEDIAN:
        return ordered[0] if part < _MEDIAN else ordered[-1]
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
