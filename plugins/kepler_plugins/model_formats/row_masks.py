"""Evaluation of leaf masks (bit masks of the leaves of a tree ensemble) for a single row.

Kepler's requests for the power of a node have one or two rows. For so few rows, most of the time is the overhead of
NumPy's calls. `RowMasks` has a copy of the masks. In this copy, the masks of all trees for an interval are one long
integer of Python, with a byte per tree. So a bitwise AND of two features combines the masks of all trees. Only the
look-up and the sums of the leaves need NumPy.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import RowFunction
from kepler_plugins.model_formats.leaf_masks import (
    FeatureMasks,
    JointLeafMasks,
    LeafMasks,
    Masks,
    leaf_masks,
    lowest_leaves,
)
from kepler_plugins.model_formats.ordered_sums import sum_in_order
from kepler_plugins.model_formats.tree_ensemble import Trees

MAX_ROWS = 2
"""Maximum number of rows for which `RowMasks` is used. For more rows, `JointLeafMasks.predict` is faster."""
MAX_BYTES = 2_000_000
"""Maximum size of the copy of the masks in a `RowMasks`, in bytes."""

_SINGLE_LEAVES = [1 << leaf for leaf in range(8)]
"""Masks with a single bit: for each leaf of a tree with few leaves, the mask that contains only this leaf."""
_LOWEST_BITS = bytes([0, *((mask & -mask).bit_length() - 1 for mask in range(1, 256))])
"""The number of the lowest bit of each mask of 8 bits."""
_BYTE_ORDER: Final = "little"


class RowMasks:
    """Predicts exactly what leaf masks predict, one row after the other."""

    def __init__(self, masks: JointLeafMasks) -> None:
        self._few_leaves = masks.features[0].masks.dtype == np.uint8
        # A table with an entry for each mask takes 1 KiB per tree. Kepler's requests are seconds apart, so most of
        # these entries would come from the main memory, not from the processor's cache.
        values = masks.values[:, :, _SINGLE_LEAVES] if self._few_leaves else masks.values
        # A number is added to the sum of an ensemble's trees. Store it as the only leaf of one more tree, so that no
        # further call of NumPy is needed.
        values = np.pad(values, ((0, 0), (0, 1), (0, 0)))
        values[:, -1] = masks.base
        ensembles, trees, leaves = values.shape
        self._edges: list[list[float]] = [of_feature.edges.tolist() for of_feature in masks.features]
        every_mask = [_masks_of_intervals(of_feature, ensembles) for of_feature in masks.features]
        self._masks: list[list[int]] = [
            [int.from_bytes(of_interval.tobytes(), _BYTE_ORDER) for of_interval in of_feature]
            for of_feature in every_mask
        ]
        """For each feature and interval, the leaf masks of all trees in one integer: the first trees of all ensembles,
        then the second trees, and so on."""
        self._mask_bytes = every_mask[0][0].nbytes
        self._mask_type = every_mask[0].dtype
        self._shape = (trees, ensembles)
        self._values = np.ascontiguousarray(values.transpose(1, 0, 2)).reshape(-1)
        self._first_leaves = np.arange(ensembles * trees) * leaves
        """Position of the first leaf of each tree in `_values`."""
        self._every_leaf = (1 << (8 * self._mask_bytes)) - 1

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (ensembles, rows)."""
        watts = np.empty((self._shape[1], len(X)))
        for number, row in enumerate(X.tolist()):
            watts[:, number] = self.predict_row(row)
        return watts

    def predict_row(self, row: list[float]) -> list[float]:
        """Return the predicted watts of each ensemble for a single row."""
        reachable = self._every_leaf
        for value, edges, masks in zip(row, self._edges, self._masks, strict=True):
            # Treat NaN as higher than all numbers, as NumPy does. `bisect_left` would put NaN into the first interval.
            reachable &= masks[bisect_left(edges, value) if value == value else -1]
        content = reachable.to_bytes(self._mask_bytes, _BYTE_ORDER)
        if self._few_leaves:
            positions = self._first_leaves + np.frombuffer(content.translate(_LOWEST_BITS), dtype=np.uint8)
        else:
            positions = self._first_leaves + lowest_leaves(np.frombuffer(content, dtype=self._mask_type))
        leaves = self._values.take(positions).reshape(self._shape)
        watts: list[float] = sum_in_order(leaves).tolist()
        return watts


class ResidentMasks(LeafMasks):
    """The leaf masks of one ensemble, which can also predict a single row."""

    def row_function(self) -> RowFunction | None:
        """Return a function that predicts a single row; None if its copy of the masks would be too large."""
        rows = row_masks(self._evaluator)
        return rows.predict_row if isinstance(rows, RowMasks) else None


def resident_masks(trees: Trees) -> ResidentMasks | None:
    """Return the leaf masks of an ensemble, which can also predict single rows. See `leaf_masks` for the limits."""
    masks = leaf_masks(trees)
    return None if masks is None else ResidentMasks(masks.edges, masks.masks, masks.leaves, masks.base)


def row_masks(masks: JointLeafMasks) -> RowMasks | JointLeafMasks:
    """Return a predictor of single rows. If its copy of the masks would be too large, return `masks` itself."""
    intervals = sum(len(of_feature.edges) + 1 for of_feature in masks.features)
    size = intervals * masks.base.size * masks.values.shape[1] * masks.features[0].masks.itemsize
    return RowMasks(masks) if size <= MAX_BYTES else masks


def _masks_of_intervals(of_feature: FeatureMasks, ensembles: int) -> Masks:
    """Return the masks of all ensembles for each interval of a feature, shape (intervals, trees + 1, ensembles).

    Each ensemble gets one additional tree, which has a single leaf.
    """
    intervals, trees = len(of_feature.edges) + 1, of_feature.masks.shape[1]
    every_leaf = np.iinfo(of_feature.masks.dtype).max
    masks = np.full((intervals, ensembles, trees + 1), every_leaf, dtype=of_feature.masks.dtype)
    masks[:, of_feature.users or slice(None), :trees] = of_feature.masks[of_feature.positions.T]
    masks[:, :, trees] = 1
    return np.ascontiguousarray(masks.transpose(0, 2, 1))
