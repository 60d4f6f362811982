"""Labels, old metric names, and the levels container, process and virtual machine."""

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


def test_the_old_source_rapl_is_rapl_sysfs() -> None:
    document = machine()
    for all_series in document.values():
        for series in all_series:
            if series["metric"].get("source") == "rapl-sysfs":
                series["metric"]["source"] = "rapl"
    assert_same(observed(document), observed(machine()))


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
        "incomplete": {"cache_miss": 1},  # where the first series lacks a sample and the third has ended
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
