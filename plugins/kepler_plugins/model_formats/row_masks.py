"""Evaluation of leaf masks for a single row.

Kepler's requests for the power of a node have one or two rows. For so few rows, most of the time is the overhead of
NumPy's calls. `RowMasks` has a copy of the masks in which all ensembles' masks for an interval follow one another. So
it needs less than half of the calls that `JointLeafMasks.predict` needs for any number of rows.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_plugins.model_formats.leaf_masks import FeatureMasks, JointLeafMasks, Masks, lowest_leaves

MAX_ROWS = 2
"""Maximum number of rows for which `RowMasks` is used. For more rows, `JointLeafMasks.predict` is faster."""
MAX_BYTES = 2_000_000
"""Limit of the size of the copied masks."""

_SINGLE_LEAVES = [1 << leaf for leaf in range(8)]
"""For each leaf of a tree with few leaves, the mask that has only the bit of this leaf."""
_LOWEST_BITS = np.array([0, *((mask & -mask).bit_length() - 1 for mask in range(1, 256))])
"""The number of the lowest bit of each mask of 8 bits."""


class RowMasks:
    """Predicts exactly what leaf masks predict, one row after the other."""

    def __init__(self, masks: JointLeafMasks) -> None:
        self._few_leaves = masks.features[0].masks.dtype == np.uint8
        # A table with an entry for each mask takes 1 KiB per tree. Kepler's requests are seconds apart, so most of
        # these entries would come from the main memory, not from the processor's cache.
        values = masks.values[:, :, _SINGLE_LEAVES] if self._few_leaves else masks.values
        ensembles, trees, leaves = values.shape
        self._edges: list[list[float]] = [of_feature.edges.tolist() for of_feature in masks.features]
        self._masks = [list(_masks_of_intervals(of_feature, ensembles)) for of_feature in masks.features]
        """For each feature and interval, the masks of all trees of all ensembles, in one dimension."""
        self._shape = (ensembles, trees)
        self._values = values.reshape(-1)
        self._first_leaves = np.arange(ensembles * trees) * leaves
        """Position of the first leaf of each tree in `_values`."""
        self._every_leaf = np.full_like(self._masks[0][0], np.iinfo(masks.features[0].masks.dtype).max)
        self._base = masks.base[:, 0]

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (ensembles, rows)."""
        watts = np.empty((len(self._base), len(X)))
        for row, values in enumerate(X.tolist()):
            watts[:, row] = self._predict_row(values)
        return watts

    def _predict_row(self, values: list[float]) -> SingleArray:
        reachable: Masks = self._every_leaf
        for value, edges, masks in zip(values, self._edges, self._masks, strict=True):
            # NaN belongs to the last interval, because NumPy sorts NaN after all numbers. `bisect_left` would return 0.
            reachable = reachable & masks[bisect_left(edges, value) if value == value else -1]
        lowest = _LOWEST_BITS.take(reachable) if self._few_leaves else lowest_leaves(reachable)
        lowest += self._first_leaves
        leaves = self._values.take(lowest).reshape(self._shape)
        # A cumulative sum adds tree after tree, as `JointLeafMasks` does. NumPy's sum along this axis adds in another
        # order.
        sums: SingleArray = np.add.accumulate(leaves, axis=1)[:, -1]
        return sums + self._base


def row_masks(masks: JointLeafMasks) -> RowMasks | JointLeafMasks:
    """Return the predictor of single rows, or the leaf masks themselves if the copied masks would be too large."""
    intervals = sum(len(of_feature.edges) + 1 for of_feature in masks.features)
    size = intervals * masks.base.size * masks.values.shape[1] * masks.features[0].masks.itemsize
    return RowMasks(masks) if size <= MAX_BYTES else masks


def _masks_of_intervals(of_feature: FeatureMasks, ensembles: int) -> Masks:
    """Return the masks of all ensembles for each interval of a feature, shape (intervals, ensembles × trees)."""
    intervals, trees = len(of_feature.edges) + 1, of_feature.masks.shape[1]
    every_leaf = np.iinfo(of_feature.masks.dtype).max
    masks = np.full((intervals, ensembles, trees), every_leaf, dtype=of_feature.masks.dtype)
    masks[:, of_feature.users or slice(None)] = of_feature.masks[of_feature.positions.T]
    return masks.reshape(intervals, -1)
