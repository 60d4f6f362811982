"""A time series of a simulated recording, with methods that change its samples as a faulty exporter would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray


@attrs.define(eq=False)
class Counter:
    """A simulated series: a counter or a gauge."""

    metric: str
    labels: dict[str, str]
    times: IntArray
    """Unix seconds, shape (samples,)."""
    values: FloatArray
    """Values, shape (samples,)."""
    decimals: int
    """Number of decimals with which the exporter writes the values."""

    @property
    def is_energy(self) -> bool:
        """Whether the series counts energy."""
        return self.metric.endswith("_joules_total")

    @property
    def is_usage(self) -> bool:
        """Whether the series counts the usage of a container."""
        return self.metric.startswith("kepler_container_")

    @property
    def is_counter(self) -> bool:
        """Whether the series is a counter. A gauge is not changed by faults of counters."""
        return self.is_energy or self.is_usage or "accelerator" in self.metric

    @property
    def resets(self) -> BoolArray:
        """Whether the counter fell from the previous sample to this sample, shape (samples,)."""
        return np.diff(self.values, prepend=self.values[:1]) < 0

    @property
    def increases(self) -> FloatArray:
        """Increase since the previous sample, shape (samples,).

        At the first sample and at resets, the increase is the counter's value.
        """
        return np.where(self.resets, self.values, np.diff(self.values, prepend=0.0))

    def with_increases(self, increases: FloatArray, resets: BoolArray | None = None) -> Counter:
        """Return a counter with the given increases.

        `resets` marks the samples at which the new counter is reset, shape (samples,). If it is None, the new counter
        is reset at the same samples as this counter.
        """
        total = np.cumsum(increases)
        at = np.flatnonzero(self.resets if resets is None else resets)
        before = np.concatenate([[0.0], np.where(at > 0, total[at - 1], 0.0)])
        return attrs.evolve(self, values=total - before[np.searchsorted(at, np.arange(len(total)), side="right")])

    def only(self, kept: BoolArray | IntArray) -> Counter:
        """Return the series with only the samples that `kept` selects."""
        return attrs.evolve(self, times=self.times[kept], values=self.values[kept])

    def frozen(self, first: int, last: int, catches_up: bool) -> Counter:
        """Return a counter that does not change from the time `first` to the time `last`.

        With `catches_up`, the next sample contains the increase of this period. Otherwise, the increase is lost.
        """
        still = (self.times >= first) & (self.times <= last)
        increases = np.where(still, 0.0, self.increases)
        after = int(np.searchsorted(self.times, last, side="right"))
        if catches_up and after < len(increases):
            increases[after] += self.increases[still].sum()
        # the series does not show a reset that happens while the counter stands still
        return self.with_increases(increases, self.resets & ~still)


def scrapes_of(series: Sequence[Counter]) -> IntArray:
    """Return the times of all scrapes of a node."""
    return np.unique(np.concatenate([one.times for one in series]))


def replaced(
    series: Sequence[Counter], chosen: Callable[[Counter], bool], new: Callable[[Counter], Counter]
) -> list[Counter]:
    """Return the series, with `new(one)` in place of each series for which `chosen(one)` is true."""
    return [new(one) if chosen(one) else one for one in series]


def busiest(series: Sequence[Counter], metric: str) -> Counter:
    """Return the longest series of a metric. If several are longest, return the one whose counter increases most."""
    own = [one for one in series if one.metric == metric]
    longest = max(len(one.times) for one in own)
    return max((one for one in own if len(one.times) == longest), key=lambda one: float(one.increases.sum()))
