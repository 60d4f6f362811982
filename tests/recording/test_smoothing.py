"""Test that the smoothing extractor gives the same values as rolling means of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.exporter_documents import FEATURES, NODE_A, NODE_B, Document, extracted, machine, merged, observed

from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.recording import Observations
from kepler_core.vocabulary import BASIC_FEATURES


def pandas_rolling(values: pd.Series, keys: Sequence[Any], window: int) -> pd.Series:
    """Return for each value the mean of the last `window` values with the same keys, without NaN.

    If a value is NaN itself, its mean is NaN, too.
    """
    means = values.groupby(list(keys), sort=False).transform(lambda group: group.rolling(window, min_periods=1).mean())
    return means.where(values.notna())


@pytest.fixture
def two_nodes() -> Observations:
    """Return observations of two nodes, in whose series 3 % of the samples are missing."""
    document = merged(machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=3.0))
    rng = np.random.default_rng(3)
    for all_series in document.values():
        for series in all_series:
            series["values"] = [pair for pair in series["values"] if rng.random() < 0.97]
    return observed(document)


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_smoothing_by_node_is_a_rolling_mean(two_nodes: Observations, window: int) -> None:
    data = extracted(two_nodes, tuple(FEATURES), "rapl-sysfs", by_container=False, window=window)
    plain = pd.DataFrame(
        {
            **{feature: two_nodes.node_features[feature] for feature in FEATURES},
            **{f"{c}_power": two_nodes.power["rapl-sysfs", c] for c in ("package", "dram")},
        }
    )
    assert plain.isna().any(axis=None)
    smoothed = plain.apply(pandas_rolling, keys=[two_nodes.sample_stream], window=window).dropna()
    np.testing.assert_allclose(data.frame.to_numpy(), smoothed.to_numpy(), rtol=1e-9)
    np.testing.assert_array_equal(data.timestamps, two_nodes.sample_time[smoothed.index])


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_smoothing_by_container_is_a_rolling_mean(two_nodes: Observations, window: int) -> None:
    data = extracted(two_nodes, tuple(FEATURES), "rapl-sysfs", by_container=True, window=window)
    sample = two_nodes.row_sample
    keys = pd.DataFrame(
        {
            "node": [two_nodes.streams[code].node for code in two_nodes.sample_stream[sample]],
            "timestamp": two_nodes.sample_time[sample],
            "container": [two_nodes.containers[code] for code in two_nodes.row_container],
        }
    )
    plain = pd.DataFrame({feature: two_nodes.container_features[feature] for feature in FEATURES})
    smoothed = plain.apply(pandas_rolling, keys=[keys["node"], keys["container"]], window=window)
    expected = smoothed.set_index(pd.MultiIndex.from_frame(keys))
    rows = data.frame.droplevel("recording")
    assert len(rows) > 100
    np.testing.assert_allclose(
        rows[list(FEATURES)].to_numpy(), expected.loc[rows.index, list(FEATURES)].to_numpy(), rtol=1e-9
    )


def test_a_window_of_one_equals_the_default_extractor(small: Document) -> None:
    observations = observed(small)
    for by_container in (False, True):
        smoothed = extracted(observations, BASIC_FEATURES, "rapl-sysfs", by_container=by_container, window=1)
        plain = extracted(observations, BASIC_FEATURES, "rapl-sysfs", by_container=by_container)
        pd.testing.assert_frame_equal(smoothed.frame, plain.frame, rtol=1e-9)


def test_smoothed_values_are_not_negative() -> None:
    # The mean must be exactly 0 in the idle time after a large burst, without rounding errors from the burst.
    document = machine(containers={"a" * 64: 1.0})
    # The counter of cache misses rises all the time, because samples in which no usage counter rises are left out.
    alive = "kepler_container_cache_miss_total"
    for metric, all_series in document.items():
        for series in all_series if metric != alive else ():
            values = np.concatenate([[0.0], np.cumsum([1e13 / 3] * 9 + [0.0] * 30)])
            series["values"] = [[t, repr(v)] for (t, _), v in zip(series["values"], values.tolist(), strict=True)]
    for metric in list(document):
        if "joules" in metric:
            document[metric] = machine()[metric]
    features = tuple(feature for feature in FEATURES if feature not in alive)
    data = extracted(observed(document), features, "acpi", by_container=False, window=5)
    assert (data.X >= 0).all()
    assert (data.X[-5:] == 0).all()


@pytest.mark.parametrize("window", [0, -1, "five", 2.5])
def test_a_wrong_window_is_rejected(window: Any) -> None:
    with pytest.raises(PluginError, match="window"):
        registry.extractors.create("smooth", {"window": window})
