"""The interface of power sources."""

from __future__ import annotations

from typing import Literal, Protocol

from kepler_core.metering import Observation, Reading

Kind = Literal["measured", "model", "formula"]


class PowerSource(Protocol):
    """Interface of a power source, which returns the watts of this machine for an observation.

    A power source measures power, applies a model, or applies the machine formula.
    """

    name: str
    """Short name, which the setting `sources` uses, e.g. "powercap"."""
    kind: Kind

    def read(self, observation: Observation) -> Reading | None:
        """Return the power in the period of the observation.

        The method is called once per period, from one thread. It must return within a few milliseconds. It returns None
        if the source needs a further period, e.g. for the second value of a counter. It raises `MeterError` with the
        reason if the power is not known.
        """

    def close(self) -> None:
        """Close files and stop threads. May be called several times."""
