"""The interval of a prediction: the range of watts that contains the true power with a stated probability.

The half-width of the interval around a prediction of P watts is

    √( (w · q)² + s² + (m · P)² + d² )

- q is the conformal quantile of the prediction's load bin, measured on held-out workloads.
- w is `OUTSIDE_FACTOR` for a row outside the range of the training data, and 1 for all other rows.
- s is the error between sessions.
- m is the error between machines of one node type, as a fraction of the power.
- d is the absolute difference between the predictions of the model and of its twin.

The block `honesty` contains q, s and m (`kepler_core.honesty.document`).

If the model was trained on the machine itself, m is replaced by 0. There is one exception: if the training measured m
with several machines, the model predicts the mean of these machines. Each machine differs from this mean, so m is used.

The errors q, s and m have independent causes, so their squares add up. The difference d shows an error of the model or
of the twin in this row. Its sign has nothing to do with the day or the machine, and the usual difference is already
part of q. So d is one more independent term. The half-width is never smaller than d. So the interval around the
prediction of one model always contains the prediction of the other model. If a training could not measure s or m, it
uses the priors below.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.honesty.document import Honesty, IntervalTerms

LEVEL = 0.9
"""Probability with which an interval is meant to contain the true power."""

NORMAL_QUANTILE = 1.6448536269514722
"""95 % quantile of the standard normal distribution: 90 % of the values are within ± this number of standard
deviations."""

OUTSIDE_FACTOR = 2.5
"""For rows outside the range of the training data, the conformal quantile is multiplied by this factor."""

SESSION_PRIOR = 0.15
"""Assumed error (prior) between two sessions of one machine, as a fraction of the machine's power range (highest −
lowest power). It is used if a training measures neither the error between sessions nor the error between machines."""

MACHINE_PRIOR_LOADED = 0.07
"""Assumed error (prior) between two machines of one node type at the highest power, as a fraction of the power."""

MACHINE_PRIOR_IDLE = 0.13
"""Assumed error (prior) between two machines of one node type at the lowest power, as a fraction of the power."""


@attrs.frozen
class MachineMatch:
    """How well the machine whose power is predicted matches the machines of the training."""

    trained: bool = False
    """Whether the model was trained on data of this very machine."""
    dissimilarity: float = 0.0
    """0 if the machine has the node type of the model. A higher number stands for a machine that differs more. The
    error between machines is multiplied by (1 + dissimilarity)."""


SAME_MACHINE = MachineMatch(trained=True)
SAME_TYPE = MachineMatch()


UNKNOWN_SIMILARITY = 0.4
"""Similarity of two machines if one of them is unknown (`EXPECTED` in `kepler_profiler.similarity`)."""

LEAST_SIMILARITY = 0.1
"""Minimum similarity. Lower values are replaced by it, so that the error between machines stays finite."""


def other_type(similarity: float | None) -> MachineMatch:
    """Return the match of a machine that does not have the node type of the model.

    The error between machines is divided by `similarity`, the similarity of the two machines from 0 to 1. If
    `similarity` is None, the similarity is not known.
    """
    known = UNKNOWN_SIMILARITY if similarity is None else similarity
    return MachineMatch(dissimilarity=1.0 / min(max(known, LEAST_SIMILARITY), 1.0) - 1.0)


def half_width(
    terms: IntervalTerms,
    watts: FloatArray,
    outside: BoolArray,
    match: MachineMatch = SAME_TYPE,
    disagreement: FloatArray | None = None,
) -> FloatArray:
    """Return the half-width of each prediction's interval in watts, shape (rows,).

    `watts` are the predictions of one component. `outside` tells which rows are outside the range of the training data.
    `disagreement` is the absolute difference between the predictions of the model and of its twin, in watts. It is None
    if the model has no twin. All arrays have the shape (rows,).
    """
    quantile = np.asarray(terms.quantiles)[np.searchsorted(terms.edges, watts, side="right")]
    squares = np.square(np.where(outside, OUTSIDE_FACTOR * quantile, quantile)) + terms.session**2
    if not match.trained or terms.machine_measured:
        squares += np.square(_between_machines(terms, watts) * (1 + match.dissimilarity) * watts)
    if disagreement is not None:
        squares += np.square(disagreement)
    half: FloatArray = np.sqrt(squares)
    return half


def _between_machines(terms: IntervalTerms, watts: FloatArray) -> FloatArray:
    """Return the error between machines as a fraction of the power, interpolated between idle and full load."""
    spread = terms.highest - terms.lowest
    load = np.clip((watts - terms.lowest) / spread, 0.0, 1.0) if spread > 0 else np.ones(len(watts))
    return terms.machine_idle + load * (terms.machine_loaded - terms.machine_idle)


def typical_half_width(terms: IntervalTerms, match: MachineMatch = SAME_MACHINE) -> float:
    """Return the mean half-width over the load bins, in watts, for rows within the range of the training data.

    Each load bin is represented by the middle of its range of predicted watts. The bins have about equally many
    samples, so the result is close to the mean over the samples of the training.
    """
    borders = np.array([terms.lowest, *terms.edges, max(terms.highest, *terms.edges, terms.lowest)])
    middle = (borders[1:] + borders[:-1]) / 2
    return float(np.mean(half_width(terms, middle, np.zeros(len(middle), dtype=bool), match)))


def widest_half_width(honesty: Honesty) -> float | None:
    """Return the largest `typical_half_width` of all components, in watts; None if the model has no interval."""
    return max(map(typical_half_width, honesty.intervals.values()), default=None)


def half_widths(
    honesty: Honesty,
    predicted: Mapping[str, FloatArray],
    outside: BoolArray,
    match: MachineMatch = SAME_TYPE,
    disagreement: Mapping[str, FloatArray] | None = None,
) -> dict[str, FloatArray]:
    """Return the half-widths of all components that have an interval, each of shape (rows,); see `half_width`.

    `predicted` maps components to predicted watts, `disagreement` maps components to differences from the twin.
    """
    return {
        component: half_width(honesty.intervals[component], watts, outside, match, (disagreement or {}).get(component))
        for component, watts in predicted.items()
        if component in honesty.intervals
    }
