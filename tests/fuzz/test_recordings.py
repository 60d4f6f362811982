"""Fuzz recordings: each recording becomes observations, or is rejected with a one-line `RecordingError`."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz
from support.server_process import check_one_line

from kepler_core.errors import RecordingError
from kepler_core.recording import check, observe, read_recording

METRICS = (
    "kepler_container_bpf_cpu_time_ms_total", "kepler_container_cpu_cycles_total", "kepler_process_cpu_cycles_total",
    "kepler_node_package_joules_total", "kepler_node_platform_joules_total", "kepler_node_info",
    "kepler_container_gpu_joules_total", "kepler_vm_package_joules_total", "node_load1", "",
)  # fmt: skip
LABELS = {
    "instance": ("a", "b", "a:9102", "", "\0", "x" * 300),
    "exported_instance": ("a", "c"),
    "container_id": ("system_processes", "0123456789ab", "ba9876543210", ""),
    "container_name": ("one", "two"),
    "source": ("rapl-sysfs", "acpi", "intel_rapl", "unknown", ""),
    "mode": ("dynamic", "idle", "odd"),
    "package": ("0", "1"),
    "job": ("vm", "kepler"),
    "pid": ("1", "2"),
}

numbers = st.one_of(
    st.integers(0, 1000),
    st.floats(allow_nan=True),
    st.sampled_from([0.0, -1.0, 2.0**53, 2.0**64, 1.7e308, -1.7e308, 5e-324, float("inf"), 10**30, 10**400]),
)
values = st.one_of(
    numbers.map(str), numbers, st.none(), st.sampled_from(["NaN", "+Inf", "1_0", " 1 ", "٣", "", "1" * 500])
)
times = st.integers(0, 30).map(lambda step: 1_700_000_000 + 3 * step) | st.floats(0, 1e11) | numbers
labels = st.fixed_dictionaries({}, optional={name: st.sampled_from(words) for name, words in LABELS.items()})
samples = st.lists(st.tuples(times, values), max_size=12) | st.lists(
    st.tuples(st.integers(0, 40).map(lambda step: 1_700_000_000 + 3 * step), st.integers(0, 10**6).map(str)),
    max_size=40,
)
series = st.fixed_dictionaries({"metric": labels, "values": samples})
contents = st.dictionaries(st.sampled_from(METRICS) | st.text(max_size=5), st.lists(series, max_size=6), max_size=5)


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


def answer(content: dict[str, Any]) -> bytes:
    """Return a recording in the format of a single answer of Prometheus' HTTP API."""
    result = [{**item, "metric": {"__name__": name, **item["metric"]}} for name, all in content.items() for item in all]
    return encoded({"status": "success", "data": {"resultType": "matrix", "result": result}})


documents = contents.map(encoded) | contents.map(answer)


def check_recording(content: bytes) -> None:
    """Check that a recording is rejected with a one-line error, or gives rates and power without infinite values."""
    try:
        recording = read_recording(content, name="Monday")
        for metric in recording.metrics.values():
            assert np.isfinite(metric.values).all()
        observations = observe([recording], third_party=["node_load1"])
    except RecordingError as error:
        check_one_line(error, longest=2000)
        return
    columns = [*observations.container_features.values(), *observations.node_features.values()]
    for column in (*columns, *observations.power.values()):
        assert not np.isinf(column).any()
    assert (np.diff(observations.row_sample) >= 0).all()
    check(recording).as_dict()


def test_valid_recordings_of_odd_content() -> None:
    fuzz(documents, check_recording)


def test_damaged_recordings() -> None:
    packed = documents.map(lambda content: gzip.compress(content, mtime=0))
    fuzz(damaged(documents) | damaged(packed) | st.binary(max_size=100), check_recording)
