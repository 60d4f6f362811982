"""Tests that estimators search again after growing delays, which differ between estimators."""

from __future__ import annotations

from random import Random

from kepler_servers.estimator.search_delay import FIRST_RETRY_SECONDS, search_delay


def delays(failures: int, refresh_seconds: float = 120.0) -> list[float]:
    return [search_delay(failures, refresh_seconds, Random(seed)) for seed in range(1000)]


def test_delays_double_up_to_the_refresh_interval() -> None:
    for failures, delay in ((1, 2.0), (2, 4.0), (5, 32.0), (7, 120.0), (100, 120.0), (10**9, 120.0)):
        of_failures = delays(failures)
        assert 0.5 * delay <= min(of_failures) < 0.55 * delay
        assert 1.45 * delay < max(of_failures) <= 1.5 * delay


def test_delay_without_a_failure() -> None:
    assert 96.0 <= min(delays(0)) < max(delays(0)) <= 144.0
    assert max(delays(5, refresh_seconds=1.0)) <= 1.5


def test_estimators_that_fail_together_are_spread_evenly() -> None:
    """The retries of many estimators are spread over time.

    The time from the shortest to the longest delay is divided into ten equal parts. At most a fifth of the estimators
    retry in each part.
    """
    at = [int(10 * (delay / FIRST_RETRY_SECONDS - 0.5)) for delay in delays(1)]
    assert max(at.count(tenth) for tenth in range(10)) <= 200
