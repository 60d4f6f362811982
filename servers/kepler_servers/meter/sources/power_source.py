"""The interface of power sources."""

from __future__ import annotations

from typing import Literal, Protocol

from kepler_core.metering import Observation, Reading

Kind = Literal["measured", "model", "formula"]


class PowerSource(Protocol):
    """Turns an observation into the watts of this machine: a real meter, a model, or the machine formula."""

    name: str
    """Short name, which the setting `sources` uses, e.g. "powercap"."""
    kind: Kind

    def read(self, observation: Observation) -> Reading | None:
        """Return the power in the period of the observation.

        Called once per period, from one thread. Must return within a few milliseconds. Returns None if the source
        needs a further period, e.g. the second value of a counter. Raises `MeterError` with the reason if the source
        has no power.
        """

    def close(self) -> None:
        """Free files and threads. May be called several times."""
