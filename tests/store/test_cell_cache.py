"""Test two fast predictors of tree ensembles: the cell cache, and the bit masks for single rows.

They must predict exactly the same numbers as the leaf masks (bit masks of the leaves) from which they are made.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.arrays import FloatArray, SingleArray
from kepler_plugins.model_formats.cell_cache import FIRST_SLOT_BITS, MIN_ROWS, CellCache, cell_cache
from kepler_plugins.model_formats.leaf_masks import JointLeafMasks, LeafMasks, join_leaf_masks, leaf_masks
from kepler_plugins.model_formats.row_masks import MAX_ROWS, RowMasks, row_masks
from kepler_plugins.model_formats.tree_ensemble import Trees

FEATURES = 3
THRESHOLDS = (-1.5, -1e-45, 0.0, 0.1, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.3, 1.0, 1e30)
"""Thresholds of the ensembles. Between some of them, there is no other number in single precision."""


def critical_values() -> SingleArray:
    """Return the thresholds, their neighbours in single precision, very large and small numbers, infinity, and NaN."""
    edges = np.array(THRESHOLDS, dtype=np.float32)
    beside = [np.nextafter(edges, np.float32(direction)) for direction in (-np.inf, np.inf)]
    return np.unique(np.concatenate([edges, *beside, [-np.inf, -0.0, 0.05, 5.0, np.inf, np.nan]]).astype(np.float32))


VALUES = critical_values()


class CountedMasks:
    """A predictor (`JointLeafMasks`) that counts how many rows it has predicted."""

    def __init__(self, masks: JointLeafMasks) -> None:
        self.masks, self.rows = masks, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.masks, name)

    def predict(self, X: SingleArray) -> FloatArray:
        self.rows += len(X)
        return self.masks.predict(X)


def counted_cache(masks: JointLeafMasks, **arguments: int) -> tuple[CellCache, CountedMasks]:
    counted: Any = CountedMasks(masks)
    return CellCache(counted, **arguments), counted


def ensemble(seed: int, trees: int, depth: int) -> LeafMasks:
    """Return an ensemble of complete random trees whose thresholds are from `THRESHOLDS`."""
    random = np.random.default_rng(seed)
    nodes, first_leaf = 2 ** (depth + 1) - 1, 2**depth - 1
    feature, edge, true, false, weight, roots = [], [], [], [], {}, []
    for tree in range(trees):
        start = tree * nodes
        roots.append(start)
        for node in range(nodes):
            is_leaf = node >= first_leaf
            feature.append(int(random.integers(FEATURES)))
            edge.append(float(np.float32(random.choice(THRESHOLDS))))
            true.append(-1 if is_leaf else start + 2 * node + 1)
            false.append(-1 if is_leaf else start + 2 * node + 2)
            if is_leaf:
                weight[start + node] = np.float32(random.normal(0, 30))
    masks = leaf_masks(Trees(FEATURES, roots, feature, edge, true, false, weight, np.float32(random.normal(0, 50))))
    assert masks is not None
    return masks


ENSEMBLES = st.lists(
    st.builds(ensemble, st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=4
)
REQUESTS = st.lists(
    st.lists(st.tuples(*[st.sampled_from(VALUES.tolist())] * FEATURES), min_size=1, max_size=40),
    min_size=1,
    max_size=5,
)


@given(ENSEMBLES, REQUESTS, st.integers(2, 10))
def test_the_watts_of_cached_cells_are_those_of_the_masks(
    ensembles: list[LeafMasks], requests: list[list[tuple[float, ...]]], slot_bits: int
) -> None:
    """The cache returns the watts of the predictor behind it, even if it has too few slots for all results.

    Requests with one or two rows do not use the cache.
    """
    masks = join_leaf_masks(ensembles)
    cache = CellCache(masks, slot_bits)
    for request in (*requests, *requests):
        X = np.array(request, dtype=np.float32)
        watts = cache.predict(X)
        assert watts.dtype == np.float64
        assert watts.tolist() == masks.predict(X).tolist()


@given(ENSEMBLES, ENSEMBLES, st.permutations(range(FEATURES)), REQUESTS)
def test_the_watts_of_an_extended_cache(
    ensembles: list[LeafMasks], more: list[LeafMasks], columns: list[int], requests: list[list[tuple[float, ...]]]
) -> None:
    own, other = join_leaf_masks(ensembles), join_leaf_masks(more)
    joint = CellCache(own).extended(CellCache(other), columns)
    if joint is None:
        # two caches cannot be joined if one has masks of 8 bits and the other of 64 bits
        assert own.features[0].masks.dtype != other.features[0].masks.dtype
        return
    assert isinstance(joint, CellCache)
    for request in (*requests, *requests):
        X = np.array(request, dtype=np.float32)
        assert joint.predict(X).tolist() == [*own.predict(X).tolist(), *other.predict(X[:, columns]).tolist()]


def test_every_cell_has_a_key_of_its_own() -> None:
    """Every combination of the feature values in `VALUES` gets its own entry in the cache.

    As soon as the cache is large enough, all results come from the cache, and the masks predict no row any more.
    """
    masks = join_leaf_masks([ensemble(seed, 5, 3) for seed in range(4)])
    cache, counted = counted_cache(masks)
    X = np.stack(np.meshgrid(*[VALUES] * FEATURES), axis=-1).reshape(-1, FEATURES)
    expected = masks.predict(X)
    sizes, rows = [], []
    for _ in range(4):
        assert np.array_equal(cache.predict(X), expected)
        sizes.append(len(cache._keys))
        rows.append(counted.rows)
    assert sizes[-1] > 2**FIRST_SLOT_BITS
    assert rows[0] == len(X)
    assert rows[-1] == rows[-2]


def test_large_masks_are_not_copied_for_single_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = join_leaf_masks([ensemble(1, 5, 3)])
    size = sum((len(of_feature.edges) + 1) * 5 for of_feature in masks.features)
    monkeypatch.setattr("kepler_plugins.model_formats.row_masks.MAX_BYTES", size)
    assert isinstance(row_masks(masks), RowMasks)
    monkeypatch.setattr("kepler_plugins.model_formats.row_masks.MAX_BYTES", size - 1)
    assert row_masks(masks) is masks


def test_few_rows_are_not_cached() -> None:
    cache, counted = counted_cache(join_leaf_masks([ensemble(1, 5, 3)]))
    X = np.zeros((MIN_ROWS, FEATURES), dtype=np.float32)
    cache.predict(X[:1])
    cache.predict(X[:MAX_ROWS])
    assert counted.rows == 0
    for _ in range(3):
        cache.predict(X[1:])
    assert counted.rows == 3 * (MIN_ROWS - 1)
    assert cache.predict(X[:0]).shape == (1, 0)
    for _ in range(3):
        cache.predict(X)
    assert counted.rows == 3 * (MIN_ROWS - 1) + MIN_ROWS


def test_a_full_cache_keeps_new_cells() -> None:
    masks = join_leaf_masks([ensemble(2, 5, 3)])
    cache, counted = counted_cache(masks, max_slot_bits=2)
    cells = np.stack(np.meshgrid(*[VALUES] * FEATURES), axis=-1).reshape(-1, FEATURES)
    cache.predict(cells)
    for cell in cells[:: len(cells) // 50]:
        X = np.tile(cell, (MIN_ROWS, 1))
        cache.predict(X)
        before = counted.rows
        assert np.array_equal(cache.predict(X), masks.predict(X))
        assert counted.rows == before


def test_too_many_cells_for_a_key_are_not_cached() -> None:
    trees = ensemble(3, 6, 3)
    features = 40
    edges = [trees.edges[0]] * features
    masks = [trees.masks[0]] * features
    wide = join_leaf_masks([LeafMasks(edges, masks, trees.leaves, trees.base)])
    assert (len(trees.edges[0]) + 1) ** features > 2**63
    assert cell_cache(wide) is wide
    assert isinstance(cell_cache(join_leaf_masks([trees])), CellCache)


@pytest.mark.parametrize("slot_bits", [3, 12])
def test_threads_that_share_a_cache(slot_bits: int) -> None:
    masks = join_leaf_masks([ensemble(seed, 5, 4) for seed in range(3)])
    cache = CellCache(masks, slot_bits)
    wrong: list[int] = []

    def run(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(150):
            X = random.choice(VALUES, (60, FEATURES))
            if not np.array_equal(cache.predict(X), masks.predict(X)):
                wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
