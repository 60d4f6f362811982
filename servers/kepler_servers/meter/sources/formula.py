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
"""If steal time (the virtual machine waits for a CPU) is at least this fraction of the time, the meter assumes that all
CPUs of the host are busy."""
BUSY_HOST_SECONDS = 60.0
"""The interval has its smallest width only if the host has been busy for this time without an interruption. Steal time
changes from second to second, and the interval should not."""
_GAP_SECONDS = 1.0
"""If the time between two readings is longer than this, the time in which the host is busy counts as interrupted."""
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
        return _between(self.points[right - 1], self.points[right], part)


@attrs.define
class BusyHost:
    """Measures for how long the host of a virtual machine has been busy.

    While the host is busy, the interval of the power gets narrower slowly. As soon as the host is not busy, it gets
    wide at once.
    """

    seconds: float = 0.0
    """Time without an interruption in which the host was busy."""
    _end: float | None = None
    """End of the latest period, in Unix seconds."""

    def observe(self, observation: Observation) -> float:
        """Use the steal time of one more period. Return 0 for the widest interval, 1 for the narrowest, or a number
        between them."""
        begin = observation.time - observation.seconds
        is_continued = self._end is not None and abs(begin - self._end) <= _GAP_SECONDS
        self._end = observation.time
        if (observation.steal or 0.0) < BUSY_HOST_STEAL:
            self.seconds = 0.0
        else:
            self.seconds = observation.seconds + (self.seconds if is_continued else 0.0)
        return min(self.seconds / BUSY_HOST_SECONDS, 1.0)


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
        self._of_busy_host: PowerCurve | None = None
        self._busy_host = BusyHost()
        try:
            self._curve = machine_curve(machine, idle_watts, idle_share, model=model)
            if machine.virtual is not None:
                self._of_busy_host = machine_curve(machine, idle_watts, idle_share, host_load=1.0, model=model)
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
        if self._of_busy_host is not None:
            narrow = self._busy_host.observe(observation)
            if narrow > 0:
                curve = _mixed(curve, self._of_busy_host, narrow)
            if narrow == 1:
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


def _between(one: Power, other: Power, part: float) -> Power:
    """Interpolate between two powers. `part` 0 gives the first power, and 1 the second."""
    return Power(
        one.watts + part * (other.watts - one.watts),
        one.lower + part * (other.lower - one.lower),
        one.upper + part * (other.upper - one.upper),
    )


def _mixed(one: PowerCurve, other: PowerCurve, part: float) -> PowerCurve:
    """Interpolate between two curves with equal loads. `part` 0 gives the first curve, and 1 the second."""
    points = [_between(low, high, part) for low, high in zip(one.points, other.points, strict=True)]
    return PowerCurve(one.loads, points, one.reasons)


def machine_curve(
    machine: ThisMachine,
    idle_watts: float | None,
    idle_share: IdleShare,
    host_load: float | None = None,
    model: MachineModel | None = None,
) -> PowerCurve:
    """Return the power of a machine by load. The machine formula computes it, or `model` if it is not None.

    If several hosts are possible, the watts are the median over the hosts. The lower end of the interval is the
    5 % quantile of the lower ends for the hosts, and the upper end is the 95 % quantile of the upper ends. Raises
    `MeterError` if no host has an estimate.
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

    The median is always interpolated. For other quantiles of fewer than `_MIN_VALUES` values, the function returns the
    lowest or the highest value.
    """
    ordered = sorted(values)
    if len(ordered) < _MIN_VALUES and part != _MEDIAN:
        return ordered[0] if part < _MEDIAN else ordered[-1]
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
