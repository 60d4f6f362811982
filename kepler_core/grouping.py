"""Calculate distinct values, and sums and medians by group, without a Python loop over rows."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray, IntArray

Scalar = TypeVar("Scalar", bound=np.generic)


def sum_by(values: FloatArray, group: IntArray, n: int) -> FloatArray:
    """Return the sum of the `values` in each of `n` groups, shape (n,).

    `group` has the number of each value's group, from 0 to n − 1. It has the shape of `values`.
    """
    return np.bincount(group, weights=values, minlength=n).astype(np.float64, copy=False)


def distinct(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return the distinct `values`, sorted.

    `numpy.unique` returns the same values. But NumPy 2.3 and later find them with a hash table: for millions of
    distinct values, this takes several times as long as sorting.
    """
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def median_by(values: FloatArray, group: IntArray, n: int) -> FloatArray:
    """Return the median of the `values` in each of `n` groups, shape (n,); NaN for a group without values.

    `group` has the number of each value's group, from 0 to n − 1. It has the shape of `values`.
    """
    medians = np.full(n, np.nan)
    if len(values):
        ordered = values[np.lexsort((values, group))]
        sizes = np.bincount(group, minlength=n)
        used = np.flatnonzero(sizes)
        starts, sizes = (np.cumsum(sizes) - sizes)[used], sizes[used]
        medians[used] = (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2
    return medians
