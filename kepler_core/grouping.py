"""Sums by group, without a loop over rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sum_by(values: NDArray[np.float64], group: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Sums of `values` by `group` (0 … n−1, of the same shape as `values`); shape (n,)."""
    return np.bincount(group, weights=values, minlength=n).astype(np.float64, copy=False)
