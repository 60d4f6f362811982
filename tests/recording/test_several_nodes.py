"""Test observations from several nodes and from several recordings."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from support.exporter_documents import (
    NODE_A,
    NODE_B,
    TIMES,
    later,
    machine,
    merged,
    observed,
    rates_by_container,
    variation,
)

from kepler_core.errors import RecordingError
from kepler_core.recording import observe, read_recording


def test_nodes_are_observed_separately() -> None:
    first, second = machine("node-a", containers=NODE_A), machine("node-b", containers=NODE_B, load=10.0)
    observations = observed(merged(first, second))
    assert [stream.node for stream in observations.streams] == ["node-a", "node-b"]
    alone, other = observed(first), observed(second)
    for code, expected in enumerate((alone, other)):
        of_node = observations.sample_stream == code
        np.testing.assert_array_equal(observations.sample_time[of_node], TIMES)
        for key, watts in expected.power.items():
            np.testing.assert_array_equal(observations.power[key][of_node], watts)
        for feature, rates in expected.node_features.items():
            np.testing.assert_array_equal(observations.node_features[feature][of_node], rates)
    rates = rates_by_container(observations, "cpu_instructions")
    assert rates == rates_by_container(alone, "cpu_instructions") | rates_by_container(other, "cpu_instructions")


@pytest.mark.parametrize("name", ["system", "system_processes", "kernel_processes"])
def test_units_that_every_node_has_do_not_merge_nodes(name: str) -> None:
    # On every node, Kepler uses the container id "system_processes" for processes that run outside of containers.
    first = machine("node-a", containers={"a" * 64: 1.0, name: 0.5})
    second = machine("node-b", containers={"b" * 64: 2.0, name: 0.7})
    observations = observed(merged(first, second))
    assert len(observations.streams) == 2
    assert observations.counts.as_dict() == {"dynamic_only": {"rapl-sysfs dram": 4}}
    np.testing.assert_allclose(
        observations.node_features["bpf_cpu_time_ms"][observations.sample_stream == 1][1:], 2.7 * variation(TIMES)[1:]
    )


def test_nodes_with_different_scrape_intervals_have_no_gaps() -> None:
    document = machine("node-a", containers=NODE_A)
    slow = machine("node-b", containers=NODE_B)
    for all_series in slow.values():
        for series in all_series:
            series["values"] = [[time + 60 * at, value] for at, (time, value) in enumerate(series["values"])]
    observations = observe([read_recording(merged(document, slow))])
    assert not +observations.counts.gaps
    for code in (0, 1):
        assert np.isfinite(observations.power["acpi", "platform"][observations.sample_stream == code])[1:].all()


def test_two_recordings_of_one_node_at_the_same_time_are_rejected() -> None:
    first, second = read_recording(machine(), name="Monday"), read_recording(later(machine(), 3), name="copy")
    with pytest.raises(RecordingError, match="Monday and copy both hold node 'node-a' at the same time"):
        observe([first, second])


def test_timestamps_in_milliseconds_are_rejected() -> None:
    document = machine()
    for all_series in document.values():
        for series in all_series:
            series["values"] = [[time * 1000, value] for time, value in series["values"]]
    with pytest.raises(RecordingError, match="not in Unix seconds \\(milliseconds"):
        read_recording(document)


def test_recordings_are_observed_separately() -> None:
    first = read_recording(machine(), name="Monday")
    second = read_recording(later(machine(load=2.0)), name="Tuesday")
    observations = observe([first, second])
    assert [(stream.recording, stream.node) for stream in observations.streams] == [
        ("Monday", "node-a"),
        ("Tuesday", "node-a"),
    ]
    factor = variation(TIMES)[1:]
    for code, load in enumerate((1.0, 2.0)):
        watts = observations.power["acpi", "platform"][observations.sample_stream == code]
        np.testing.assert_allclose(watts[1:], 120.0 * load * factor, rtol=1e-9)
    assert np.all(np.diff(observations.row_sample) >= 0)


def test_metrics_that_one_of_two_recordings_lacks_are_unknown_there() -> None:
    first, second = machine(), machine(load=2.0)
    del first["kepler_node_dram_joules_total"]
    del second["kepler_container_cache_miss_total"]
    observations = observe([read_recording(first, name="Monday"), read_recording(later(second), name="Tuesday")])
    assert np.isnan(observations.power["rapl-sysfs", "dram"][observations.sample_stream == 0]).all()
    assert np.isfinite(observations.power["rapl-sysfs", "dram"][observations.sample_stream == 1])[1:].all()
    assert np.isnan(observations.node_features["cache_miss"][observations.sample_stream == 1]).all()


def test_a_recording_given_twice_is_rejected() -> None:
    with pytest.raises(RecordingError, match="Monday: the recording is given twice"):
        observe([read_recording(machine(), name="Monday"), read_recording(machine(load=2), name="Monday")])
    with pytest.raises(RecordingError, match="Monday and Tuesday hold the same data"):
        observe([read_recording(machine(), name="Monday"), read_recording(machine(), name="Tuesday")])
    with pytest.raises(RecordingError):
        observe([])


def test_recordings_of_one_timestamp_have_no_rates() -> None:
    recordings = [read_recording(machine(times=TIMES[at : at + 1]), name=str(at)) for at in range(2)]
    observations = observe(recordings)
    assert len(observations.sample_time) == 2
    assert np.isnan(observations.step)
    assert observations.sources == {}


def test_nodes_without_a_common_timestamp_need_little_memory() -> None:
    """A recording of 5,000 nodes with 10,000 different timestamps is read without an array of nodes × timestamps.

    Such an array would have 50 million cells for only 20,000 values.
    """
    code = """
from pathlib import Path
from kepler_core.recording import observe, read_recording

def series(labels):
    return [
        {"metric": {"instance": f"node-{n}", **labels}, "values": [[n / 100, "0"], [n / 100 + 3, str(n + 1)]]}
        for n in range(5000)
    ]

content = {
    "kepler_node_package_joules_total": series({"source": "rapl-sysfs", "package": "0", "mode": "dynamic"}),
    "kepler_container_cpu_cycles_total": series({"container_id": "c"}),
}
print(len(observe([read_recording(content)]).sample_time))
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_samples, peak_kib = map(int, done.stdout.split())
    assert n_samples == 10_000
    assert peak_kib < 300 * 1024


def test_one_container_on_thousands_of_nodes_is_one_machine() -> None:
    """Series with 3,000 node labels contain the same container, so they are from one machine.

    Only the label with the most samples becomes a node.
    """
    document = {
        "kepler_container_cpu_cycles_total": [
            {
                "metric": {"instance": f"node-{n}", "container_id": "0123456789ab"},
                "values": [[3 * k, str(k)] for k in at],
            }
            for n in range(3000)
            for at in [range(4 if n == 1000 else 3)]
        ]
    }
    observations = observed(document)
    assert [stream.node for stream in observations.streams] == ["node-1000"]
    assert len(observations.counts.duplicate_nodes) == 2999
