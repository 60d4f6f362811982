"""Hold out part of the newest data to evaluate challenger models."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

MIN_SAMPLES = 30
"""No model is evaluated on fewer samples."""
MAX_SAMPLES = 600
HELD_OUT_FRACTION = 0.4
"""The newest part of the new samples that is held out."""
GAP_STEPS = 10
"""Steps before the held-out part that are not trained on: neighbours in time are nearly copies."""
BLOCK_TIMESTAMPS = 10
"""After a drift, every second block of this length is held out, starting with the newest. What the machine
does now is in the newest data only: it must be both trained and evaluated on."""
BLOCK_GAP_STEPS = 2


@attrs.frozen(eq=False)
class HeldOut:
    """Time ranges that are held out."""

    starts: FloatArray
    ends: FloatArray
    """Both inclusive, shape (ranges,), in order of time."""
    gap: float
    """Seconds before and after each range that are not trained on either."""

    def covers(self, time: FloatArray) -> BoolArray:
        """Return a mask of the times to evaluate on."""
        return self._is_within(time, 0.0)

    def trainable(self, time: FloatArray) -> BoolArray:
        """Return a mask of the times to train on."""
        return ~self._is_within(time, self.gap)

    def _is_within(self, time: FloatArray, margin: float) -> BoolArray:
        mask = np.zeros(len(time), dtype=bool)
        for start, end in zip(self.starts, self.ends, strict=True):
            mask |= (time >= start - margin) & (time <= end + margin)
        return mask


NOTHING = HeldOut(np.empty(0), np.empty(0), 0.0)


def hold_out(time: FloatArray, trained_until: float, step: float, *, drift: bool) -> HeldOut:
    """Hold out part of the data that is newer than `trained_until`.

    `time` holds the times of all samples in any order, `step` the seconds between a node's samples (NaN
    if unknown). `trained_until` is the newest time that any served model was trained on.
    """
    times, counts = np.unique(time, return_counts=True)
    is_new = times > trained_until
    times, counts = times[is_new], counts[is_new]
    if not len(times):
        return NOTHING
    step = step if np.isfinite(step) else 0.0
    if not drift:
        samples = min(max(HELD_OUT_FRACTION * counts.sum(), MIN_SAMPLES), MAX_SAMPLES)
        samples_from_end = np.cumsum(counts[::-1])
        n = min(int(np.searchsorted(samples_from_end, samples)) + 1, len(times))
        return HeldOut(times[-n : len(times) - n + 1], times[-1:], GAP_STEPS * step)
    block = (len(times) - 1 - np.arange(len(times))) // BLOCK_TIMESTAMPS
    is_held_out = block % 2 == 0
    is_held_out &= np.cumsum((counts * is_held_out)[::-1])[::-1] <= MAX_SAMPLES
    edges = np.diff(np.concatenate([[False], is_held_out, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return HeldOut(times[starts], times[ends], BLOCK_GAP_STEPS * step)
