"""Honest errors: which rows are held out, and how predictions on them are scored.

Samples next to each other in time are nearly copies. So what is tested on is contiguous in time,
and what is near to it is not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import TrainingError
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.vocabulary import MIN_TIMESTAMPS

USUAL_BLOCK_SECONDS = 120.0
USUAL_BLOCK_STEPS = 20
BLOCKS_PER_FOLD = 3
SHORTEST_BLOCK_STEPS = 6
SHORTEST_GAP_STEPS = 2

IDLE_PART = 0.1
"""The error at idle is measured on this part of the rows: those with least load."""
MAPE_FLOOR_PART = 0.05
"""MAPE is taken over the rows above this part of the highest power (and above 0.1 W)."""


@attrs.frozen(eq=False)
class Fold:
    """Which timestamps are trained on, and which are tested on; shape (instants,)."""

    train: BoolArray
    test: BoolArray


def folds(spec: ValidationSpec, stream: IntArray, time: FloatArray, memory: int = 1) -> list[Fold]:
    """The folds of a data set whose instants are at `time` of `stream`, both of shape (instants,).

    `memory` is how many timestamps go into one row (an extractor's): no gap is shorter.
    """
    if len(time) < MIN_TIMESTAMPS:
        raise TrainingError(f"only {len(time)} usable timestamps; at least {MIN_TIMESTAMPS} are needed to validate")
    made = {"blocks": _blocks, "last": _last, "recordings": _streams}[spec.scheme](spec, stream, time, memory)
    usable = [fold for fold in made if fold.test.any() and fold.train.sum() >= MIN_TIMESTAMPS // 4]
    if not usable:
        raise TrainingError(f"no part of the data can be held out by scheme {spec.scheme!r}")
    return usable


def _blocks(spec: ValidationSpec, stream: IntArray, time: FloatArray, memory: int) -> list[Fold]:
    fold_of = np.zeros(len(time), dtype=np.int64)
    near = np.zeros((spec.folds, len(time)), dtype=bool)
    first_block = 0
    for code in np.unique(stream):
        rows = np.flatnonzero(stream == code)
        since = time[rows] - time[rows].min()
        step = float(np.median(np.diff(np.unique(since)))) if len(rows) > 1 else 1.0
        block = spec.block_seconds or block_length(float(since.max()) + step, step, spec.folds)
        gap = _gap(spec, block, step, memory)
        number = np.floor(since / block).astype(np.int64)
        fold_of[rows] = (first_block + number) % spec.folds
        for k in range(spec.folds):
            near[k, rows] = _distance_to(k, first_block, number, since, block, spec.folds) < gap
        first_block += int(number.max()) + 1
    return [Fold((fold_of != k) & ~near[k], fold_of == k) for k in range(spec.folds)]


def _distance_to(
    k: int, first_block: int, number: IntArray, since: FloatArray, block: float, n_folds: int
) -> FloatArray:
    """Seconds from each row to the nearest block that fold `k` tests on, before or after it."""
    blocks = np.arange(int(number.max()) + 1)
    tested = blocks[(first_block + blocks) % n_folds == k]
    if len(tested) == 0:
        return np.full(len(since), np.inf)
    after = np.searchsorted(tested, number, side="left")
    before = np.searchsorted(tested, number, side="right") - 1
    until = np.where(after < len(tested), tested[np.minimum(after, len(tested) - 1)] * block - since, np.inf)
    passed = np.where(before >= 0, since - (tested[np.maximum(before, 0)] + 1) * block, np.inf)
    # a row that is itself tested has negative distances: it is no neighbour but the block
    return np.where(np.isin(number, tested), np.inf, np.minimum(until, passed))


def _gap(spec: ValidationSpec, block: float, step: float, memory: int) -> float:
    """Seconds between training and test: never so few that two rows share a counter's sample."""
    wanted = max(block / 4, SHORTEST_GAP_STEPS * step) if spec.gap_seconds is None else spec.gap_seconds
    return max(wanted, memory * step)


def block_length(duration: float, step: float, n_folds: int) -> float:
    """Seconds of a block where the pipeline does not say: see `ValidationSpec.block_seconds`."""
    usual = max(USUAL_BLOCK_SECONDS, USUAL_BLOCK_STEPS * step)
    return float(max(min(usual, duration / (BLOCKS_PER_FOLD * n_folds)), SHORTEST_BLOCK_STEPS * step))


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


@attrs.frozen
class Score:
    """How wrong predictions are, in watts (MAPE in percent)."""

    mae: float
    mape: float | None
    """Mean absolute error in percent of the measured power, over rows above `mape_floor`; None if
    there are none."""
    mape_floor: float
    idle_error: float
    """Mean of predicted − measured over the rows with least load."""
    r2: float | None
    """None where the measured power is constant."""
    rows: int


def score(predicted: FloatArray, measured: FloatArray, load: FloatArray) -> Score:
    """Score predictions; `load` is the main feature, all of shape (rows,)."""
    error = predicted - measured
    floor = max(MAPE_FLOOR_PART * float(measured.max()), 0.1)
    above = measured > floor
    idle = load <= np.quantile(load, IDLE_PART)
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
    """Slope and offset of the least-squares line; a level line where x does not vary."""
    dx = x - x.mean()
    spread = float(dx @ dx)
    slope = float(dx @ (y - y.mean())) / spread if spread > 0 else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def baselines(
    made: Sequence[Fold], tested: BoolArray, node_load: FloatArray, node_watts: FloatArray
) -> dict[str, float]:
    """MAE of the trivial models on the held-out timestamps that models are `tested` on: a constant
    (the median of the training rows), and a straight line through the main feature."""
    constant, straight, measured = [], [], []
    for fold in made:
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
