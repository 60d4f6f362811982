"""Energy counters: the integral of the watts that the meter reports."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_VALID_SECONDS = 10.0
"""Default time for which the counters keep rising if no new power is set."""


class EnergyCounters:
    """Counters of the energy of each component, in joules. No counter ever falls.

    From the moment t_k at which a power W_k is set, a counter is E(t) = E_k + W_k · (t − t_k). So the power that the
    meter reports is the rate at which the counter rises until the next power is set. A change of the power source
    changes the rate only.

    All times are seconds of one clock that never jumps, e.g. `time.monotonic`.
    """

    def __init__(self, joules: Mapping[str, float] | None = None, valid_seconds: float = DEFAULT_VALID_SECONDS) -> None:
        """`joules` are the values from which the counters continue, by component.

        If no power is set for `valid_seconds`, the counters stop: the process may have been stopped for hours, and
        nobody knows the power in this time.
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
        """Return the counters in joules by component, including counters that are stopped."""
        seconds = min(max(now - self._since, 0.0), self._valid_seconds)
        return {
            component: joules + max(self._watts.get(component, 0.0), 0.0) * seconds
            for component, joules in self._joules.items()
        }
