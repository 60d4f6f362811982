"""Read energy counters, and compute watts from the increase of their values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from kepler_core.errors import MeterError

MAX_WATTS = 10_000.0
"""Highest possible power of one counter. No processor package and no single machine draws more."""
MIN_WATTS = 0.05
"""Lowest possible power of a package or of a machine. A meter that reports less is not measuring."""
_MICROJOULES = 1e6
_MAX_POINTS = 64


@attrs.define
class EnergyCounter:
    """An energy counter in microjoules that is read once per period.

    The watts are the increase between two changes of the counter, divided by the time between the changes. Some
    counters change only every second or every five seconds. Until the next change, the previous watts stay valid.
    """

    where: str
    """Name of the counter in messages, usually its file."""
    component: str
    read: Callable[[], int]
    """Function that returns the value of the counter in microjoules. Raises `MeterError`."""
    range_microjoules: int = 0
    """Highest value of the counter, after which it restarts at 0. The attribute is 0 if the highest value is not
    known."""
    patience_seconds: float = 3.0
    """If the counter does not change for this time, it is considered broken."""
    smoothing_seconds: float = 0.0
    """The watts are a mean over at least this time. If it is 0, the mean covers the time since the counter's
    previous change."""
    discard_first_change: bool = False
    """Whether the measurement starts at the first change of the counter, instead of the first time it is read. This is
    needed for counters that change rarely."""
    _value: int | None = None
    _changed_at: float = 0.0
    _points: deque[tuple[float, float]] = attrs.field(factory=lambda: deque(maxlen=_MAX_POINTS))
    """The latest changes of the counter, oldest first: (time, microjoules since the first of these changes)."""
    _watts: float | None = None

    def watts(self, now: float) -> float | None:
        """Return the watts at the time `now` (seconds of a monotonic clock); None until they are known.

        Raises `MeterError` if the counter cannot be read, stands still, or reports a power that no machine has.
        """
        try:
            value = self.read()
        except MeterError:
            self._start(None, now)
            raise
        if self._value is None:
            self._start(value, now)
            return None
        if value == self._value:
            if now - self._changed_at > self.patience_seconds:
                # The message does not contain the time since the last change. If it did, it would be a new message in
                # every second, and each one would be logged and exported.
                raise MeterError(f"{self.where} stands still at {value} for more than {self.patience_seconds:g} s")
            return self._watts
        step = value - self._value
        if step < 0:
            step += self.range_microjoules
        if step < 0 or self._may_have_wrapped_unseen(now):
            # The counter was reset, or the number of times that it wrapped around is not known.
            self._start(value, now)
            return None
        self._value, self._changed_at = value, now
        if self.discard_first_change and not self._points:
            self._points.append((now, 0.0))
            return None
        return self._mean(step, now)

    def _start(self, value: int | None, now: float) -> None:
        self._value, self._changed_at, self._watts = value, now, None
        self._points.clear()
        if value is not None and not self.discard_first_change:
            self._points.append((now, 0.0))

    def _may_have_wrapped_unseen(self, now: float) -> bool:
        longest = self.range_microjoules / _MICROJOULES / MAX_WATTS
        return self.range_microjoules > 0 and now - self._changed_at > longest

    def _mean(self, step: int, now: float) -> float:
        self._points.append((now, self._points[-1][1] + step))
        while len(self._points) > 2 and now - self._points[1][0] >= self.smoothing_seconds:
            self._points.popleft()
        begin, joules_before = self._points[0]
        if now <= begin:
            raise MeterError(f"{self.where}: no time has passed between two values")
        watts = (self._points[-1][1] - joules_before) / _MICROJOULES / (now - begin)
        lowest = MIN_WATTS if self.component in ("package", "platform") else 0.0
        if not lowest <= watts <= MAX_WATTS:
            self._start(None, now)
            raise MeterError(f"{self.where} reports {watts:.3g} W, which no machine draws")
        self._watts = watts
        return watts


def watts_by_component(counters: list[EnergyCounter], now: float) -> tuple[dict[str, float], list[str], bool]:
    """Return the watts by component, the problems, and whether the watts of a component will be known only later.

    A component has one counter for each socket, and its watts are the sum over all counters. If a counter has no watts,
    the component has no watts, because a sum over only some of the sockets is not the power of the machine.
    """
    sums: dict[str, float | None] = {}
    problems: dict[str, str] = {}
    for counter in counters:
        try:
            watts = counter.watts(now)
        except MeterError as error:
            problems.setdefault(counter.component, str(error))
            watts = None
        before = sums.get(counter.component, 0.0)
        sums[counter.component] = None if before is None or watts is None else before + watts
    power = {component: watts for component, watts in sums.items() if watts is not None}
    waiting = any(watts is None and component not in problems for component, watts in sums.items())
    return power, list(problems.values()), waiting
