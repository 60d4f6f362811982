"""Find power shifts in observations, without using any model.

Each recent sample of a node is paired with the past sample whose features are nearest. So the two samples of a pair
show nearly the same work. If the power differs between the recent and the past samples of the pairs, the power has
shifted, and a line is fitted to the pairs. Recent samples without a similar past sample are ignored, because a new
workload is not a power shift.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer.power_shift import SMALLEST_SHIFT, Line, PowerShift
from kepler_servers.online_trainer.standard_error import mean_and_standard_error

RECENT_SAMPLES = 400
"""Number of newest samples of a node that are compared with all earlier samples of the node."""
MIN_PAIRS = 30
MAX_DISTANCE = 0.05
"""Two samples are similar if each feature differs by at most this fraction of its 99th percentile."""
REQUIRED_ERRORS = 4.0
"""A component's power has shifted if the mean of (recent − past power) exceeds this number of standard errors.

The test is repeated in every retraining, so it must rarely find a shift by chance.
"""
REQUIRED_ERRORS_BESIDE = 2.0
"""Replaces `REQUIRED_ERRORS` for the other components of a node if the power of one component has shifted."""
MIN_SCALE = 0.5
"""Smallest plausible scale of the line from old to new power. The largest plausible scale is 1 / `MIN_SCALE`.

If the power for the same work changes by a larger factor, the node's name probably belongs to a different machine now.
"""
SPLIT_VARIANCE = 0.7
"""Limit for dividing a node's sample pairs at the time of a power shift.

Pairs are divided into earlier and later pairs only if the variance within the two parts is small enough. It must be
less than this fraction of the variance of all pairs.
"""
_OFFSET_SPREAD = 2.0
"""A line gets an offset in addition to the scale only if the power in the pairs varies enough. The 90th percentile of
the power must exceed this factor · the 10th percentile.
"""
_SCALE_QUANTILE = 0.99
_COMPARED_FEATURES = ("cpu_instructions", "cpu_cycles", "cache_miss", "bpf_cpu_time_ms", "bpf_page_cache_hit")


@attrs.frozen(eq=False)
class _Pairs:
    """Pairs of samples of a node: a recent sample, and the past sample whose features are nearest to it."""

    past: IntArray
    """Index of each pair's past sample in the observations, shape (pairs,)."""
    recent: IntArray
    """Index of each pair's recent sample in the observations, shape (pairs,)."""
    difference: FloatArray
    """Difference (recent − past) of each feature, divided by the feature's 99th percentile, shape (pairs, features)."""


@attrs.frozen(eq=False)
class _Power:
    """Power of one component in watts: in the past sample of each pair (`then`), and in its recent sample (`now`)."""

    then: FloatArray
    now: FloatArray
    measured: IntArray
    """Indices of the pairs in which the component's power is known for both samples."""


def find_shifts(observations: Observations) -> list[PowerShift]:
    """Find the power shifts in the recent samples of each node.

    `observations` are sorted by node and time. If a power shift is already known, `shift_watts` must have converted the
    watts before this shift.
    """
    shifts = []
    for code, stream in enumerate(observations.streams):
        pairs = _find_pairs(observations, np.flatnonzero(observations.sample_stream == code))
        if pairs is not None and (shift := _find_shift(observations, pairs, stream.node)) is not None:
            shifts.append(shift)
    return shifts


def _find_pairs(observations: Observations, samples: IntArray) -> _Pairs | None:
    """Pair a node's recent samples with similar past samples; return None if there are fewer than `MIN_PAIRS` pairs."""
    features = [
        name
        for name in _COMPARED_FEATURES
        if name in observations.node_features and np.isfinite(observations.node_features[name][samples]).mean() > 0.5
    ]
    if not features:
        return None
    X = np.column_stack([observations.node_features[name][samples] for name in features])
    complete = np.isfinite(X).all(axis=1)
    samples, X = samples[complete], X[complete]
    n_recent = min(RECENT_SAMPLES, len(samples) // 2)
    if n_recent < MIN_PAIRS:
        return None
    past, recent = samples[:-n_recent], samples[-n_recent:]
    scale = np.quantile(np.abs(X), _SCALE_QUANTILE, axis=0)
    X = X / np.where(scale > 0, scale, 1.0)
    X_past, X_recent = X[:-n_recent], X[-n_recent:]
    nearest, is_similar = _nearest(X_past, X_recent)
    if is_similar.sum() < MIN_PAIRS:
        return None
    nearest = nearest[is_similar]
    return _Pairs(past[nearest], recent[is_similar], X_recent[is_similar] - X_past[nearest])


def _find_shift(observations: Observations, pairs: _Pairs, node: str) -> PowerShift | None:
    """Return the power shift that pairs of similar samples of a node show; None if they show no shift."""
    time = observations.sample_time[pairs.recent]
    power = _power_of_pairs(observations, pairs)
    lines: dict[str, Line] = {}
    starts: list[float] = []
    most_pairs = 0
    for name, watts in power.items():
        after = watts.measured[_split(watts.now[watts.measured] / watts.then[watts.measured]) :]
        line = _line_if_shifted(watts, pairs.difference, after, REQUIRED_ERRORS)
        if line is not None:
            lines[name] = line
            starts.append(float(time[after[0]]))
            most_pairs = max(most_pairs, len(after))
    if not lines:
        return None
    since = float(np.median(starts))
    for name, watts in power.items():
        if name not in lines:
            # The power of another component has shifted, so this component's power has probably shifted, too. With
            # the smaller limit `REQUIRED_ERRORS_BESIDE`, this shift is found even if the power is noisy.
            after = watts.measured[time[watts.measured] >= since]
            line = _line_if_shifted(watts, pairs.difference, after, REQUIRED_ERRORS_BESIDE)
            if line is not None:
                lines[name] = line
    return PowerShift(node, since, lines, most_pairs)


def _power_of_pairs(observations: Observations, pairs: _Pairs) -> Mapping[str, _Power]:
    """Return the power in the pairs of samples. A key is "<energy source>.<component>".

    Components with fewer than `MIN_PAIRS` pairs are left out.
    """
    power = {}
    for (source, component), watts in observations.power.items():
        then, now = watts[pairs.past], watts[pairs.recent]
        measured = np.flatnonzero(np.isfinite(then) & np.isfinite(now) & (then > 0))
        if len(measured) >= MIN_PAIRS:
            power[f"{source}.{component}"] = _Power(then, now, measured)
    return power


def _line_if_shifted(
    watts: _Power, feature_difference: FloatArray, chosen: IntArray, required_errors: float
) -> Line | None:
    """Fit a line to the chosen pairs. Return None if their past and recent power do not differ significantly."""
    if len(chosen) < MIN_PAIRS:
        return None
    then = watts.then[chosen]
    mean, error, now_at_same_features = _difference(then, watts.now[chosen], feature_difference[chosen])
    if abs(mean) <= max(required_errors * error, SMALLEST_SHIFT * float(then.mean())):
        return None
    return _fit_line(then, now_at_same_features)


def _difference(then: FloatArray, now: FloatArray, feature_difference: FloatArray) -> tuple[float, float, FloatArray]:
    """Compare the past power (`then`) and the recent power (`now`) of pairs, corrected for differences in features.

    Returns the mean difference in power, its standard error, and the recent power that each pair would have
    with the features of its past sample.

    The two samples of a pair have similar features, but not equal features. The part of the power difference that
    `feature_difference` (shape (pairs, features)) explains is estimated by least squares and removed. If a feature is
    higher in all recent samples, its effect cannot be distinguished from a power shift, and the standard error is
    large.
    """
    design = np.column_stack([np.ones(len(then)), feature_difference])
    difference = now - then
    coefficients, _, rank, _ = np.linalg.lstsq(design, difference, rcond=1e-8)
    residual = difference - design @ coefficients
    degrees_of_freedom = max(len(then) - int(rank), 1)
    variance = float(residual @ residual) / degrees_of_freedom
    covariance = np.linalg.pinv(design.T @ design) * variance
    error_if_independent = float(np.sqrt(variance / len(then)))
    _, block_error = mean_and_standard_error(residual)
    # Consecutive pairs are nearly equal, so the standard error for independent pairs is too low and is increased.
    can_inflate = error_if_independent > 0 and np.isfinite(block_error)
    inflation = max(1.0, block_error / error_if_independent) if can_inflate else 1.0
    error = float(np.sqrt(max(covariance[0, 0], 0.0))) * inflation
    return float(coefficients[0]), error, now - feature_difference @ coefficients[1:]


def _nearest(past: FloatArray, recent: FloatArray) -> tuple[IntArray, BoolArray]:
    """Return for each recent sample the index of the nearest past sample, and whether the two samples are similar.

    `past` and `recent` have the scaled features of samples, each of shape (samples, features). The results have the
    shape (recent samples,).
    """
    from scipy.spatial import cKDTree

    distance, row = cKDTree(past).query(recent, p=np.inf, distance_upper_bound=MAX_DISTANCE)
    is_near = np.isfinite(distance)
    return np.where(is_near, row, 0).astype(np.int64), is_near


def _split(ratio: FloatArray) -> int:
    """Return the index at which the mean of the ratios changes; 0 if it does not change. Ratios are sorted by time."""
    n = len(ratio)
    total, squares = np.cumsum(ratio), np.cumsum(ratio**2)
    position = np.arange(1, n)
    left = squares[:-1] - total[:-1] ** 2 / position
    right = (squares[-1] - squares[:-1]) - (total[-1] - total[:-1]) ** 2 / (n - position)
    unsplit = squares[-1] - total[-1] ** 2 / n
    is_allowed = (position >= MIN_PAIRS // 3) & (n - position >= MIN_PAIRS)
    if not is_allowed.any() or unsplit <= 0:
        return 0
    cost = np.where(is_allowed, left + right, np.inf)
    best = int(np.argmin(cost))
    # a split at a real change of the mean reduces the variance much; a split of mere noise reduces it little
    return int(position[best]) if cost[best] < SPLIT_VARIANCE * unsplit else 0


def _fit_line(then: FloatArray, now: FloatArray) -> Line | None:
    """Fit a line that maps the power `then` to the power `now`. Fit it a second time without outliers.

    Returns None if the scale is implausible (see `MIN_SCALE`).
    """
    used = np.ones(len(then), dtype=bool)
    line = None
    for _ in range(2):
        x, y = then[used], now[used]
        low, high = np.quantile(x, [0.1, 0.9])
        scale, offset = float(y.mean() / x.mean()), 0.0
        if high > _OFFSET_SPREAD * low:
            slope, intercept = np.polyfit(x, y, 1)
            # Noise in `x` makes a fitted slope too flat. Therefore the line with an offset is used only if its squared
            # error is clearly lower than that of the line through zero.
            is_better = np.sum((y - slope * x - intercept) ** 2) < 0.8 * np.sum((y - scale * x) ** 2)
            if is_better and MIN_SCALE < slope < 1 / MIN_SCALE:
                scale, offset = float(slope), float(intercept)
        if not MIN_SCALE < scale < 1 / MIN_SCALE:
            return None
        line = Line(scale, offset)
        residual = np.abs(now - line(then))
        # 1.4826 · the median of absolute residuals is a robust estimate of their standard deviation
        used = residual <= 3 * 1.4826 * np.median(residual) + 1e-9
        if used.sum() < MIN_PAIRS:
            break
    return line
