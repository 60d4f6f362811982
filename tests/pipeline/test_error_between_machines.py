"""Test the error between machines: the part of an interval that a training with several nodes measures."""

from __future__ import annotations

import numpy as np
import pytest

from kepler_core.honesty.interval import MACHINE_PRIOR_LOADED
from kepler_core.pipeline.interval_terms import error_of_new_node
from kepler_core.pipeline.node_gains import MIN_NODES

RELATIVE = [-0.12, 0.03, 0.08, -0.02, 0.05]


def left_out_errors(factors: np.ndarray) -> np.ndarray:
    """Return for each node the relative error of a model that predicts the mean of the other nodes."""
    others = (factors.sum() - factors) / (len(factors) - 1)
    return np.asarray((others - factors) / others)


def test_an_error_that_all_nodes_share_is_no_difference_between_nodes() -> None:
    shared = [error + 0.2 for error in RELATIVE]
    assert error_of_new_node(shared, 0.1) == pytest.approx(error_of_new_node(RELATIVE, 0.1))
    assert error_of_new_node([0.2] * 5, 0.1) < 0.1


def test_many_nodes_outweigh_the_prior() -> None:
    factors = 1 + 0.1 * np.random.default_rng(0).standard_normal(4000)
    assert error_of_new_node(list(left_out_errors(factors)), 0.01) == pytest.approx(1.645 * 0.1, rel=0.05)


def test_few_nodes_leave_the_prior() -> None:
    assert error_of_new_node(RELATIVE[: MIN_NODES - 1], 0.07) == 0.07


def test_intervals_of_five_nodes_contain_a_sixth_as_often_as_stated() -> None:
    """An interval that was measured on five nodes contains the power of a sixth node in about 90 % of the cases.

    The powers of the nodes have the spread `MACHINE_PRIOR_LOADED`. The limits of 88 % and 93 % allow more than three
    standard errors of the 4,000 repetitions.
    """
    deviation = MACHINE_PRIOR_LOADED / 1.645
    factors = 1 + deviation * np.random.default_rng(1).standard_normal((4000, 6))
    mean = factors[:, :5].mean(axis=1)
    error = np.abs(factors[:, 5] / mean - 1)
    limit = [error_of_new_node(list(left_out_errors(five)), MACHINE_PRIOR_LOADED) for five in factors[:, :5]]
    assert 0.88 < np.mean(error <= limit) < 0.93
