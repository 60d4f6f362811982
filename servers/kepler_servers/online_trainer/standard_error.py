"""The standard error of a mean of autocorrelated values."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray

BLOCK_VALUES = 10
"""Consecutive values that count as one observation: neighbours in time are nearly copies."""
MIN_BLOCKS = 3
SIGNIFICANT_ERRORS = 2.0
"""A difference is significant if it exceeds this number of standard errors."""


def mean_and_standard_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean of values in order of time, and its standard error.

    The error is computed from the means of blocks of ten values; it is infinite for fewer than three
    blocks.
    """
    n = len(values) // BLOCK_VALUES
    mean = float(values.mean()) if len(values) else float("nan")
    if n < MIN_BLOCKS:
        return mean, float("inf")
    blocks = values[len(values) - n * BLOCK_VALUES :].reshape(n, BLOCK_VALUES).mean(axis=1)
    return mean, float(blocks.std(ddof=1) / np.sqrt(n))
