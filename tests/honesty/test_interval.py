"""Test the half-width of intervals: expected values were computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kepler_core.honesty.document import IntervalTerms
from kepler_core.honesty.interval import (
    OUTSIDE_FACTOR,
    SAME_MACHINE,
    SAME_TYPE,
    MachineMatch,
    half_width,
    typical_half_width,
)

INSIDE = np.zeros(1, dtype=bool)


def terms(**changed: Any) -> IntervalTerms:
    """Return the numbers that define an interval of a machine of 50 to 150 W. `changed` replaces some numbers."""
    values: dict[str, Any] = {
        "lowest": 50.0,
        "highest": 150.0,
        "edges": [100.0],
        "quantiles": [3.0, 6.0],
        "session": 4.0,
        "machine_idle": 0.2,
        "machine_loaded": 0.1,
        "noise": 1.0,
    }
    return IntervalTerms(**{**values, **changed})


def width(watts: float, match: MachineMatch, outside: bool = False, **changed: Any) -> float:
    return float(half_width(terms(**changed), np.array([watts]), np.array([outside]), match)[0])


def test_the_quantile_is_that_of_the_load_bin() -> None:
    assert width(60, SAME_MACHINE) == pytest.approx(5)  # √(3² + 4²)
    assert width(99.9, SAME_MACHINE) == pytest.approx(5)
    assert width(100, SAME_MACHINE) == pytest.approx(math.hypot(6, 4))


def test_a_row_outside_the_training_has_a_wider_interval() -> None:
    assert width(60, SAME_MACHINE, outside=True) == pytest.approx(math.hypot(3 * OUTSIDE_FACTOR, 4))


@pytest.mark.parametrize(("watts", "fraction"), [(20, 0.2), (50, 0.2), (75, 0.175), (150, 0.1), (300, 0.1)])
def test_the_error_between_machines_is_interpolated(watts: float, fraction: float) -> None:
    expected = fraction * watts
    assert width(watts, SAME_TYPE, session=0.0, quantiles=[0.0, 0.0]) == pytest.approx(expected)
    assert width(watts, SAME_MACHINE, session=0.0, quantiles=[0.0, 0.0]) == 0
    unlike = MachineMatch(dissimilarity=0.5)
    assert width(watts, unlike, session=0.0, quantiles=[0.0, 0.0]) == pytest.approx(1.5 * expected)


def test_a_constant_power_counts_as_full_load() -> None:
    watts = width(50, SAME_TYPE, highest=50.0, edges=[], quantiles=[0.0], session=0.0)
    assert watts == pytest.approx(5)


def test_the_disagreement_is_an_independent_error() -> None:
    half = half_width(terms(), np.array([60.0]), INSIDE, SAME_MACHINE, np.array([12.0]))
    assert half.tolist() == pytest.approx([13])  # √(3² + 4² + 12²)


def test_the_typical_half_width_is_the_mean_over_the_bins() -> None:
    assert typical_half_width(terms()) == pytest.approx((5 + math.hypot(6, 4)) / 2)
    assert typical_half_width(terms(edges=[], quantiles=[3.0])) == pytest.approx(5)


def test_the_typical_half_width_with_an_edge_above_the_measured_power() -> None:
    assert typical_half_width(terms(edges=[160.0]), SAME_MACHINE) == pytest.approx((5 + math.hypot(6, 4)) / 2)
