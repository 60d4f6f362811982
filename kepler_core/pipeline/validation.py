"""Validation: choose the samples to hold out, and score the predictions for these samples.

Samples next to each other in time are nearly equal. Test samples are therefore contiguous in time, and no model
is fitted to samples shortly before or after its test samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import TrainingError
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.vocabulary import MIN_TIMESTAMPS

DEFAULT_BLOCK_SECONDS = 120.0
DEFAULT_BLOCK_STEPS = 20
BLOCKS_PER_FOLD = 3
MIN_BLOCK_STEPS = 6
MIN_GAP_STEPS = 2

IDLE_FRACTION = 0.1
"""The error at idle (`Score.idle_error`) is measured on this fraction of the rows: those with the least load."""
MAPE_FLOOR_FRACTION = 0.05
"""MAPE is measured on rows whose power exceeds both `MIN_MAPE_WATTS` and this fraction of the highest power."""
MIN_MAPE_WATTS = 0.1


@attrs.frozen(eq=False)
class Fold:
    """One division of the samples: boolean masks of the samples to train on and to test on, shape (samples,)."""

    train: BoolArray
    test: BoolArray


def folds(
    spec: ValidationSpec,
    stream: IntArray,
    time: FloatArray,
    memory: int = 1,
    node: IntArray | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Return the folds of a data set; raise `TrainingError` if no samples can be held out.

    `stream` is the index of each sample's stream (a node in a recording), `time` its timestamp in Unix seconds;
    both have the shape (samples,). `memory` is the number of timestamps that the extractor combines into one
    row; the gap between training and test samples has at least this number of timestamps. `node` is the number of
    each sample's node, shape (samples,); None: each stream is a node of its own. `seed` is the seed of the random order
    in which blocks of time are assigned to the folds.
    """
    if len(time) < MIN_TIMESTAMPS:
        raise TrainingError(f"only {len(time)} usable timestamps; at least {MIN_TIMESTAMPS} are needed to validate")
    if spec.scheme == "nodes":
        candidates = _nodes(spec, stream if node is None else node)
    else:
        of_blocks = partial(_blocks, seed=seed)
        scheme = of_blocks if spec.scheme == "blocks" else {"last": _last, "recordings": _streams}[spec.scheme]
        candidates = scheme(spec, stream, time, memory)
    usable = [fold for fold in candidates if fold.test.any() and fold.train.sum() >= MIN_TIMESTAMPS // 4]
    if not usable:
        raise TrainingError(f"no part of the data can be held out by scheme {spec.scheme!r}")
    return usable


def _blocks(spec: ValidationSpec, stream: IntArray, time: FloatArray, memory: int, seed: int) -> list[Fold]:
    """Return folds of blocks of time. `spec.folds` consecutive blocks belong to different folds, in random order.

    The order is random, because the load may repeat. Suppose that the load repeats every five blocks, and a fold has
    every fifth block. Then the fold would hold out all samples with the same load.
    """
    rng = np.random.default_rng(seed)
    fold_of = np.zeros(len(time), dtype=np.int64)
    near = np.zeros((spec.folds, len(time)), dtype=bool)
    order = np.empty(0, dtype=np.int64)  # folds that are drawn, but that no block has yet
    for code in np.unique(stream):
        rows = np.flatnonzero(stream == code)
        since = time[rows] - time[rows].min()
        step = float(np.median(np.diff(np.unique(since)))) if len(rows) > 1 else 1.0
        block = spec.block_seconds or block_length(float(since.max()) + step, step, spec.folds)
        gap = _gap(spec, block, step, memory)
        number = np.floor(since / block).astype(np.int64)
        count = int(number.max()) + 1
        rounds = max(-(-(count - len(order)) // spec.folds), 0)
        in_turn = np.tile(np.arange(spec.folds), (rounds, 1))
        order = np.concatenate([order, rng.permuted(in_turn, axis=1).reshape(-1)])
        fold_of[rows] = order[number]
        for k in range(spec.folds):
            near[k, rows] = _distance_to(np.flatnonzero(order[:count] == k), number, since, block) < gap
        order = order[count:]
    return [Fold((fold_of != k) & ~near[k], fold_of == k) for k in range(spec.folds)]


def _distance_to(tested: IntArray, number: IntArray, since: FloatArray, block: float) -> FloatArray:
    """Return the seconds from each sample to the nearest of the `tested` blocks; infinity inside of a tested block.

    The samples belong to one stream. `number` is the number of each sample's block in the stream. `since` are the
    seconds from the start of the stream to each sample. `block` is the length of a block in seconds. `tested` are the
    numbers of the test blocks of a fold, ascending.
    """
    if len(tested) == 0:
        return np.full(len(since), np.inf)
    after = np.searchsorted(tested, number, side="left")
    before = np.searchsorted(tested, number, side="right") - 1
    until = np.where(after < len(tested), tested[np.minimum(after, len(tested) - 1)] * block - since, np.inf)
    passed = np.where(before >= 0, since - (tested[np.maximum(before, 0)] + 1) * block, np.inf)
    # inside of a test block, the calculated distances are negative and have no meaning
    return np.where(np.isin(number, tested), np.inf, np.minimum(until, passed))


def _gap(spec: ValidationSpec, block: float, step: float, memory: int) -> float:
    """Return the smallest allowed time between training and test samples, in seconds.

    The gap is at least `memory` steps, so that no scrape contributes to both a training row and a test row.
    """
    wanted = max(block / 4, MIN_GAP_STEPS * step) if spec.gap_seconds is None else spec.gap_seconds
    return max(wanted, memory * step)


def block_length(duration: float, step: float, n_folds: int) -> float:
    """Return the default length of a block in seconds (see `ValidationSpec.block_seconds`)."""
    longest = max(DEFAULT_BLOCK_SECONDS, DEFAULT_BLOCK_STEPS * step)
    return float(max(min(longest, duration / (BLOCKS_PER_FOLD * n_folds)), MIN_BLOCK_STEPS * step))


def _last(spec: ValidationSpec, stream: IntArray, time: FloatArray, memory: int) -> list[Fold]:
    train, test = np.zeros(len(time), dtype=bool), np.zeros(len(time), dtype=bool)
    for code in np.unique(stream):
        rows = stream == code
        start, end = time[rows].min(), time[rows].max()
        cut = end - spec.last_fraction * (end - start)
        step = float(np.median(np.diff(np.unique(time[rows])))) if rows.sum() > 1 else 1.0
        gap = _gap(spec, block_length(float(end - start) + step, step, spec.folds), step, memory)
        test |= rows & (time > cut)
        train |= rows & (time <= cut - gap)
    return [Fold(train, test)]


def _streams(spec: ValidationSpec, stream: IntArray, time: FloatArray, memory: int) -> list[Fold]:
    codes = np.unique(stream)
    if len(codes) < 2:
        raise TrainingError("validation scheme 'recordings' needs at least two recordings or nodes")
    return [Fold(stream != code, stream == code) for code in codes]


def _nodes(spec: ValidationSpec, node: IntArray) -> list[Fold]:
    codes, number = np.unique(node, return_inverse=True)
    if len(codes) < 2:
        raise TrainingError("validation scheme 'nodes' needs at least two nodes")
    fold_of = number % min(spec.folds, len(codes))
    return [Fold(fold_of != k, fold_of == k) for k in range(int(fold_of.max()) + 1)]


@attrs.frozen
class Score:
    """Errors of a model's predictions. Their unit is watts, except for `mape`, `r2` and `rows`."""

    mae: float
    """Mean absolute error."""
    mape: float | None
    """Mean absolute percentage error of the rows whose measured power exceeds `mape_floor`; None if there are
    no such rows."""
    mape_floor: float
    """Rows with a measured power up to this number of watts are left out of `mape`."""
    idle_error: float
    """Mean of (predicted − measured) power in the rows with the least load (see `IDLE_FRACTION`)."""
    r2: float | None
    """Coefficient of determination (R²) of the predictions; None if the measured power is constant."""
    rows: int
    """Number of rows in which predicted and measured power were compared."""


def score(predicted: FloatArray, measured: FloatArray, load: FloatArray) -> Score:
    """Compare predicted with measured watts, and return the errors. All arrays have the shape (rows,).

    `load` is the value of the load feature (`vocabulary.load_feature`) for the whole node.
    """
    error = predicted - measured
    floor = max(MAPE_FLOOR_FRACTION * float(measured.max()), MIN_MAPE_WATTS)
    above = measured > floor
    idle = load <= np.quantile(load, IDLE_FRACTION)
    spread = float(np.sum((measured - measured.mean()) ** 2))
    return Score(
        mae=float(np.mean(np.abs(error))),
        mape=float(100 * np.mean(np.abs(error[above]) / measured[above])) if above.any() else None,
        mape_floor=floor,
        idle_error=float(np.mean(error[idle])),
        r2=1 - float(np.sum(error**2)) / spread if spread > 1e-9 else None,
        rows=len(measured),
    )


def line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Return slope and offset of the least-squares line through the points (x, y); slope 0 if x is constant."""
    dx = x - x.mean()
    spread = float(dx @ dx)
    slope = float(dx @ (y - y.mean())) / spread if spread > 0 else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def baselines(
    held_out: Sequence[Fold], tested: BoolArray, node_load: FloatArray, node_watts: FloatArray
) -> dict[str, float]:
    """Return the mean absolute errors of two trivial models: a constant and a line.

    The constant is the median power. The line estimates power from the component's main feature (`node_load`).
    The errors are measured on the same samples as the errors of the trained models: the test samples of each fold
    for which `tested` is true.
    """
    constant, straight, measured = [], [], []
    for fold in held_out:
        x, y = node_load[fold.train], node_watts[fold.train]
        test = fold.test & tested
        constant.append(np.full(int(test.sum()), np.median(y)))
        slope, offset = line(x, y)
        straight.append(np.maximum(slope * node_load[test] + offset, 0.0))
        measured.append(node_watts[test])
    truth = np.concatenate(measured)
    return {
        "constant_mae": float(np.mean(np.abs(np.concatenate(constant) - truth))),
        "line_mae": float(np.mean(np.abs(np.concatenate(straight) - truth))),
    }
