"""Hold out part of the newest samples from training, to evaluate challengers on these samples."""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

MIN_SAMPLES = 30
"""Smallest number of samples on which a model is evaluated."""
MAX_SAMPLES = 600
HELD_OUT_FRACTION = 0.4
"""Fraction of the new samples that is held out.

New samples are samples on which no served model was trained. The newest of the new samples are held out.
"""
GAP_STEPS = 10
"""Length of the gap before the held-out samples, in steps between samples. No model is trained on samples in the gap.

Samples that follow each other in time are nearly equal. Without a gap, a model would be trained on samples that are
nearly equal to held-out samples.
"""
BLOCK_TIMESTAMPS = 10
"""Number of timestamps in a block. After a drift, every second block is held out, beginning with the newest block.

Only the newest data show how the machine behaves after the drift. With alternating blocks, models can be both
trained and evaluated on such data.
"""
BLOCK_GAP_STEPS = 2


@attrs.frozen(eq=False)
class HeldOut:
    """Time ranges whose samples are held out from training."""

    starts: FloatArray
    ends: FloatArray
    """`starts` has the first time of each held-out time range, and `ends` has the last time (Unix seconds, inclusive).
    Both are sorted."""
    gap: float
    """Length in seconds of the gaps before and after each held-out time range. Samples in a gap are not used at all,
    neither for training nor for evaluation."""

    def covers(self, time: FloatArray) -> BoolArray:
        """Return, for each time, whether it is within one of the held-out ranges."""
        return self._is_within(time, 0.0)

    def trainable(self, time: FloatArray) -> BoolArray:
        """Return, for each time, whether it is outside all held-out ranges and outside the gaps around them."""
        return ~self._is_within(time, self.gap)

    def _is_within(self, time: FloatArray, margin: float) -> BoolArray:
        mask = np.zeros(len(time), dtype=bool)
        for start, end in zip(self.starts, self.ends, strict=True):
            mask |= (time >= start - margin) & (time <= end + margin)
        return mask


NOTHING = HeldOut(np.empty(0), np.empty(0), 0.0)


def hold_out(time: FloatArray, trained_until: float, step: float, *, drift: bool) -> HeldOut:
    """Choose the samples to hold out, from all samples after the time `trained_until`.

    `time` has the times of all samples (Unix seconds) in any order. `trained_until` is the time of the newest sample
    that any served model was trained on. `step` is the number of seconds between a node's samples; NaN if it is
    unknown. If `drift` is true, a drift has triggered the retraining. Then every second block of `BLOCK_TIMESTAMPS`
    timestamps is held out.
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
