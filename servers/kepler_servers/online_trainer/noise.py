"""How sure a mean is, where samples next to each other are nearly copies."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray

BLOCK = 10
"""Samples that follow each other count as one observation."""
FEWEST_BLOCKS = 3
SURE = 2.0
"""Standard errors by which a difference must differ from nothing."""


def mean_and_error(values: FloatArray) -> tuple[float, float]:
    """Mean of values in order of time, and its standard error from the means of blocks of ten; infinite
    with fewer than three blocks."""
    n = len(values) // BLOCK
    mean = float(values.mean()) if len(values) else float("nan")
    if n < FEWEST_BLOCKS:
        return mean, float("inf")
    blocks = values[len(values) - n * BLOCK :].reshape(n, BLOCK).mean(axis=1)
    return mean, float(blocks.std(ddof=1) / np.sqrt(n))
