"""A cache of the watts in the cells of a tree ensemble's grid.

The thresholds of all ensembles of a model form a grid over their features. Each ensemble is constant in each cell of
this grid. A table of all cells would be the fastest predictor, but with three features and a hundred thresholds each it
would take megabytes per model. Most requests need only few cells: most processes use nearly nothing of a machine, and
the counters of a machine rise together. So the cache keeps only cells that a request has needed, up to a fixed number.

The cached watts are those that the leaf masks have computed for another row in the same cell. So they are exactly equal
to the watts that the leaf masks would compute for the row itself.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray, SingleArray
from kepler_core.contracts import JointPredictor, Predictor, RowFunction
from kepler_core.models.power_model import any_true
from kepler_plugins.model_formats.leaf_masks import JointLeafMasks, LeafMasks, join_leaf_masks
from kepler_plugins.model_formats.row_masks import MAX_ROWS, RowMasks, row_masks

MIN_ROWS = 8
"""Minimum number of rows for which the cache is used. For fewer rows, the leaf masks alone are as fast."""
FIRST_SLOT_BITS = 13
"""A new cache has 2 to this power slots. Such a small cache stays in the processor's cache."""
SLOT_BITS = 15
"""A cache has at most 2 to this power slots. Each slot takes 8 bytes, and 4 bytes more for each ensemble. So with four
ensembles, the largest cache takes 768 KiB."""
_GROWTH_BITS = 2
_MAX_FILL = 0.25
"""A cache grows by the factor 2^`_GROWTH_BITS` if this fraction of its slots is in use. More cells in use would compete
for the same slots more often."""

_MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd number near 2^64 divided by the golden ratio. A cell's number is multiplied by it. The product modulo 2^64 is the
cell's key. The highest bits of the key are the number of the slot. The products of close numbers differ in these bits
(Knuth, "The Art of Computer Programming", volume 3, section 6.4)."""
_OTHER_SLOTS = np.array([[1], [2], [3]])
"""A cell has four possible slots. The key states the first slot. The others have its number XOR 1, XOR 2 and XOR 3."""
_MAX_CELLS = 2**62
"""Upper limit of the number of cells. Below it, each cell has a different number."""


class CellCache:
    """Predicts the same watts as leaf masks (bit masks of the leaves), and keeps the watts for later requests."""

    def __init__(self, masks: JointLeafMasks, max_slot_bits: int = SLOT_BITS) -> None:
        """Create an empty cache for leaf masks with at most `_MAX_CELLS` cells (see `cell_cache`).

        The cache grows to at most 2 to the power of `max_slot_bits` slots, at least 4.
        """
        self._masks = masks
        self._max_slot_bits = max_slot_bits
        self._edges = [of_feature.edges for of_feature in masks.features]
        self._offsets = _offsets(masks)
        """For each feature, values of shape (intervals,). A cell's key is a sum of one value per feature."""
        self._make_slots(min(FIRST_SLOT_BITS, max_slot_bits))
        self._lock = threading.Lock()

    @cached_property
    def _rows(self) -> RowMasks | JointLeafMasks:
        # This copy of the masks is made on first use, because many caches never need it: requests for the power of
        # processes have more than `MAX_ROWS` rows.
        return row_masks(self._masks)

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (ensembles, rows)."""
        if len(X) <= MAX_ROWS:
            return self._rows.predict(X)
        # Two threads that write to the same slot could store the key of one cell with the watts of another cell. So
        # only one thread at a time uses the cache.
        if len(X) < MIN_ROWS or not self._lock.acquire(blocking=False):
            return self._masks.predict(X)
        try:
            return self._predict(X)
        finally:
            self._lock.release()

    def row_function(self) -> RowFunction | None:
        """Return a function that predicts a single row; None if its copy of the masks would be too large."""
        return self._rows.predict_row if isinstance(self._rows, RowMasks) else None

    def extended(self, more: Predictor | JointPredictor, columns: Sequence[int]) -> JointPredictor | None:
        """Return a predictor that also predicts what `more` predicts (see `contracts.ExtensiblePredictor`)."""
        joint = self._masks.extended(more._masks if isinstance(more, CellCache) else more, columns)
        return None if joint is None else cell_cache(joint)

    def _make_slots(self, slot_bits: int) -> None:
        self._slot_bits = slot_bits
        self._shift = np.uint64(64 - slot_bits)
        self._keys = np.zeros(1 << slot_bits, dtype=np.int64)
        """Key of the cell in each slot; 0 for an empty slot. No cell has the key 0, because cell numbers start at 1."""
        self._watts = np.zeros((1 << slot_bits, len(self._masks.base)), dtype=np.float32)
        """Watts of the cell in each slot, shape (slots, ensembles), in the single precision of the leaf masks."""

    def _predict(self, X: SingleArray) -> FloatArray:
        columns = zip(X.T, self._edges, self._offsets, strict=True)
        values, edges, offsets = next(columns)
        keys = offsets.take(edges.searchsorted(values))
        for values, edges, offsets in columns:
            keys += offsets.take(edges.searchsorted(values))
        slots = (keys.view(np.uint64) >> self._shift).view(np.int64)
        watts: FloatArray = self._watts.take(slots, axis=0).T.astype(np.float64, order="C")
        missing = self._keys.take(slots) != keys
        if any_true(missing):
            self._fill(X, keys, slots, missing, watts)
        return watts

    def _fill(self, X: SingleArray, keys: IntArray, slots: IntArray, missing: BoolArray, watts: FloatArray) -> None:
        """Set the missing watts from the other three slots of a cell or, if they lack the cell, from the leaf masks."""
        rows = np.flatnonzero(missing)
        slot = slots.take(rows) ^ _OTHER_SLOTS
        is_here = self._keys.take(slot) == keys.take(rows)
        choice = is_here.argmax(axis=0)
        positions = choice, np.arange(len(rows))
        watts[:, rows] = self._watts.take(slot[positions], axis=0).T
        nowhere = rows[~is_here[positions]]
        if len(nowhere):
            of_masks = self._masks.predict(X.take(nowhere, axis=0))
            watts[:, nowhere] = of_masks
            self._keep(keys.take(nowhere), slots.take(nowhere), of_masks.T)

    def _keep(self, keys: IntArray, slots: IntArray, watts: FloatArray) -> None:
        """Store new cells. Each cell is written to its first empty slot or, if none is empty, to its last slot.

        `watts` have the shape (cells, ensembles).
        """
        chosen = slots
        for other in _OTHER_SLOTS[:, 0]:
            chosen = np.where(self._keys.take(chosen) == 0, chosen, slots ^ other)
        self._keys[chosen] = keys
        # Several cells may have chosen the same slot. Only one of their keys is there now.
        kept = self._keys.take(chosen) == keys
        self._watts[chosen[kept]] = watts[kept]
        if self._slot_bits < self._max_slot_bits and np.count_nonzero(self._keys) > _MAX_FILL * len(self._keys):
            # The larger cache starts empty, and the next requests fill it.
            self._make_slots(min(self._slot_bits + _GROWTH_BITS, self._max_slot_bits))


def join_with_cache(ensembles: Sequence[LeafMasks]) -> CellCache | JointLeafMasks:
    """Join the leaf masks of several ensembles over the same features, and cache the watts of their cells."""
    return cell_cache(join_leaf_masks(ensembles))


def cell_cache(masks: JointLeafMasks) -> CellCache | JointLeafMasks:
    """Return the leaf masks with a cache of their cells, or without a cache if the ensembles have too many cells."""
    cells = math.prod(len(of_feature.edges) + 1 for of_feature in masks.features)
    return CellCache(masks) if cells < _MAX_CELLS else masks


def _offsets(masks: JointLeafMasks) -> list[IntArray]:
    """Return for each feature the values that its intervals add to the key of a cell, shape (intervals,).

    The first feature also adds 1, the number of the first cell. So no two cells have the same key.
    """
    offsets: list[IntArray] = []
    first, stride = 1, 1
    for of_feature in masks.features:
        intervals = len(of_feature.edges) + 1
        numbers = np.arange(intervals, dtype=np.uint64) * np.uint64(stride) + np.uint64(first)
        offsets.append((numbers * np.uint64(_MULTIPLIER)).view(np.int64))  # the product is taken modulo 2^64
        first, stride = 0, stride * intervals
    return offsets
