"""Sums by group, without a Python loop over rows."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray, IntArray


def sum_by(values: FloatArray, group: IntArray, n: int) -> FloatArray:
    """Return the sums of `values` in each of `n` groups, shape (n,).

    `group` holds the group of each value, 0 to n − 1, and has the shape of `values`.
    """
    return np.bincount(group, weights=values, minlength=n).astype(np.float64, copy=False)
