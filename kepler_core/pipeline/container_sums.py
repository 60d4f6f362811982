"""Corrections and errors of DynPower models, whose predictions are added up over the containers of a node.

A model that charges each container a little too much charges a node with many containers far too much. So a
DynPower model is corrected in two ways. A container that does nothing has no dynamic power: the prediction for a row of
zeros is subtracted from every prediction. And the sums over the containers of a node must match the power of the node:
a gain for each component makes the mean of the sums equal to the mean of the measured dynamic power.

The gain is computed from the samples that a model is fitted on. In the validation, the gain of a fold is computed from
the training samples of this fold, so the errors of held-out samples are errors of corrected models.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.grouping import sum_by
from kepler_core.models.recalibration import Correction
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.vocabulary import main_feature

MAX_GAIN = 2.0
"""The gain is between the reciprocal of this number and this number. A model that needs more correction is wrong."""


def correction(
    rows: TrainingRows, component: str, samples: BoolArray, predicted: FloatArray, idle: float
) -> Correction:
    """Return the correction of a DynPower model from `samples`, a mask of shape (samples,).

    `predicted` are the uncorrected predictions ≥ 0 W for the rows to test on that belong to these samples, in order.
    `idle` is the uncorrected prediction ≥ 0 W for a container that does nothing.
    """
    above_idle = np.maximum(predicted - idle, 0.0)
    total, measured = float(above_idle.sum()), float(rows.node_watts[component][samples].sum())
    gain = float(np.clip(measured / total, 1 / MAX_GAIN, MAX_GAIN)) if total > 0 and measured > 0 else 1.0
    return Correction(gain, -gain * idle)


def corrected(predicted: FloatArray, correction: Correction) -> FloatArray:
    """Return corrected predictions ≥ 0 W from uncorrected predictions ≥ 0 W, as a stored model computes them."""
    return np.maximum(predicted * correction.gain + correction.shift, 0.0)


def sum_errors(rows: TrainingRows, component: str, sums: FloatArray) -> dict[str, float | None]:
    """Return how far the sums over containers are from the power of the node.

    `sums` are the held-out predictions by sample in watts, shape (samples,); NaN for samples that are not tested.
    `sum_bias` is the mean of (sum − measured) in watts, and `sum_bias_percent` this mean in percent of the mean
    measured power (None if that is 0).
    """
    tested = np.isfinite(sums)
    measured = float(rows.node_watts[component][tested].mean())
    bias = float(sums[tested].mean()) - measured
    return {"sum_bias": bias, "sum_bias_percent": 100 * bias / measured if measured > 0 else None}


def small_half_bias(rows: TrainingRows, component: str, predicted: FloatArray) -> float | None:
    """Return the bias of the small containers in percent of their share of the nodes' power; None if it is not known.

    `predicted` are the corrected predictions for the rows to test on. The rows are sorted by the main feature, and the
    small ones together have half of the total load. The share of a row in its node's power is proportional to its load.
    """
    load = np.maximum(rows.test_X[:, rows.features.index(main_feature(rows.features, component))], 0.0)
    total = sum_by(load, rows.test_sample, len(rows.tested))[rows.test_sample]
    watts = rows.node_watts[component][rows.test_sample]
    share = np.divide(load * watts, total, out=np.zeros(len(load)), where=total > 0)
    order = np.argsort(load, kind="stable")
    small = order[np.cumsum(load[order]) <= load.sum() / 2]
    expected = float(share[small].sum())
    return 100 * (float(predicted[small].sum()) / expected - 1) if expected > 0 else None
