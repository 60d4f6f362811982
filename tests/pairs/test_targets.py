"""Test three definitions of a virtual machine's power. The expected numbers were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kepler_core.pairs.targets import capacity_watts, kepler_watts, marginal_watts


def test_targets_of_a_window_that_was_seen_on_a_running_kepler() -> None:
    # One zone draws 42 W for 3 s on a host with 4 CPUs. The virtual machine keeps one CPU busy, and so do all other
    # processes together.
    joules, seconds, vm, total = np.array([126.0]), np.array([3.0]), np.array([3.0]), np.array([6.0])
    assert kepler_watts(joules, seconds, np.array([0.5]), vm, total) == pytest.approx(10.5)
    assert capacity_watts(joules, seconds, vm, 4) == pytest.approx(10.5)
    assert marginal_watts(joules, seconds, vm, total, 20.0, 0.25) == pytest.approx((42 - 20) / 2 + 5)


def test_marginal_power_is_the_reserved_idle_power_if_the_host_draws_less_than_idle() -> None:
    watts = marginal_watts(np.array([30.0]), np.array([2.0]), np.array([1.0]), np.array([2.0]), 20.0, 0.5)
    assert watts == pytest.approx(10.0)


def test_power_is_unknown_if_no_process_ran() -> None:
    zero = np.array([0.0])
    assert np.isnan(kepler_watts(np.array([10.0]), np.array([1.0]), zero, zero, zero)).all()
