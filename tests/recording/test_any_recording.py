"""Test that any recording is rejected, or gives observations with the properties that all observations must have."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exporter_documents import Document, observed, rates_by_container

from kepler_core.errors import RecordingError
from kepler_core.recording import check, read_recording

METRICS = [
    "kepler_container_cpu_instructions_total",
    "kepler_container_bpf_cpu_time_ms_total",
    "kepler_container_cpu_cpu_time_us_total",
    "kepler_process_cache_miss_total",
    "kepler_node_package_joules_total",
    "kepler_node_dram_joules_total",
    "kepler_vm_package_joules_total",
    "kepler_node_accelerator_intel_qat",
    "kepler_node_cpu_scaling_frequency_hertz",
    "up",
]


any_labels = st.fixed_dictionaries(
    {},
    optional={
        "instance": st.sampled_from(["node-a", "node-b"]),
        "exported_instance": st.sampled_from(["node-a", "other"]),
        "job": st.sampled_from(["kepler", "vm"]),
        "container_id": st.sampled_from(["a" * 64, "b" * 64, "system_processes", ""]),
        "pid": st.sampled_from(["1", "2"]),
        "source": st.sampled_from(["rapl-sysfs", "rapl", "acpi", "unknown"]),
        "package": st.sampled_from(["0", "1"]),
        "mode": st.sampled_from(["idle", "dynamic"]),
    },
)


any_values = st.lists(
    st.tuples(st.sampled_from([0, 3, 6, 9, 12, 40]), st.integers(0, 9).map(str) | st.sampled_from(["NaN", "+Inf"])),
    max_size=6,
)


any_series = st.lists(st.fixed_dictionaries({"metric": any_labels, "values": any_values}), max_size=5)


@settings(max_examples=250)
@given(st.dictionaries(st.sampled_from(METRICS), any_series, min_size=1, max_size=5), st.booleans())
def test_any_recording_is_observed_or_rejected(document: Document, use_vm_metrics: bool) -> None:
    try:
        observations = observed(document, use_vm_metrics=use_vm_metrics)
    except RecordingError:
        assert set(document) == {"up"}
        return
    assert np.all(np.diff(observations.row_sample) >= 0)
    assert np.all(np.diff(observations.sample_stream) >= 0)
    for watts in observations.power.values():
        assert watts.shape == observations.sample_time.shape
        assert np.all(np.isnan(watts) | ((watts >= 0) & (watts < np.inf)))
    for rates in observations.container_features.values():
        assert np.all(np.isnan(rates) | ((rates >= 0) & (rates < np.inf)))
    report = check(read_recording(document), use_vm_metrics=use_vm_metrics)
    assert not report.trainable  # a recording of at most six timestamps is too short for training


def test_the_order_of_series_and_metrics_does_not_change_values(small: Document) -> None:
    rng = np.random.default_rng(5)
    shuffled = {
        metric: [small[metric][at] for at in rng.permutation(len(small[metric]))]
        for metric in [list(small)[at] for at in rng.permutation(len(small))]
    }
    observations, expected = observed(shuffled), observed(small)
    np.testing.assert_array_equal(observations.sample_time, expected.sample_time)
    for name in ("node_features", "power"):
        columns, expected_columns = getattr(observations, name), getattr(expected, name)
        assert columns.keys() == expected_columns.keys()
        for key in expected_columns:
            np.testing.assert_allclose(columns[key], expected_columns[key], rtol=1e-12, err_msg=str(key))
    for feature in expected.container_features:
        assert rates_by_container(observations, feature) == rates_by_container(expected, feature)
