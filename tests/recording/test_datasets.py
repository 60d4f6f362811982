"""Test how the default extractor divides power among containers, and which rows it leaves out of data sets."""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd
import pytest
from support.exporter_documents import (
    FEATURES,
    NODE_A,
    NODE_B,
    TIMES,
    Document,
    extracted,
    later,
    machine,
    merged,
    observed,
    variation,
)

from kepler_core.recording import observe, read_recording
from kepler_core.vocabulary import BASIC_FEATURES, FEATURE_GROUPS, RAPL_COMPONENTS


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("source", ["rapl-sysfs", "acpi"])
@pytest.mark.parametrize("group", ["CounterOnly", "BPFOnly", "WorkloadOnly", "Full"])
def test_container_power_adds_up_to_node_power(small: Document, group: str, source: str, window: int | None) -> None:
    observations = observed(small)
    features = FEATURE_GROUPS[group]
    containers = extracted(observations, features, source, by_container=True, window=window)
    node = extracted(observations, features, source, by_container=False, window=window)
    assert len(node.frame) > 100
    shared = containers.node_power()
    expected = node.frame[node.power_columns]
    pd.testing.assert_frame_equal(shared, expected, check_exact=False, rtol=1e-9, check_index_type=False)
    if window is None:
        at = np.searchsorted(observations.sample_time, node.timestamps)
        for component in node.components:
            np.testing.assert_array_equal(node.y(component), observations.power[source, component][at])


def test_energy_is_conserved_with_several_nodes_and_recordings() -> None:
    documents = [
        merged(machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=load))
        for load in (2.0, 3.0)
    ]
    documents[1] = later(documents[1])
    observations = observe([read_recording(document, name=str(at)) for at, document in enumerate(documents)])
    containers = extracted(observations, tuple(FEATURES), "rapl-sysfs", by_container=True)
    node = extracted(observations, tuple(FEATURES), "rapl-sysfs", by_container=False)
    assert len(node.frame) == 4 * (len(TIMES) - 1)
    power = containers.frame.groupby(["recording", "node", "timestamp"])[containers.power_columns].sum()
    pd.testing.assert_frame_equal(
        power, node.frame[node.power_columns], check_exact=False, rtol=1e-9, check_index_type=False
    )


def test_a_container_gets_its_share_of_the_main_feature() -> None:
    document = machine(containers={"a" * 64: 1.0, "b" * 64: 3.0})
    document["kepler_container_cache_miss_total"] = machine(containers={"a" * 64: 1.0, "b" * 64: 1.0})[
        "kepler_container_cache_miss_total"
    ]
    frame = extracted(observed(document), tuple(FEATURES), "rapl-sysfs", by_container=True).frame
    first = frame.xs("a" * 64, level="container")
    factor = variation(TIMES)[1:]
    # the container has a quarter of the node's instructions and half of the node's cache misses
    np.testing.assert_allclose(first["package_power"], 50.0 * factor / 4, rtol=1e-9)
    np.testing.assert_allclose(first["dram_power"], 7.0 * factor / 2, rtol=1e-9)
    np.testing.assert_allclose(first["cpu_instructions"], 1e6 * factor, rtol=1e-9)


def test_shares_are_equal_where_no_container_used_anything() -> None:
    document = machine(containers={"a" * 64: 0.0, "b" * 64: 0.0})
    frame = extracted(observed(document), tuple(FEATURES), "acpi", by_container=True).frame
    assert len(frame) == 2 * (len(TIMES) - 1)
    np.testing.assert_allclose(frame["platform_power"].xs("a" * 64, level="container"), 60.0 * variation(TIMES)[1:])


def test_rows_with_an_unknown_value_are_left_out(small: Document) -> None:
    observations = observed(small)
    data = extracted(observations, BASIC_FEATURES, "rapl-sysfs", by_container=False)
    columns = [observations.node_features[feature] for feature in BASIC_FEATURES]
    columns += [observations.power["rapl-sysfs", component] for component in RAPL_COMPONENTS]
    is_known = np.isfinite(np.array(columns)).all(axis=0)
    assert not is_known.all()
    np.testing.assert_array_equal(data.timestamps, observations.sample_time[is_known])
    assert list(data.frame.columns) == [*BASIC_FEATURES, *data.power_columns]
    assert not extracted(observations, BASIC_FEATURES, "rapl-sysfs", by_container=True).frame.isna().any(axis=None)


def test_a_data_set_with_other_rows_has_samples_of_its_own() -> None:
    dataset = extracted(observed(machine()), tuple(FEATURES), "rapl-sysfs", by_container=True)
    assert dataset.sample[-1] == len(TIMES) - 2
    later_rows = attrs.evolve(dataset, frame=dataset.frame[dataset.sample >= 3])
    assert later_rows.sample.tolist() == [number - 3 for number in dataset.sample.tolist() if number >= 3]
    assert len(later_rows.node_power()) == len(later_rows.first_rows) == len(TIMES) - 4
    assert attrs.evolve(dataset, output_type="DynPower").sample is dataset.sample
