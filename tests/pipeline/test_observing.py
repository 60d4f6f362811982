"""Tests of the observations for a pipeline, from recordings under load and recordings of an idle machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kepler_core.errors import RecordingError
from kepler_core.pipeline.observing import observe_for, read_for
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.strict import WrongFieldError
from kepler_profiler.profile.build import build_profile

START = 1_700_000_000.0
STEP = 10.0
NODE_WATTS = 100.0
VM_WATTS = 7.0


def counter(rate: float, **labels: str) -> dict[str, Any]:
    """Return a Prometheus series of a counter that grows by `rate` per second."""
    values = [[START + STEP * k, repr(1000.0 + rate * STEP * k)] for k in range(60)]
    return {"metric": {"instance": "node-a", "job": "kepler", **labels}, "values": values}


@pytest.fixture
def idle_vm() -> dict[str, Any]:
    """Recording of a node that draws 100 W. An idle virtual machine on the node draws 7 W of these 100 W."""
    process = {"job": "vm", "pid": "1", "vm_id": "vm-1"}
    return {
        "kepler_node_package_joules_total": [counter(NODE_WATTS, source="rapl-sysfs", package="0", mode="dynamic")],
        "kepler_vm_package_joules_total": [
            counter(VM_WATTS - 3.0, **process, mode="idle"),
            counter(3.0, **process, mode="dynamic"),
        ],
        "kepler_process_bpf_cpu_time_ms_total": [counter(1.0, **process)],
        "gpu_ops_total": [counter(42.0)],
    }


def spec(**keys: Any) -> PipelineSpec:
    return PipelineSpec("p", **keys)


def test_the_profile_of_a_vm_holds_the_power_of_the_vm(idle_vm: dict[str, Any]) -> None:
    of_vm = spec(use_vm_metrics=True)
    profile = build_profile(None, observe_for(of_vm, [read_for(of_vm, idle_vm)]))
    assert profile.power["rapl-sysfs"]["package"].idle == pytest.approx(VM_WATTS)


def test_without_vm_metrics_the_power_is_that_of_the_node(idle_vm: dict[str, Any]) -> None:
    observations = observe_for(spec(), [read_for(spec(), idle_vm)])
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], NODE_WATTS)


def test_third_party_metrics_are_read_and_observed(idle_vm: dict[str, Any]) -> None:
    named = spec(third_party=["gpu_ops_total"])
    observations = observe_for(named, [read_for(named, idle_vm)])
    np.testing.assert_allclose(observations.node_features["gpu_ops_total"][1:], 42.0)
    assert "gpu_ops_total" not in observe_for(spec(), [read_for(spec(), idle_vm)]).features


def test_the_name_of_a_recording_is_in_its_errors() -> None:
    with pytest.raises(RecordingError, match=r"^Monday: "):
        read_for(spec(), b"[]", name="Monday")


def test_a_pipeline_joins_the_guests_that_it_names(idle_vm: dict[str, Any]) -> None:
    for name, all_series in idle_vm.items():
        for series in all_series:
            if "process" in name:
                series["metric"].update(instance="guest:9100", job="guests")
    joined = spec(use_vm_metrics=True, vm_guests={"guest:9100": "vm-1"})
    observations = observe_for(joined, [read_for(joined, idle_vm)])
    assert [stream.node for stream in observations.streams] == ["guest:9100"]
    np.testing.assert_allclose(observations.power["rapl-sysfs", "package"][1:], VM_WATTS)
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"][1:], 1.0)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"vm_guests": {"guest": "vm-1"}}, "needs use_vm_metrics"),
        ({"use_vm_metrics": True, "vm_guests": {"a": "vm-1", "b": "vm-1"}}, "belongs to two guests"),
        ({"use_vm_metrics": True, "vm_guests": {"a": ""}}, "is empty"),
    ],
)
def test_wrong_guests_are_rejected(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(WrongFieldError, match=problem):
        spec(**keys)
