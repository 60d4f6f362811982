"""Leave out single samples at which the usage and the power of a node do not belong together."""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.laid_out import LaidOut
from kepler_core.recording.node_rows import NodeRows, row_medians, row_quantiles
from kepler_core.vocabulary import CPU_FEATURES

FEWEST_VALUES = 20
"""Minimum number of samples from which the usual relation of a node's usage and power is determined."""
CONTRADICTION_SPREADS = 0.5
"""Usage and power contradict each other only if the power differs enough from the usual power at this usage.

The difference must be more than this multiple of the node's power range."""
CONTRADICTION_DEVIATIONS = 10.0
"""Usage and power contradict each other only if the power differs enough from the usual power at this usage.

The difference must also be more than this multiple of the median difference of all samples of the node."""
CONTRADICTION_RANKS = 0.3
"""Usage and power contradict each other only if their ranks differ by more than this number. The rank of a value among
the values of its node is 0 for the lowest value and almost 1 for the highest value."""
MAX_CONTRADICTIONS = 0.02
"""If usage and power contradict each other at more than this fraction of a node's samples, all samples are kept."""
WHOLE_MACHINE = ("package", "platform")
"""The components whose power rises with any work of the CPUs."""
_MAX_BINS = 20
_BIN_SAMPLES = 5


def leave_out_contradictions(laid_out: LaidOut) -> None:
    """Leave out a few samples at which usage and power contradict each other, though each is in its usual range.

    The usual power of a sample is the median power of samples with similar usage. Usage and power contradict each other
    if three conditions hold:

    - The power is far from the usual power.
    - Among the node's values, the usage is high and the power is not, or the power is high and the usage is not.
    - The usage or the power differs from the samples before and after.

    If this happens at more than `MAX_CONTRADICTIONS` of the samples, all samples are kept, because the power then
    depends on more than the usage.
    """
    work = [name for name in CPU_FEATURES if name in laid_out.node_features]
    meters = [key for key in laid_out.power if key[1] in WHOLE_MACHINE]
    if not work or not meters:
        return
    wrong = {
        (name, key): _contradictions(laid_out, laid_out.node_features[name], laid_out.power[key])
        for name in work
        for key in meters
    }
    is_metered = {key: laid_out.any_in_stream(np.isfinite(laid_out.power[key])) for key in meters}
    wrong_usage: dict[str, BoolArray] = {}
    for name in work:  # a wrong usage contradicts all meters of its node, a wrong power contradicts all kinds of usage
        of_meters = [wrong[name, key] | ~is_metered[key][laid_out.sample_stream] for key in meters]
        any_meter = np.logical_or.reduce([is_metered[key] for key in meters])[laid_out.sample_stream]
        wrong_usage[name] = np.logical_and.reduce([*of_meters, any_meter])
    for key in meters:
        if len(work) > 1:
            contradicts_all = np.logical_and.reduce([wrong[name, key] for name in work])
            laid_out.drop_power("contradictions", key, np.flatnonzero(contradicts_all))
    for name, is_wrong in wrong_usage.items():
        laid_out.drop_feature("contradictions", name, np.flatnonzero(is_wrong))


def _contradictions(laid_out: LaidOut, usage: FloatArray, watts: FloatArray) -> BoolArray:
    """Return the samples whose usage and power contradict each other, shape (samples,)."""
    contradicts = np.zeros(len(usage), dtype=bool)
    for rows in laid_out.rows(np.isfinite(usage) & np.isfinite(watts), FEWEST_VALUES):
        contradicts[rows.samples[_contradictions_of_rows(rows, usage, watts)]] = True
    return contradicts


def _contradictions_of_rows(rows: NodeRows, usage: FloatArray, watts: FloatArray) -> BoolArray:
    """Return the samples whose usage and power contradict each other, shape (rows, columns).

    Each row is checked on its own.
    """
    n = rows.lengths
    x, y = rows.of(usage, np.inf), rows.of(watts, np.inf)
    by_usage, by_power = (np.argsort(values, axis=1, kind="stable") for values in (x, y))
    sorted_y = np.take_along_axis(y, by_power, axis=1)
    spread = row_quantiles(sorted_y, n, 0.95) - row_quantiles(sorted_y, n, 0.05)
    usual = _usual_power(x, y, by_usage, n)
    usual[rows.is_filler] = np.inf  # the last sample of a row must differ from its neighbour
    with np.errstate(invalid="ignore"):  # padding cells give ∞ − ∞
        errors = np.abs(y - usual)
        errors[rows.is_filler] = np.inf
        limit = CONTRADICTION_DEVIATIONS * row_medians(np.sort(errors, axis=1), n)
        far = errors > np.maximum(CONTRADICTION_SPREADS * spread, limit)[:, None]
        is_spike = _is_spike(usual, errors) | _is_spike(y, errors)
    rank = np.arange(x.shape[1]) / n[:, None]
    rank_x, rank_y = np.empty_like(x), np.empty_like(x)
    np.put_along_axis(rank_x, by_usage, rank, axis=1)
    np.put_along_axis(rank_y, by_power, rank, axis=1)
    wrong: BoolArray = far & is_spike & (np.abs(rank_x - rank_y) > CONTRADICTION_RANKS) & ~rows.is_filler
    wrong[np.count_nonzero(wrong, axis=1) > np.maximum(MAX_CONTRADICTIONS * n, 1)] = False
    return wrong


def _usual_power(x: FloatArray, y: FloatArray, by_usage: IntArray, n: IntArray) -> FloatArray:
    """Return, for each sample, the usual power at its usage, shape (rows, columns).

    `x` is the usage and `y` the power. `n` is the number of samples of each row. The cells after a row's last sample
    are padding: they hold infinity. `by_usage` sorts the rows of `x`. The sorted samples of a row are divided into bins
    with nearly equal numbers of samples. The usual power is interpolated between the medians of neighbouring bins.
    """
    n_bins = np.minimum(_MAX_BINS, n // _BIN_SAMPLES)
    small, n_large = np.divmod(n, n_bins)  # the first `n_large` bins have one sample more
    bins = np.arange(int(n_bins.max()))
    starts = bins * small[:, None] + np.minimum(bins, n_large[:, None])
    sizes = np.where(bins < n_bins[:, None], small[:, None] + (bins < n_large[:, None]), 0)
    column = np.arange(int(sizes.max()))
    is_value = column < sizes[:, :, None]
    sorted_x, y_by_usage = (np.take_along_axis(values, by_usage, axis=1) for values in (x, y))
    row = np.arange(len(n))[:, None, None]
    cells = np.where(is_value, starts[:, :, None] + column, 0)
    of_bins = np.sort(np.where(is_value, y_by_usage[row, cells], np.inf), axis=2)
    row, column = row[:, :, 0], bins[None, :]
    low, high = np.maximum((sizes - 1) // 2, 0), sizes // 2
    levels = (of_bins[row, column, low] + of_bins[row, column, np.minimum(high, of_bins.shape[2] - 1)]) / 2
    at_low, at_high = (np.minimum(starts + part, x.shape[1] - 1) for part in (low, high))
    centers = (sorted_x[row, at_low] + sorted_x[row, at_high]) / 2
    usual = np.empty_like(x)
    for at, (length, number) in enumerate(zip(n.tolist(), n_bins.tolist(), strict=True)):
        usual[at, :length] = np.interp(x[at, :length], centers[at, :number], levels[at, :number])
    return usual


def _is_spike(values: FloatArray, errors: FloatArray) -> BoolArray:
    """Return which values are spikes: they differ from both neighbours by at least half of the sample's error.

    `errors` are the differences between the power and the usual power. A meter that lags behind the usage when the load
    changes has errors, too, but no spike. The arrays and the result have the shape (rows, columns).
    """
    steps = np.abs(np.diff(values, axis=1, prepend=np.inf, append=np.inf))
    is_spike: BoolArray = np.minimum(steps[:, :-1], steps[:, 1:]) >= 0.5 * errors
    return is_spike
