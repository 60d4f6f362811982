"""Comparison of observations."""

from __future__ import annotations

import numpy as np

from kepler_core.recording import Observations


def assert_same(one: Observations, other: Observations) -> None:
    """Fail unless two observations have the same streams, containers, samples and values."""
    assert (one.streams, one.containers, one.container_names) == (
        other.streams,
        other.containers,
        other.container_names,
    )
    assert (one.step, one.digest, one.node_gauges) == (other.step, other.digest, other.node_gauges)
    for column in ("sample_stream", "sample_time", "row_sample", "row_container"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column), err_msg=column)
    for columns in ("container_features", "node_features", "power", "windows"):
        values, others = getattr(one, columns), getattr(other, columns)
        assert list(values) == list(others)
        for key in others:
            np.testing.assert_array_equal(values[key], others[key], err_msg=f"{columns} {key}")
