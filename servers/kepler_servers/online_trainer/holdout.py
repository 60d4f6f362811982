"""Which of the newest data challengers are not trained on, so that they can be judged on it."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

FEWEST_INSTANTS = 30
"""On fewer nothing is judged."""
MOST_INSTANTS = 600
PART = 0.4
"""Of what is new, its end, with a gap of GAP_STEPS before it."""
GAP_STEPS = 10
BLOCK = 10
"""After a drift, every second block of so many timestamps, the last one among them: what the machine does
now is in the newest data only, and must be both learnt from and judged on."""
BLOCK_GAP_STEPS = 2


@attrs.frozen(eq=False)
class HeldOut:
    """Stretches of time."""

    starts: FloatArray
    ends: FloatArray
    """Both included, shape (stretches,), in order of time."""
    gap: float
    """Seconds around them that are not trained on either."""

    def covers(self, time: FloatArray) -> BoolArray:
        """What is judged on; shape of `time`."""
        return self._within(time, 0.0)

    def trainable(self, time: FloatArray) -> BoolArray:
        """What may be trained on."""
        return ~self._within(time, self.gap)

    def _within(self, time: FloatArray, margin: float) -> BoolArray:
        found = np.zeros(len(time), dtype=bool)
        for start, end in zip(self.starts, self.ends, strict=True):
            found |= (time >= start - margin) & (time <= end + margin)
        return found


NOTHING = HeldOut(np.empty(0), np.empty(0), 0.0)


def hold_out(time: FloatArray, trained_until: float, step: float, *, drift: bool) -> HeldOut:
    """Stretches of what is newer than all that the served models were trained on; `time` are the times
    of all instants, in any order."""
    times, counts = np.unique(time, return_counts=True)
    new = times > trained_until
    times, counts = times[new], counts[new]
    if not len(times):
        return NOTHING
    step = step if np.isfinite(step) else 0.0
    from_end = np.cumsum(counts[::-1])  # instants from each timestamp, counted from the newest, to the end
    if not drift:
        wanted = min(max(PART * counts.sum(), FEWEST_INSTANTS), MOST_INSTANTS)
        n = min(int(np.searchsorted(from_end, wanted)) + 1, len(times))
        return HeldOut(times[-n : len(times) - n + 1], times[-1:], GAP_STEPS * step)
    block = (len(times) - 1 - np.arange(len(times))) // BLOCK
    tested = block % 2 == 0
    tested &= np.cumsum((counts * tested)[::-1])[::-1] <= MOST_INSTANTS
    edges = np.diff(np.concatenate([[False], tested, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return HeldOut(times[starts], times[ends], BLOCK_GAP_STEPS * step)
