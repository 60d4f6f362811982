"""Test rates of counters, with examples and by comparison with a plain loop over samples."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.recording.columns import Metric, metric_from_columns
from kepler_core.recording.rates import Rates, Spacing, rates, spacing

Series = list[tuple[float, float]]


def metric_of(*series: Series) -> Metric:
    """Return a metric with several series. Each series is a list of pairs (time, value)."""
    samples = [(index, t, v) for index, pairs in enumerate(series) for t, v in pairs]
    index, times, values = (np.array(column) for column in zip(*samples, strict=True)) if samples else ([], [], [])
    return metric_from_columns(
        "m",
        np.asarray(times, dtype=np.float64),
        np.asarray(values, dtype=np.float64),
        np.asarray(index, dtype=np.int64),
        tuple({"id": str(at)} for at in range(len(series))),
    )


def spacing_of(metric: Metric) -> Spacing:
    """Return the time between samples of a metric (`Spacing`). All series of the metric belong to one node."""
    return spacing(metric.timestamps, metric.series, np.zeros(metric.n_series, dtype=np.int64))


def rated(metric: Metric) -> Rates:
    return rates(metric, spacing_of(metric))


def gaps_of(metric: Metric) -> int:
    return spacing_of(metric).gaps


def rates_of(*series: Series) -> list[float | None]:
    """Return the rate of each sample of several series, with None for samples without a rate."""
    return [None if math.isnan(value) else value for value in rated(metric_of(*series)).values.tolist()]


def plain_rates(series: list[Series]) -> tuple[list[float], list[bool], int]:
    """Compute with a plain loop: the rate of each sample, whether the counter was reset, and the number of gaps."""
    steps = [after[0] - before[0] for pairs in series for before, after in itertools.pairwise(pairs)]
    step = statistics.median(steps) if steps else math.nan
    values, resets, gaps = [], [], 0
    for pairs in series:
        for at, (time, value) in enumerate(pairs):
            rate, reset = math.nan, False
            if at > 0:
                seconds = time - pairs[at - 1][0]
                increase = value - pairs[at - 1][1]
                if seconds > 5 * step:
                    gaps += 1
                else:
                    reset = increase < 0
                    rate = (value if reset else increase) / seconds
            values.append(rate)
            resets.append(reset)
    return values, resets, gaps


@st.composite
def series(draw: st.DrawFn) -> Series:
    """Generate a random series of a counter with uneven steps, some gaps and some resets."""
    step = st.sampled_from([3.0] * 8 + [1.0, 2.5, 6.0, 15.0, 15.5, 16.0, 300.0])
    value = st.integers(0, 50).map(float) | st.floats(0, 1e15)
    time = draw(st.sampled_from([0.0, 1_700_000_000.0, 1_700_000_000.123]))
    pairs = []
    for _ in range(draw(st.integers(0, 12))):
        pairs.append((time, draw(value)))
        time += draw(step)
    return pairs


@given(st.lists(series(), max_size=5))
def test_rates_equal_those_of_a_plain_loop(all_series: list[Series]) -> None:
    result = rated(metric_of(*all_series))
    values, resets, gaps = plain_rates(all_series)
    np.testing.assert_array_equal(result.values, values)
    assert result.reset.tolist() == resets
    assert gaps_of(metric_of(*all_series)) == gaps


def test_every_rate_is_over_its_own_interval() -> None:
    assert rates_of([(0, 0), (3, 30), (5, 50), (12, 190)]) == [None, 10, 10, 20]


def test_the_value_after_a_fall_is_the_increase() -> None:
    result = rated(metric_of([(0, 100), (2, 140), (4, 30), (6, 0), (8, 10)]))
    assert result.values.tolist()[1:] == [20, 15, 0, 5]
    assert result.reset.tolist() == [False, False, True, True, False]


def test_a_counter_that_does_not_move_has_rate_0_and_no_reset() -> None:
    result = rated(metric_of([(0, 7), (3, 7), (6, 7)]))
    assert result.values.tolist()[1:] == [0, 0]
    assert not result.reset.any()


@pytest.mark.parametrize(("interval", "gaps"), [(15, 0), (15.001, 1), (400, 1)])
def test_an_interval_longer_than_five_usual_steps_is_a_gap(interval: float, gaps: int) -> None:
    times = [0, 3, 6, 9, 9 + interval, 12 + interval]
    metric = metric_of([(time, 10 * time) for time in times])
    result = rated(metric)
    assert gaps_of(metric) == gaps
    assert np.isnan(result.values[4]) == bool(gaps)
    assert np.isfinite(result.values[[1, 2, 3, 5]]).all()


def test_a_fall_over_a_gap_is_not_a_reset() -> None:
    metric = metric_of([(0, 0), (3, 3), (6, 6), (100, 1), (103, 4)])
    assert not rated(metric).reset.any()
    assert gaps_of(metric) == 1


def test_the_usual_step_is_the_median_over_all_series() -> None:
    # The usual step is the median over both series: 3 s. So the only interval of the second series is a gap: it lasts
    # 16 s.
    first, second = [(3.0 * at, 1.0 * at) for at in range(10)], [(0.0, 0.0), (16.0, 5.0)]
    metric = metric_of(first, second)
    assert spacing_of(metric).usual_step == 3
    assert gaps_of(metric) == 1


def test_the_first_sample_of_a_series_has_no_rate() -> None:
    assert rates_of([(0, 0), (3, 3)], [(6, 100), (9, 130)], [(12, 7)]) == [None, 1, None, 10, None]


def test_a_metric_without_samples_has_no_rates() -> None:
    metric = metric_of([], [])
    assert len(rated(metric).values) == 0
    assert gaps_of(metric) == 0
    assert math.isnan(spacing_of(metric).usual_step)
