"""Reject values of power sensors that are not measurements: impossible values, and values that never change."""

from __future__ import annotations

import attrs

from kepler_core.errors import MeterError
from kepler_servers.meter.sources.energy_counter import MAX_WATTS, MIN_WATTS
from kepler_servers.meter.sources.measured import MAIN_COMPONENTS

FROZEN_SECONDS = 120.0
FROZEN_LOAD_CHANGE = 0.3
"""A sensor is frozen if its value did not change for `FROZEN_SECONDS`, although the load (from 0 to 1) changed by at
least this amount."""


@attrs.define
class SensorCheck:
    """Checks the values of one power sensor."""

    where: str
    """Name of the sensor in messages."""
    component: str
    _watts: float | None = None
    _changed_at: float = 0.0
    _loads: tuple[float, float] = (1.0, 0.0)
    """Lowest and highest load since the latest change of the sensor's value."""

    def check(self, watts: float, now: float, load: float | None) -> float:
        """Return the watts.

        Raises `MeterError` if they are impossible, or if the sensor is frozen. `now` is in seconds.
        """
        if watts != self._watts:
            self._watts, self._changed_at, self._loads = watts, now, (1.0, 0.0)
        if load is not None:
            self._loads = (min(self._loads[0], load), max(self._loads[1], load))
        if now - self._changed_at > FROZEN_SECONDS and self._loads[1] - self._loads[0] >= FROZEN_LOAD_CHANGE:
            raise MeterError(f"{self.where} stands still at {watts:g} W although the load changes")
        lowest = MIN_WATTS if self.component in MAIN_COMPONENTS else 0.0
        if not lowest <= watts <= MAX_WATTS:  # NaN is rejected, too
            raise MeterError(f"{self.where} reports {watts:.3g} W, which no machine draws")
        return watts
