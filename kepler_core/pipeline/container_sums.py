"""Corrections and errors of DynPower models, whose predictions are added up over the containers of a node.

A model that estimates a little too much for each container estimates far too much for a node with many containers. So a
DynPower model is corrected in two ways. A container that does nothing has no dynamic power: the prediction for a row of
zeros is subtracted from every prediction. And the sums over the containers of a node must match the power of the node:
a gain for each component makes the mean of the sums equal to the mean of the measured dynamic power.

A stored model limits its predictions to a ceiling (`kepler_core.models.power_model`). The limited predictions have to
match the node, so the gain accounts for the ceiling. Kepler does not limit what the weights predict, so the weights
have a gain of their own.

The gain is computed from the samples that a model is fitted on. In the validation, the gain of a fold is computed from
the training samples of this fold, so the errors of held-out samples are errors of corrected models.
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.grouping import sum_by
from kepler_core.models.recalibration import UNCORRECTED, Correction
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.vocabulary import main_feature

MAX_GAIN = 10.0
"""Upper limit of the gain; the lower limit is its reciprocal.

Suppose that a model predicts nearly 0 W for everything. Without the upper limit, its gain would be so high that the
corrected predictions were either 0 W or the ceiling. A high gain within the limits is harmless: the ceiling still
limits the power of each container to the power that the node has drawn."""
MAX_WEIGHTS_GAIN = 2.0
"""Maximum gain of the weights that Kepler itself evaluates; the minimum is its reciprocal. It is lower than `MAX_GAIN`,
because Kepler has no upper limit of the power."""


@attrs.frozen
class ContainerCorrection:
    """The correction of a DynPower model, and the gain of the weights that Kepler itself evaluates."""

    model: Correction = UNCORRECTED
    weights_gain: float = 1.0


UNCORRECTED_CONTAINERS = ContainerCorrection()
"""The correction that changes nothing."""


def correction(
    rows: TrainingRows, component: str, samples: BoolArray, predicted: FloatArray, idle: float, ceiling: float
) -> ContainerCorrection:
    """Compute the correction of a DynPower model from some of the samples.

    `samples` is true for these samples, shape (samples,). `predicted` are the uncorrected predictions ≥ 0 W for their
    test rows, in order. `idle` is the uncorrected prediction ≥ 0 W for a container that does nothing. `ceiling` is the
    upper limit of the corrected predictions in watts.
    """
    above_idle = np.maximum(predicted - idle, 0.0)
    total, measured = float(above_idle.sum()), float(rows.node_watts[component][samples].sum())
    if not (total > 0 and measured > 0):
        return ContainerCorrection(Correction(1.0, -idle))
    gain = float(np.clip(gain_below(ceiling, above_idle, measured), 1 / MAX_GAIN, MAX_GAIN))
    weights_gain = float(np.clip(measured / total, 1 / MAX_WEIGHTS_GAIN, MAX_WEIGHTS_GAIN))
    return ContainerCorrection(Correction(gain, -gain * idle), weights_gain)


def gain_below(ceiling: float, watts: FloatArray, total: float) -> float:
    """Return the gain g for which the sum of min(g · watts, ceiling) is `total`, or the closest sum that is possible.

    Suppose that the k largest predictions are limited to the ceiling. Then the sum is k · ceiling + g · (sum of all
    smaller predictions). This equation gives one g for each k. For the true k, the sum is the smallest, because min()
    takes the smaller of two values. So the true g is the largest of these gains.
    """
    descending = np.sort(watts[watts > 0])[::-1]
    cut = np.arange(len(descending))
    smaller = np.cumsum(descending[::-1])[::-1]
    return float(np.max((total - cut * ceiling) / smaller))


def corrected(predicted: FloatArray, correction: Correction, ceiling: float) -> FloatArray:
    """Correct predictions ≥ 0 W as a stored model does, and return the corrected watts."""
    return np.clip(predicted * correction.gain + correction.shift, 0.0, ceiling)


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
    """Return the bias of the predictions for small containers, in percent; None if it is not known.

    `predicted` are the corrected predictions for the test rows. Their sum over the small containers is compared with
    the small containers' share of the nodes' power. Small containers are the rows with the lowest values of the main
    feature that together have half of the total load. The share of a row in its node's power is proportional to its
    load.
    """
    load = np.maximum(rows.test_X[:, rows.features.index(main_feature(rows.features, component))], 0.0)
    total = sum_by(load, rows.test_sample, len(rows.tested))[rows.test_sample]
    watts = rows.node_watts[component][rows.test_sample]
    share = np.divide(load * watts, total, out=np.zeros(len(load)), where=total > 0)
    order = np.argsort(load, kind="stable")
    small = order[np.cumsum(load[order]) <= load.sum() / 2]
    expected = float(share[small].sum())
    return 100 * (float(predicted[small].sum()) / expected - 1) if expected > 0 else None
