"""Calculate the increases of series between the timestamps that they have in common, for many groups of series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.grouping import sum_by
from kepler_core.recording.columns import Metric

_MAX_CELLS = 2**18
"""Maximum number of values in the array of one batch of groups."""


def common_rises(metric: Metric, series: Sequence[int]) -> FloatArray:
    """Return the increases of series between the timestamps that all series have, shape (series, intervals)."""
    spans = [metric.span(at) for at in series]
    times, number = np.unique(np.concatenate([metric.timestamps[span] for span in spans]), return_inverse=True)
    common = times[sum_by(np.ones(len(number)), number, len(times)) == len(series)]
    return np.diff([metric.values[span][np.isin(metric.timestamps[span], common)] for span in spans], axis=1)


def stacked_rises(metric: Metric, groups: Sequence[Sequence[int]]) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield the increases of all groups of series, in batches of several groups.

    A batch has the indices of its groups, and one array with their increases: those of `common_rises`, shape (groups,
    series, intervals). The series of a group usually have the same timestamps, because they are scraped together. In
    this case, all groups of equal size are calculated at once.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for at, series in enumerate(groups):
        by_shape.setdefault(tuple(metric.lengths[list(series)].tolist()), []).append(at)
    for lengths, members in by_shape.items():
        if len(set(lengths)) > 1:
            yield from _one_by_one(metric, groups, members)
            continue
        most = max(_MAX_CELLS // max(sum(lengths), 1), 1)
        for start in range(0, len(members), most):
            numbers = np.array(members[start : start + most])
            first = metric.starts[np.array([groups[at] for at in numbers.tolist()])]
            cells = first[:, :, None] + np.arange(lengths[0])
            times = metric.timestamps[cells]
            is_common = np.all(times == times[:, :1], axis=(1, 2))
            if is_common.any():
                yield numbers[is_common], np.diff(metric.values[cells[is_common]], axis=2)
            yield from _one_by_one(metric, groups, numbers[~is_common].tolist())


def _one_by_one(
    metric: Metric, groups: Sequence[Sequence[int]], members: Sequence[int]
) -> Iterator[tuple[IntArray, FloatArray]]:
    for at in members:
        yield np.array([at]), common_rises(metric, groups[at])[None]
