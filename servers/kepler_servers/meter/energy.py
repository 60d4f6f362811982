"""Energy counters: the integral of the watts that the meter reports."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_VALID_SECONDS = 10.0
"""Default time after which the counters stop rising if no new power is set."""


class EnergyCounters:
    """Counters of the energy of each component, in joules. No counter ever falls.

    Assume that a counter has the value E_k at the time t_k, when a power W_k is set. Until the next power is set, its
    value is E(t) = E_k + W_k · (t − t_k). So the counter rises at the rate W_k. If the meter changes to another power
    source, only this rate changes.

    All times are seconds of one monotonic clock, e.g. `time.monotonic`.
    """

    def __init__(self, joules: Mapping[str, float] | None = None, valid_seconds: float = DEFAULT_VALID_SECONDS) -> None:
        """`joules` has the start value of the counter of each component.

        If no power is set for `valid_seconds`, the counters stop. For example, the process may have been stopped for
        hours, and the power in these hours is not known.
        """
        self._joules = dict(joules or {})
        self._watts: dict[str, float] = {}
        self._since = 0.0
        self._valid_seconds = valid_seconds

    def set_power(self, watts: Mapping[str, float], now: float) -> None:
        """Set the power of all components in watts. The counters of components without a power stop."""
        self._joules = self.at(now)
        self._watts = dict(watts)
        self._since = now
        for component in watts:
            self._joules.setdefault(component, 0.0)

    def stop(self, now: float) -> None:
        """Stop all counters, because the power is not known."""
        self.set_power({}, now)

    def at(self, now: float) -> dict[str, float]:
        """Return the counters at the time `now`, in joules by component. The result includes stopped counters."""
        seconds = min(max(now - self._since, 0.0), self._valid_seconds)
        return {
            component: joules + max(self._watts.get(component, 0.0), 0.0) * seconds
            for component, joules in self._joules.items()
        }
