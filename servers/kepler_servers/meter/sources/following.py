"""A power source that is created again when this machine changes, e.g. when it moves to another host."""

from __future__ import annotations

from collections.abc import Callable

from kepler_core.metering import Observation, Reading
from kepler_servers.meter.sources.power_source import PowerSource
from kepler_servers.meter.this_machine import MachineWatch, ThisMachine


class FollowingSource:
    """Power source that depends on the description of this machine, and follows its changes.

    A virtual machine that moves to another host, or gets more CPUs, needs another model or formula.
    """

    def __init__(self, make: Callable[[ThisMachine], PowerSource], watch: MachineWatch) -> None:
        """`make` creates the power source for a machine."""
        self._make = make
        self._watch = watch
        self._machine = watch.machine
        self._source = make(watch.machine)
        self.name = self._source.name
        self.kind = self._source.kind

    def read(self, observation: Observation) -> Reading | None:
        self._watch.has_changed()
        # Several sources share one `MachineWatch`, so another source may have noticed the change.
        if self._watch.machine is not self._machine:
            self._machine = self._watch.machine
            self._source.close()
            self._source = self._make(self._machine)
        return self._source.read(observation)

    def close(self) -> None:
        self._source.close()
