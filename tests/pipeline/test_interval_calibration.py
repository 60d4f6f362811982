"""Test the calibration of intervals on held-out nodes, which is the last step in the computation of intervals."""

from __future__ import annotations

import numpy as np
import pytest

from kepler_core.pipeline.interval_terms import MIN_CALIBRATION_NODES, calibration


def test_calibrated_intervals_contain_the_stated_part_of_new_nodes() -> None:
    """About 91 % of the samples of new nodes are in the calibrated intervals.

    The errors of nodes have heavy tails, and nodes have 1 to 30 samples. Before the calibration, the half-widths are
    much too small.
    """
    random = np.random.default_rng(3)
    inside = []
    for _ in range(200):
        counts = random.integers(1, 31, 60)
        node = np.repeat(np.arange(60), counts)
        gain = random.standard_t(3, 60)[node]
        error, half = np.abs(10 * gain + random.standard_normal(len(node))), np.full(len(node), 6.0)
        known = node < 50
        factor = calibration(error[known], half[known], node[known])
        new = (error <= factor * half)[~known]
        inside += [new[node[~known] == number].mean() for number in range(50, 60)]
    assert 0.88 < np.mean(inside) < 0.94


def test_no_node_hides_the_others() -> None:
    """A node with a thousand samples and no error must not hide the errors of the other nodes."""
    node = np.concatenate([np.zeros(1000, dtype=np.int64), np.arange(1, 40)])
    error = np.concatenate([np.zeros(1000), np.full(39, 5.0)])
    assert calibration(error, np.ones(len(node)), node) == pytest.approx(5.0)


def test_few_nodes_leave_the_intervals_as_they_are() -> None:
    node = np.arange(MIN_CALIBRATION_NODES - 1)
    assert calibration(np.full(len(node), 9.0), np.ones(len(node)), node) == 1.0
