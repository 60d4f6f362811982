"""Test observations of metrics with unusual labels or old names, and of containers, processes and virtual machines."""

from __future__ import annotations

import numpy as np
import pytest
from support.exporter_documents import (
    CONTAINERS,
    DRAM_IS_DYNAMIC_ONLY,
    FEATURES,
    TIMES,
    Document,
    assert_same,
    counter,
    machine,
    observed,
    series_of,
    variation,
)

from kepler_core.errors import RecordingError
from kepler_core.recording import check, read_recording


@pytest.mark.parametrize(
    "metric",
    [
        "kepler_container_cpu_cpu_time_us_total",
        "kepler_container_cpu_cpu_time_us",
        "kepler_container_bpf_cpu_time_us_total",
    ],
)
def test_the_old_name_of_cpu_time_counts_milliseconds(metric: str) -> None:
    document = machine()
    document[metric] = document.pop("kepler_container_bpf_cpu_time_ms_total")
    observations = observed(document)
    assert_same(observations, observed(machine()))
    assert "milliseconds" in check(read_recording(document)).notes[metric]


def renamed_source(source: str, label: str) -> Document:
    """Return a recording in which `label` replaces the value `source` of the metrics' label "source"."""
    document = machine()
    for all_series in document.values():
        for series in all_series:
            if series["metric"].get("source") == source:
                series["metric"]["source"] = label
    return document


@pytest.mark.parametrize("label", ["rapl", "intel_rapl"])
def test_older_source_labels_mean_rapl_sysfs(label: str) -> None:
    assert_same(observed(renamed_source("rapl-sysfs", label)), observed(machine()))


@pytest.mark.parametrize("label", ["ampere-xgene-hwmon", "grace-acpi"])
def test_meters_of_arm_machines_measure_package_and_core_only(label: str) -> None:
    # For the energy sources `ampere-xgene-hwmon` and `grace-acpi`, Kepler exports DRAM counters that are always 0. In
    # this recording, the DRAM counters rise, so that the test fails if Kepler Core uses them.
    document = renamed_source("rapl-sysfs", label)
    document["kepler_node_core_joules_total"] = document["kepler_node_package_joules_total"]
    observations = observed(document)
    assert observations.sources == {"acpi": ("platform",), label: ("package", "core")}
    expected = observed(machine()).power["rapl-sysfs", "package"]
    np.testing.assert_array_equal(observations.power[label, "package"], expected)
    assert not observations.counts.of("unknown_sources")


def test_estimated_power_includes_the_platform() -> None:
    document = renamed_source("acpi", "trained_power_model")
    observations = observed(document)
    expected = observed(machine()).power["acpi", "platform"]
    np.testing.assert_array_equal(observations.power["trained_power_model", "platform"], expected)


@pytest.mark.parametrize("metric", ["kepler_node_info", "kepler_node_node_info"])
def test_both_names_of_the_node_type_are_read(metric: str) -> None:
    document = machine()
    document[metric] = [series_of({"instance": "node-a"}, TIMES, np.full(len(TIMES), 5.0))]
    assert set(observed(document).node_features["node_info"].tolist()) == {5.0}


def test_summed_kilohertz_are_converted_to_hertz() -> None:
    document = machine()
    document["kepler_node_avg_cpu_frequency_total"] = [
        # Every 3 s, the exporter adds the current frequency in kHz to the counter. CPU 0 has 2 GHz, CPU 1 has 3 GHz.
        series_of({"instance": "node-a", "device": device}, TIMES, 7e6 + kilohertz * np.arange(len(TIMES)))
        for device, kilohertz in (("0", 2e6), ("1", 3e6))
    ]
    hertz = observed(document).node_features["cpu_scaling_frequency_hertz"]
    np.testing.assert_allclose(hertz[1:], 2.5e9)


@pytest.mark.parametrize("feature", ["cpu_ref_cycles", "task_clock_ms"])
def test_features_without_a_group_change_nothing_else(feature: str) -> None:
    document = machine()
    document[f"kepler_container_{feature}_total"] = [
        {"metric": series["metric"], "values": [[at, repr(3 * float(value))] for at, value in series["values"]]}
        for series in document["kepler_container_bpf_cpu_time_ms_total"]
    ]
    observations, expected = observed(document), observed(machine())
    assert feature in observations.node_features
    for name, column in expected.node_features.items():
        np.testing.assert_array_equal(observations.node_features[name], column)
    assert check(read_recording(document)).other_metrics == ()


def test_power_without_a_source_label_has_the_default_source() -> None:
    document = machine()
    for all_series in document.values():
        for series in all_series:
            series["metric"].pop("source", None)
    assert_same(observed(document), observed(machine()))


def test_power_of_an_unknown_source_is_left_out() -> None:
    document = machine()
    for series in document["kepler_node_platform_joules_total"]:
        series["metric"]["source"] = "crystal-ball"
    assert observed(document).sources == {"rapl-sysfs": ("package", "dram")}


def test_containers_without_an_id_are_named_by_their_other_labels() -> None:
    document = machine()
    for metric in [name for name in document if "container" in name]:
        for series in document[metric]:
            del series["metric"]["container_id"]
    observations = observed(document)
    assert len(observations.containers) == len(CONTAINERS)
    assert observations.counts.missing_labels["kepler_container_cache_miss_total container_id"] == len(CONTAINERS)
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"][1:], 4.5 * variation(TIMES)[1:], rtol=1e-9)


def test_a_recording_without_instance_labels_is_one_node() -> None:
    document = machine()
    for all_series in document.values():
        for series in all_series:
            del series["metric"]["instance"]
    observations = observed(document)
    assert [stream.node for stream in observations.streams] == [""]
    assert observations.counts.missing_labels["kepler_node_platform_joules_total instance"] == 2
    np.testing.assert_allclose(observations.power["acpi", "platform"][1:], 120 * variation(TIMES)[1:], rtol=1e-9)


def test_irregular_samples_and_series_are_counted() -> None:
    document = machine()
    metric = "kepler_container_cache_miss_total"
    first, second, third = document[metric]
    first["values"][5][1] = "NaN"
    second["values"].append(second["values"][-1])
    third["values"] = third["values"][:1]
    document[metric].append({"metric": {"instance": "node-a", "container_id": "empty"}, "values": []})
    counts = observed(document).counts.as_dict()
    assert counts == {
        # the container of the third series is busy at all timestamps, but never has a rate of cache misses
        "incomplete": {"cache_miss": len(TIMES) - 1},
        "not_finite": {metric: 1},
        "repeated_timestamps": {metric: 1},
        "one_sample_series": {metric: 1},
        "empty_series": {metric: 1},
        **DRAM_IS_DYNAMIC_ONLY,
    }


def test_container_and_process_counters_are_not_added_up() -> None:
    document = machine()
    for feature in FEATURES:
        document[f"kepler_process_{feature}_total"] = [
            {"metric": {**series["metric"], "pid": str(pid)}, "values": series["values"]}
            for pid, series in enumerate(document[f"kepler_container_{feature}_total"])
        ]
    assert_same(observed(document), observed(machine()))


def test_vm_metrics_are_the_power_and_processes_of_virtual_machines() -> None:
    document = machine()
    for feature in FEATURES:
        document[f"kepler_process_{feature}_total"] = [
            series_of({"instance": "node-a", "job": job, "pid": str(pid)}, TIMES, counter(pid, TIMES))
            for job, pid in (("vm", 1), ("vm", 2), ("kepler", 5))
        ]
    document["kepler_vm_package_joules_total"] = [
        series_of({"instance": "node-a", "job": "vm", "vm_id": "vm-1", "mode": mode}, TIMES, counter(watts, TIMES))
        for mode, watts in (("idle", 4.0), ("dynamic", 9.0))
    ]
    observations = observed(document, use_vm_metrics=True)
    factor = variation(TIMES)[1:]
    np.testing.assert_allclose(observations.node_features["cache_miss"][1:], 3.0 * factor, rtol=1e-9)
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], 13.0 * factor, rtol=1e-9)
    assert ("acpi", "platform") not in observations.power


@pytest.mark.parametrize("document", [{}, {"up": []}, {"up": [{"metric": {}, "values": [[1, "1"]]}]}])
def test_a_recording_without_known_metrics_is_rejected(document: Document) -> None:
    with pytest.raises(RecordingError, match=r"^test: no metric that an installed metric schema knows"):
        observed(document)


def test_idle_energy_without_dynamic_energy_is_no_power() -> None:
    """If a recording has idle energy but no dynamic energy, the power is unknown, and a finding reports the series.

    The reason may be a query for mode="idle" only.
    """
    document = machine()
    (package,) = (name for name in document if name.startswith("kepler_node_package"))
    for series in document[package]:
        series["metric"]["mode"] = "idle"
    observations = observed(document)
    assert ("rapl-sysfs", "package") not in observations.power
    assert observations.counts.idle_only == {"rapl-sysfs package": 2}
    assert "idle" in observations.counts.examples["idle_only", "rapl-sysfs package"]


def test_a_socket_with_only_idle_energy_makes_the_sum_of_the_sockets_unknown() -> None:
    document = machine()
    (package,) = (name for name in document if name.startswith("kepler_node_package"))
    labels = document[package][0]["metric"]
    document[package] = [
        series_of({**labels, "package": str(socket), "mode": mode}, TIMES, counter(watts, TIMES))
        for socket, mode, watts in ((0, "idle", 4.0), (0, "dynamic", 9.0), (1, "idle", 4.0))
    ]
    observations = observed(document)
    assert ("rapl-sysfs", "package") not in observations.power
    assert observations.counts.idle_only == {"rapl-sysfs package": 1}


@pytest.mark.parametrize(("load", "known"), [(0.04, True), (0.5, False)])
def test_a_sum_without_busy_containers_is_unknown(load: float, known: bool) -> None:
    """If a busy container has no series of a feature, the node's value of this feature is not known."""
    document = machine(containers={**CONTAINERS, "d" * 64: load})
    lacking = "kepler_container_cpu_instructions_total"
    document[lacking] = [series for series in document[lacking] if series["metric"]["container_id"] != "d" * 64]
    observations = observed(document)
    assert np.isfinite(observations.node_features["cpu_instructions"]).any() == known
    assert np.isfinite(observations.node_features["bpf_cpu_time_ms"][1:]).all()
    assert observations.counts.incomplete["cpu_instructions"] == (0 if known else len(TIMES) - 1)
