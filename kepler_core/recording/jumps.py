"""Leave out single readings that are far above all other readings of the node.

A counter may jump because of a damaged value, a value of 2^64, or a wrap of its register that was counted twice.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.recording.laid_out import LaidOut
from kepler_core.vocabulary import CPU_FEATURES

JUMP_FACTOR = 2.0
"""A value of a node may be a jump if it exceeds the node's next lower value by this factor. All higher values may then
be jumps, too. Among hundreds of true readings of a running machine, no value is so far above the
next lower value."""
BURSTY_JUMP_FACTOR = 1000.0
"""Replaces `JUMP_FACTOR` for features that may rise suddenly although there is little work, e.g. disk interrupts."""
RATE_CEILING = 1e14
"""Highest rate that a usage counter can have: 8192 CPUs with 12 thousand million cycles per second each."""
MAX_JUMPS = 0.05
"""Maximum fraction of a node's values that can be jumps. If there are more high values, they come from a workload, or
from a wrong unit."""
FEWEST_VALUES = 20
"""Minimum number of values from which a node's usual values are determined."""
USUAL_QUANTILE = 0.99
"""The limit of a node's usual values is a multiple of this quantile. A few damaged values hardly change a quantile."""


def leave_out_jumps(laid_out: LaidOut) -> None:
    """Leave out jumps of usage without a rise of power, and jumps of power without a rise of usage.

    In a jump, one rate is far above all other rates. A short burst of work looks similar, but raises usage and power
    together.
    """
    usage = [name for name in laid_out.node_features if name not in laid_out.gauges]
    work = [name for name in usage if name in CPU_FEATURES] or usage
    of_usage: dict[str, BoolArray] = {}
    without_jumps: dict[str, FloatArray] = {}
    for name in usage:
        values = laid_out.node_features[name]
        factor = JUMP_FACTOR if name in CPU_FEATURES else BURSTY_JUMP_FACTOR
        jumps: BoolArray = values > RATE_CEILING
        for samples in laid_out.streams(_may_jump(laid_out, values, factor)):
            powers = [watts[samples] for watts in laid_out.power.values()]
            jumps[samples] |= _jumps(values[samples], powers, factor)
        of_usage[name] = jumps
        without_jumps[name] = np.where(jumps, np.nan, values) if jumps.any() else values
    of_power: dict[tuple[str, str], BoolArray] = {}
    for key, watts in laid_out.power.items():
        jumps = np.zeros(len(watts), dtype=bool)
        for samples in laid_out.streams(_may_jump(laid_out, watts, JUMP_FACTOR)):
            of_work = [without_jumps[name][samples] for name in work]
            jumps[samples] = _jumps(watts[samples], of_work, JUMP_FACTOR, True)
        of_power[key] = jumps
    for key, jumps in of_power.items():
        laid_out.drop_power("power_jumps", key, np.flatnonzero(jumps))
    for name, jumps in of_usage.items():
        laid_out.drop_feature("usage_jumps", name, np.flatnonzero(jumps))


def _may_jump(laid_out: LaidOut, values: FloatArray, factor: float) -> BoolArray:
    """Return which streams may have a jump: a high value above `factor` times the next lower value, shape (streams,).

    Only these streams are then checked by `_jumps`. `values` has the shape (samples,).
    """
    may_jump = np.zeros(len(laid_out.nodes), dtype=bool)
    for rows in laid_out.rows(np.isfinite(values), FEWEST_VALUES):
        most = np.maximum((MAX_JUMPS * rows.lengths).astype(np.int64), 1)
        highest = int(most.max())
        negative = np.partition(-rows.of(values, -np.inf), highest, axis=1)[:, : highest + 1]
        descending = -np.sort(negative, axis=1)
        high, low = descending[:, :-1], descending[:, 1:]
        is_gap = (high > factor * low) & (low > 0) & (np.arange(highest) < most[:, None])
        may_jump[rows.streams] = is_gap.any(axis=1)
    return may_jump


def _jumps(values: FloatArray, others: list[FloatArray], factor: float, are_watts: bool = False) -> BoolArray:
    """Return which values are jumps that no array of `others` confirms, shape (samples,).

    With `are_watts`, `values` are power and `others` are usage. Otherwise, `values` are usage and `others` are power.
    An array of `others` confirms a jump if the array is above its own usual maximum at the same sample. Power rises at
    most in proportion to usage. So usage of n times its usual maximum confirms power only up to n · `factor` times the
    usual maximum of power.
    """
    is_jump = np.zeros(len(values), dtype=bool)
    known = np.flatnonzero(np.isfinite(values))
    n = len(known)
    if n < FEWEST_VALUES:
        return is_jump
    descending = np.sort(values[known])[::-1]
    most = max(int(MAX_JUMPS * n), 1)
    gaps = np.flatnonzero((descending[:most] > factor * descending[1 : most + 1]) & (descending[1 : most + 1] > 0))
    if not len(gaps):
        return is_jump
    candidates = known[values[known] >= descending[gaps[-1]]]
    usual = np.setdiff1d(known, candidates)
    for other in others:
        of_usual = other[usual]
        of_usual = of_usual[np.isfinite(of_usual)]
        if len(of_usual) < FEWEST_VALUES or of_usual.min() == of_usual.max():
            continue
        # A jump is confirmed if, at the same sample, `other` is above its own usual maximum. The usual maximum may be a
        # damaged value, so it is limited to `JUMP_FACTOR` times a high quantile.
        most_of_usual = min(of_usual.max(), JUMP_FACTOR * np.quantile(of_usual, USUAL_QUANTILE))
        confirmed = other[candidates] > most_of_usual
        if are_watts:
            rise = np.divide(
                other[candidates], most_of_usual, out=np.full(len(candidates), np.inf), where=most_of_usual > 0
            )
            confirmed &= values[candidates] <= factor * values[usual].max() * rise
        candidates = candidates[~confirmed]
    is_jump[candidates] = True
    # A counter jumps in a single interval. High values in several successive intervals are real.
    lasting = np.zeros(len(values), dtype=bool)
    lasting[1:] = is_jump[1:] & is_jump[:-1]
    lasting[:-1] |= lasting[1:]
    return is_jump & ~lasting
