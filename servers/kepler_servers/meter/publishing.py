"""Publish readings through several outputs, with one energy counter for each component."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import attrs

from kepler_core.errors import MeterError, OutputError
from kepler_core.messages import one_line, printable
from kepler_core.metering import Output, Reading
from kepler_servers.meter.energy import EnergyCounters

log = logging.getLogger(__name__)

MAX_WATTS = 1e6
"""Highest power in watts that is published for a component. No machine draws more, so a higher power is an error."""


@attrs.frozen
class Zones:
    """Selects the components to publish, and the component under which the power of the whole machine is published."""

    only: tuple[str, ...] = ()
    """Components to publish; if empty, all components."""
    total: str = "package"
    """If only the power of the whole machine is known, it is published under this component. The default is the
    package, because Kepler and most dashboards read only the zone package. If the package power is known, the component
    package never has the power of the whole machine."""

    def of(self, reading: Reading) -> Reading:
        """Return the reading with only the components to publish.

        Raises `MeterError` if the reading has none of these components, or if a power is too high for any machine.
        """
        power = dict(reading.power)
        is_renamed = set(power) == {"platform"} and self.total == "package"
        if is_renamed:
            power = {self.total: power["platform"]}
        if self.only:
            power = {component: watts for component, watts in power.items() if component in self.only}
        if not power:
            wanted, known = ", ".join(self.only), ", ".join(reading.power)
            raise MeterError(
                f"{reading.provenance.name} has no power of {wanted or 'any zone'}; it has {known or 'none'}"
            )
        for component, watts in power.items():
            if not (math.isfinite(watts.watts) and 0 <= watts.watts <= MAX_WATTS):
                raise MeterError(f"{reading.provenance.name}: {watts.watts:g} W of {component} is impossible")
        return attrs.evolve(reading, power=power, is_whole_machine=is_renamed)


class Publisher:
    """Publishes readings and energy counters through several outputs.

    An output that fails does not stop the other outputs. The publisher writes a log line when an output begins to fail,
    when the reason changes, and when the output works again.
    """

    def __init__(self, outputs: Mapping[str, Output], valid_seconds: float) -> None:
        """Take the outputs, by the name that messages use. See `EnergyCounters` for `valid_seconds`."""
        self._outputs = dict(outputs)
        self._valid_seconds = valid_seconds
        self._energy = EnergyCounters()
        self._due: dict[str, float] = {}
        """Time of the next call of `advance`, by the name of the output. Not all outputs have such calls."""
        self.problems: dict[str, str] = {}
        """The reasons why outputs fail, by the name of the output."""

    def open(self) -> None:
        """Continue the counters from the last values of earlier processes, and open all outputs.

        Raises `OutputError` if an output cannot be opened; all other outputs are then closed again.
        """
        joules: dict[str, float] = {}
        for output in self._outputs.values():
            for component, value in output.restore().items():
                joules[component] = max(joules.get(component, 0.0), value)
        self._energy = EnergyCounters(joules, self._valid_seconds)
        for output in self._outputs.values():
            try:
                output.open()
            except BaseException:
                self.close()
                raise

    def joules(self, now: float) -> dict[str, float]:
        """Return the energy counters at the time `now`, in joules by component."""
        return self._energy.at(now)

    def publish(self, reading: Reading, now: float) -> None:
        """Publish a reading. From the time `now` on, the counters rise at the rate of its watts."""
        self._energy.set_power({component: power.watts for component, power in reading.power.items()}, now)
        joules = self._energy.at(now)
        for name, output in self._outputs.items():
            if self._try(name, lambda output=output: output.write(reading, joules)):  # type: ignore[misc]
                if output.advance_seconds is not None:
                    self._due[name] = now + output.advance_seconds
            else:
                self._due.pop(name, None)

    def withdraw(self, reason: str, now: float) -> None:
        """Publish that there is no estimate, and stop the energy counters."""
        self._energy.stop(now)
        self._due.clear()
        for name, output in self._outputs.items():
            self._try(name, lambda output=output: output.withdraw(reason))  # type: ignore[misc]

    @property
    def next_advance(self) -> float:
        """The time at which `advance` must be called next; infinite if no output needs a call."""
        return min(self._due.values(), default=math.inf)

    def advance(self, now: float) -> None:
        """Publish the energy counters through the outputs that are due."""
        joules = self._energy.at(now)
        for name, due in list(self._due.items()):
            if due > now:
                continue
            output = self._outputs[name]
            seconds = output.advance_seconds or math.inf
            # The next time is counted from the previous due time, so that a delay does not delay all later times.
            self._due[name] = max(due + seconds, now + 0.5 * seconds)
            if not self._try(name, lambda output=output: output.advance(joules)):  # type: ignore[misc]
                del self._due[name]

    def close(self) -> None:
        """Close all outputs."""
        self._due.clear()
        for name, output in self._outputs.items():
            self._try(name, output.close)

    def _try(self, name: str, call: Callable[[], None]) -> bool:
        """Call a method of an output. Return whether it succeeded, and log the first failure of each kind."""
        try:
            call()
        except OutputError as error:
            problem = str(error)
        except Exception as error:  # a defect of one output must not stop the other outputs
            problem = one_line(error)
        else:
            if self.problems.pop(name, None) is not None:
                log.info("output %s works again", name)
            return True
        if self.problems.get(name) != problem:
            log.warning("output %s fails, and is tried again with the next reading: %s", name, printable(problem))
        self.problems[name] = problem
        return False
