"""Tests of the power curves of models, and of the coordinates in drawings of the curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.linear_models import SCALE, LinearModel
from support.page_store import honesty

from kepler_core.models.loading import load_model
from kepler_servers.browser.curve import POINTS, ComponentCurve, Curve, curve_of
from kepler_servers.browser.curve_drawing import HEIGHT, WIDTH, drawing_of


def test_features_rise_from_the_lowest_to_the_highest_values_of_the_training() -> None:
    _, files = LinearModel(honesty=honesty()).stored()
    curve = curve_of(load_model(files))
    assert curve.trained_range
    assert curve.feature == "bpf_cpu_time_ms"
    assert (len(curve.x), curve.x[0], curve.x[-1]) == (POINTS, 10.0, SCALE / 100)
    package = curve.components["package"]
    assert package.watts[0] == pytest.approx(50 + 0.01 * 10 + 0.001 * 10, rel=1e-6)
    assert package.watts[-1] == pytest.approx(50 + 0.011 * SCALE / 100, rel=1e-6)
    # On the machine of the training, the half-width has two terms: the quantile of the errors, and the error between
    # sessions (days). It has no term for the error between machines.
    assert package.half_width is not None
    assert package.half_width[0] == pytest.approx(np.hypot(3.0, 2.0))
    assert package.half_width[-1] == pytest.approx(np.hypot(6.0, 2.0))
    assert curve.components["dram"].half_width is None


def test_a_model_that_states_no_range_is_drawn_up_to_its_scale() -> None:
    _, files = LinearModel().stored()
    curve = curve_of(load_model(files))
    assert not curve.trained_range
    assert (curve.x[0], curve.x[-1]) == (0.0, SCALE)


def test_components_without_power_are_left_out() -> None:
    _, files = LinearModel().stored()
    assert [line.component for line in drawing_of(curve_of(load_model(files))).lines] == ["package", "dram"]


numbers = st.floats(0, 1e12)


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12), st.lists(numbers, min_size=3, max_size=3), numbers)
def test_every_point_is_inside_the_picture(low: float, width: float, watts: list[float], half: float) -> None:
    part = ComponentCurve(watts, [half] * 3)
    drawing = drawing_of(Curve("f", [low, low + width / 2, low + width], {"package": part}))
    for line in drawing.lines:
        for point in f"{line.points} {line.band}".split():
            x, y = map(float, point.split(","))
            assert drawing.left - 0.1 <= x <= drawing.right + 0.1 < WIDTH
            assert drawing.top - 0.1 <= y <= drawing.bottom + 0.1 < HEIGHT
