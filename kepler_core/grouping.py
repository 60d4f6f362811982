"""Sums by group, without a loop over rows."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray, IntArray


def sum_by(values: FloatArray, group: IntArray, n: int) -> FloatArray:
    """Sums of `values` by `group` (0 … n−1, of the same shape as `values`); shape (n,)."""
    return np.bincount(group, weights=values, minlength=n).astype(np.float64, copy=False)
