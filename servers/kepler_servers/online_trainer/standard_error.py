"""The standard error of a mean of autocorrelated values."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray

BLOCK_VALUES = 10
"""Number of consecutive values in a block. The mean of a block counts as one independent observation.

Values that follow each other in time are nearly equal, so single values are not independent.
"""
MIN_BLOCKS = 3
SIGNIFICANT_ERRORS = 2.0
"""A difference is significant if it exceeds this number of standard errors."""


def mean_and_standard_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean of values in order of time, and the standard error of this mean.

    The standard error is calculated from the means of blocks of ten values. If there are fewer than three blocks, it is
    infinite.
    """
    n = len(values) // BLOCK_VALUES
    mean = float(values.mean()) if len(values) else float("nan")
    if n < MIN_BLOCKS:
        return mean, float("inf")
    blocks = values[len(values) - n * BLOCK_VALUES :].reshape(n, BLOCK_VALUES).mean(axis=1)
    return mean, float(blocks.std(ddof=1) / np.sqrt(n))
