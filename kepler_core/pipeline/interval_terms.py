"""Measure the errors that make up the intervals of a component, on held-out samples.

`kepler_core.honesty.interval` computes the half-width of an interval from these errors, which are called terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.honesty.document import IntervalTerms, SplitName
from kepler_core.honesty.interval import (
    LEVEL,
    MACHINE_PRIOR_IDLE,
    MACHINE_PRIOR_LOADED,
    NORMAL_QUANTILE,
    SESSION_PRIOR,
    half_width,
)
from kepler_core.pipeline.node_gains import MIN_NODES, with_own_gains
from kepler_core.pipeline.rows import TrainingRows

MAX_LOAD_BINS = 4
MIN_BIN_SAMPLES = 60
"""Minimum mean number of samples in a load bin. With 60 samples, between about 85 % and 95 % of new errors are below
the measured 90 % quantile."""

PRIOR_FREEDOM = 3
"""Degrees of freedom of the prior of the error between machines. The prior is as weak as possible: 3 is the smallest
whole number with which the mean of the variance is finite. With a probability of 90 %, the standard deviation is
between 0.62 and 2.9 times that of the prior. The prior counts as much as four measured nodes."""
MIN_CALIBRATION_NODES = 20
"""Minimum number of nodes to calibrate the intervals on held-out nodes. With fewer than 9 nodes, the conformal
quantile would be the largest score (error ÷ half-width). With 20 nodes, the standard deviation of the coverage is
about 7 %."""
MAX_NODE_WEIGHT = 3.0
"""Maximum weight of a node in the calibration, as a multiple of the median number of samples of a node. So a node with
many samples cannot hide the errors of all others."""
MIN_HALF_SAMPLES = 5
"""Minimum number of a node's samples in the lower (or upper) half of the power range to measure the node's error there.
If a node has fewer samples in this half, all its samples are used."""

STEADY_FRACTION = 0.02
"""The load is steady between two samples if it changes by at most this fraction of the load's range."""
MIN_STEADY_PAIRS = 10


@attrs.frozen(eq=False)
class _Samples:
    """Predicted and measured watts of the tested samples of one split."""

    predicted: FloatArray
    measured: FloatArray
    node: IntArray
    recording: IntArray

    @property
    def error(self) -> FloatArray:
        return self.predicted - self.measured


def interval_terms(
    rows: TrainingRows, held_out: Mapping[SplitName, Mapping[str, FloatArray]], component: str
) -> IntervalTerms:
    """Return the terms of a component's interval: errors that are measured on held-out predictions.

    `held_out` is explained at `pipeline.honesty.HeldOut`. The quantiles come from the split `regimes` or `blocks`,
    whichever has the larger error. If there are at least `MIN_NODES` nodes, the gain of each node is removed from the
    errors first: the error between machines is a term of its own. If there are at least `MIN_CALIBRATION_NODES` nodes,
    all terms are then multiplied by one factor (see `calibration`).
    """
    measured = rows.node_watts[component]
    lowest, highest = float(measured.min()), float(measured.max())
    samples = {name: _tested(rows, predicted[component], measured) for name, predicted in held_out.items()}
    within = max((_without_gains(samples[name]) for name in ("blocks", "regimes") if name in samples), key=_mean_error)
    edges, quantiles = _load_bins(within)
    machine = _between_machines(samples["nodes"], lowest, highest) if "nodes" in samples else None
    session = _between_sessions(samples["recordings"]) if "recordings" in samples else None
    # Machines differ at least as much as the sessions of one machine. So if the error between machines was measured, it
    # covers the error between sessions, which then needs no prior.
    prior = 0.0 if machine is not None else SESSION_PRIOR * (highest - lowest)
    idle, loaded = machine or (MACHINE_PRIOR_IDLE, MACHINE_PRIOR_LOADED)
    terms = IntervalTerms(
        lowest=_rounded(lowest),
        highest=_rounded(highest),
        edges=[_rounded(edge) for edge in edges],
        quantiles=[_rounded(quantile) for quantile in quantiles],
        session=_rounded(prior if session is None else session),
        machine_idle=_rounded(idle),
        machine_loaded=_rounded(loaded),
        noise=_rounded(_noise(rows, measured)),
        session_measured=session is not None,
        machine_measured=machine is not None,
    )
    factor = 1.0
    if "nodes" in samples:
        new = samples["nodes"]
        half = half_width(terms, new.predicted, np.zeros(len(new.predicted), dtype=bool))
        factor = calibration(np.abs(new.error), half, new.node)
    return _multiplied(terms, factor)


def calibration(error: FloatArray, half: FloatArray, node: IntArray) -> float:
    """Return the factor for half-widths with which intervals contain the fraction `LEVEL` of the samples of new nodes.

    The terms of an interval are measured one by one. Their root sum of squares may cover more or less than `LEVEL`,
    because the errors are not independent and not normally distributed. So the half-widths are calibrated on held-out
    nodes: the factor is a quantile of error ÷ half-width (split conformal prediction by groups; Dunn, Wasserman,
    Ramdas, "Distribution-Free Prediction Sets for Two-Layer Hierarchical Models", 2023).

    In data from a table, one node may stand for several machines. So the weight of a node is its number of samples, but
    at most `MAX_NODE_WEIGHT` times the median number. The samples of one node are not independent. So the quantile also
    counts one unknown node of mean weight, whose error is infinite.

    All arrays have the shape (samples,). Returns 1 if there are fewer than `MIN_CALIBRATION_NODES` nodes, or if a
    half-width is 0.
    """
    _, number, counts = np.unique(node, return_inverse=True, return_counts=True)
    if len(counts) < MIN_CALIBRATION_NODES or not np.all(half > 0):
        return 1.0
    scores = error / half
    order = np.argsort(scores)
    weights = np.minimum(counts, MAX_NODE_WEIGHT * np.median(counts))
    of_sample = (weights / counts)[number.reshape(-1)[order]]
    covered = np.cumsum(of_sample) / (weights.sum() + weights.mean())
    position = min(int(np.searchsorted(covered, LEVEL - 1e-9)), len(scores) - 1)
    return float(scores[order][position])


def _multiplied(terms: IntervalTerms, factor: float) -> IntervalTerms:
    """Return the terms with which all intervals are `factor` times as wide."""
    return msgspec.structs.replace(
        terms,
        quantiles=[_rounded(factor * quantile) for quantile in terms.quantiles],
        session=_rounded(factor * terms.session),
        machine_idle=_rounded(factor * terms.machine_idle),
        machine_loaded=_rounded(factor * terms.machine_loaded),
    )


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _tested(rows: TrainingRows, predicted: FloatArray, measured: FloatArray) -> _Samples:
    tested = np.isfinite(predicted)
    return _Samples(predicted[tested], measured[tested], rows.node[tested], rows.recording[tested])


def _mean_error(samples: _Samples) -> float:
    return float(np.mean(np.abs(samples.error)))


def _without_gains(samples: _Samples) -> _Samples:
    """Return the samples with predictions that are multiplied by the gain of each node (`with_own_gains`)."""
    return attrs.evolve(samples, predicted=with_own_gains(samples.predicted, samples.measured, samples.node))


def _load_bins(samples: _Samples) -> tuple[FloatArray, list[float]]:
    """Return the edges between the load bins in predicted watts, and the conformal quantile of each bin."""
    count = int(np.clip(len(samples.predicted) // MIN_BIN_SAMPLES, 1, MAX_LOAD_BINS))
    edges = np.unique(np.quantile(samples.predicted, np.arange(1, count) / count))
    bins = np.searchsorted(edges, samples.predicted, side="right")
    error = np.abs(samples.error)
    overall = conformal_quantile(error)
    quantiles = [
        conformal_quantile(error[bins == number]) if (bins == number).sum() >= MIN_BIN_SAMPLES // 2 else overall
        for number in range(len(edges) + 1)
    ]
    return edges, quantiles


def conformal_quantile(errors: FloatArray, level: float = LEVEL) -> float:
    """Return the error that a new error does not exceed with probability `level`.

    It is the ⌈(n + 1) · level⌉-th smallest of the n errors, or the largest error if n is too small. This is split
    conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005).
    """
    if len(errors) == 0:
        return 0.0
    rank = min(math.ceil((len(errors) + 1) * level), len(errors))
    return float(np.partition(errors, rank - 1)[rank - 1])


def _between_sessions(samples: _Samples) -> float | None:
    """Return the error between two sessions of one machine in watts; None if no node is in two recordings.

    Nodes in several recordings have a mean error in each held-out recording. These mean errors vary around 0. The
    result is their root mean square, multiplied by a quantile of Student's t distribution. The number of degrees of
    freedom is the number of mean errors.
    """
    stream = np.column_stack([samples.node, samples.recording])
    streams, number = np.unique(stream, axis=0, return_inverse=True)
    nodes, counts = np.unique(streams[:, 0], return_counts=True)
    repeated = nodes[counts > 1]
    means = [
        float(np.mean(samples.error[number.reshape(-1) == at]))
        for at, (node, _) in enumerate(streams)
        if node in repeated
    ]
    return _student(len(means)) * math.sqrt(float(np.mean(np.square(means)))) if len(means) > 1 else None


def _between_machines(samples: _Samples, lowest: float, highest: float) -> tuple[float, float] | None:
    """Return the error between machines at the lowest and at the highest power, as fractions of the power.

    Each node was predicted by a model that was not trained on this node. A node's relative error is the mean error of
    its samples in the lower (or upper) half of the power range, divided by their mean predicted power. Returns None if
    there are fewer than `MIN_NODES` nodes.
    """
    nodes = np.unique(samples.node)
    if len(nodes) < MIN_NODES:
        return None
    upper = samples.measured > (lowest + highest) / 2
    return (
        error_of_new_node(_relative_errors(samples, nodes, ~upper), MACHINE_PRIOR_IDLE),
        error_of_new_node(_relative_errors(samples, nodes, upper), MACHINE_PRIOR_LOADED),
    )


def _relative_errors(samples: _Samples, nodes: IntArray, half: BoolArray) -> list[float]:
    relative = []
    for node in nodes:
        own = samples.node == node
        rows = own & half if (own & half).sum() >= MIN_HALF_SAMPLES else own
        mean = float(np.mean(samples.predicted[rows]))
        if mean > 0:
            relative.append(float(np.mean(samples.error[rows])) / mean)
    return relative


def error_of_new_node(relative: Sequence[float], prior: float) -> float:
    """Return the relative error that a model does not exceed on a new node, with the probability `LEVEL`.

    `relative` has the relative error of each of n nodes, predicted by a model of the n − 1 other nodes. `prior` is the
    error that is assumed if no node was measured. It is the result if there are fewer than `MIN_NODES` nodes.

    Nodes differ at random. An error that all nodes share is an error of the model, which the quantiles contain already.
    So the variance is computed around the mean of the relative errors.

    Each relative error compares a node with the mean of the other nodes. This difference is n/(n − 1) times the
    difference from the mean of all nodes. The variance has n − 1 degrees of freedom, and is combined with the prior
    (scaled inverse chi-squared distribution: Gelman et al., "Bayesian Data Analysis", 2013, section 2.6). For a new
    node, the expected squared difference from the mean of n nodes is 1 + 1/n times the variance.
    """
    n = len(relative)
    if n < MIN_NODES:
        return prior
    squares = float(np.sum(np.square(np.array(relative) - np.mean(relative)))) * ((n - 1) / n) ** 2
    freedom = PRIOR_FREEDOM + n - 1
    variance = (PRIOR_FREEDOM * (prior / NORMAL_QUANTILE) ** 2 + squares) / freedom
    return _student(freedom) * math.sqrt(variance * (1 + 1 / n))


def _student(degrees: int) -> float:
    """Return the number t for which Student's t distribution has the fraction `LEVEL` between −t and t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def _noise(rows: TrainingRows, measured: FloatArray) -> float:
    """Return the standard deviation of the measured power while the load is steady, in watts.

    It is estimated from the differences between neighbouring samples. The estimate is the median absolute deviation of
    these differences, multiplied by 1.4826 and divided by √2. In a normal distribution, 1.4826 is the ratio of the
    standard deviation to the median absolute deviation. The divisor is √2, because each difference contains the noise
    of two samples.
    """
    if len(measured) < 2:
        return 0.0
    neighbours = rows.stream[1:] == rows.stream[:-1]
    change = np.diff(measured)
    steady = neighbours & (np.abs(np.diff(rows.load)) <= STEADY_FRACTION * float(np.ptp(rows.load)))
    if steady.sum() < MIN_STEADY_PAIRS:
        steady = neighbours
    differences = change[steady]
    if len(differences) == 0:
        return 0.0
    return 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
