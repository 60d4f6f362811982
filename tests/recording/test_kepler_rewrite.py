"""Tests of the observations in recordings of Kepler 0.10 and later, including recordings that are hard to read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kepler_core.arrays import FloatArray
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import CORES_PER_SOCKET, Simulation, recording, true_power

Content = dict[str, list[dict[str, Any]]]
RAPL = ("package", "core", "uncore", "dram")


def content_of(exporter: str = "kepler-0.10", **about: Any) -> Content:
    about = {"timestamps": 300, "containers": 8, "sockets": 1, "seed": 3, **about}
    return recording(Simulation(exporter=exporter, **about))


def observed(content: Content) -> Observations:
    return observe([read_recording(content, name="recording")])


def law(observations: Observations, source: str, component: str, sockets: int) -> FloatArray:
    """Fit the curve a + b·u + c·u^0.8 to a recording, where u is the busy fraction of the CPUs.

    Returns the curve's watts at 0, 10, 50 and 90 % busy CPUs.
    """
    u = observations.node_features["bpf_cpu_time_ms"] / (1000 * CORES_PER_SOCKET * sockets)
    watts = observations.power[source, component]
    known = np.isfinite(u) & np.isfinite(watts)
    assert np.count_nonzero(known) > 0.95 * len(u)
    at = np.array([0.0, 0.1, 0.5, 0.9])
    weights = np.linalg.lstsq(np.column_stack([np.ones(known.sum()), u[known], u[known] ** 0.8]), watts[known])[0]
    return np.column_stack([np.ones(4), at, at**0.8]) @ weights


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("sockets", "step"), [(1, 3), (2, 5)])
def test_the_power_of_a_machine_is_the_same_as_with_kepler_07(sockets: int, step: int, seed: int) -> None:
    about = {"sockets": sockets, "step": step, "seed": seed}
    old, new = observed(content_of("kepler-0.7", **about)), observed(content_of(**about))
    assert new.schemas == ("kepler-0.10",)
    assert new.features == ("bpf_cpu_time_ms",)
    for component in RAPL:
        expected = law(old, "rapl-sysfs", component, sockets)
        np.testing.assert_allclose(law(new, "rapl-sysfs", component, sockets), expected, rtol=0.01)
    platform = law(old, "acpi", "platform", sockets)
    np.testing.assert_allclose(law(new, "redfish", "platform", sockets), platform, rtol=0.01)


def test_the_power_law_comes_back_within_one_per_cent() -> None:
    new = observed(content_of(sockets=2, timestamps=600, noise=0.005))
    at = np.array([0.1, 0.5, 0.9])
    truth = true_power(at, np.zeros(3), 2)
    # The recorded package power also has 4 W for each 10^9 cache misses per second, which `truth` leaves out. In this
    # recording, this part is at most 1.5 W, and roughly proportional to CPU time.
    np.testing.assert_allclose(law(new, "rapl-sysfs", "package", 2)[1:], truth["package"], rtol=0.01)


def test_the_register_is_used_across_its_wraps_where_active_and_idle_energy_are_missing() -> None:
    content = content_of(timestamps=1500, step=5)
    for part in ("active", "idle"):
        del content[f"kepler_node_cpu_{part}_joules_total"]
    whole = observed(content_of(timestamps=1500, step=5))
    registers = observed(content)
    values = [float(v) for _, v in content["kepler_node_cpu_joules_total"][0]["values"]]
    assert np.count_nonzero(np.diff(values) < 0) > 0  # the energy register overflows in the recording
    assert registers.counts.of("wraps")["kepler_node_cpu_joules_total"] > 0
    key = ("rapl-sysfs", "package")
    assert np.isfinite(registers.power[key][1:]).all()
    np.testing.assert_allclose(registers.power[key][2:], whole.power[key][2:], rtol=1e-3)


def test_overlapping_zones_and_levels_are_not_added() -> None:
    new = observed(content_of())
    package = float(np.nanmean(new.power["rapl-sysfs", "package"]))
    old = observed(content_of("kepler-0.7"))
    assert package == pytest.approx(float(np.nanmean(old.power["rapl-sysfs", "package"])), rel=0.01)
    assert {component for _, component in new.power} == {*RAPL, "platform"}


def test_a_changed_path_of_the_meter_is_the_same_meter() -> None:
    content = content_of(resets=0)
    for metric in [
        name for name in content if name.startswith("kepler_node_cpu_") and "zone" in content[name][0]["metric"]
    ]:
        for series in list(content[metric]):
            half = len(series["values"]) // 2
            later = {"metric": {**series["metric"], "path": "aggregated-zone"}, "values": series["values"][half:]}
            series["values"] = series["values"][:half]
            content[metric].append(later)
    changed, same = observed(content), observed(content_of(resets=0))
    assert [stream.node for stream in changed.streams] == ["node-0"]
    key = ("rapl-sysfs", "package")
    known = np.isfinite(changed.power[key])
    assert np.count_nonzero(~known) <= 2  # the very first sample, and the first with the new path
    np.testing.assert_allclose(changed.power[key][known], same.power[key][known], rtol=1e-6)


def test_processes_are_added_up_to_containers() -> None:
    old, new = observed(content_of("kepler-0.7", churn=0.0)), observed(content_of(churn=0.0))
    # the last container is a virtual machine, whose process runs in no container
    assert len(new.containers) == len(old.containers)
    assert "system_processes" in new.containers
    first = new.containers.index(old.containers[0])
    of_old = old.container_features["bpf_cpu_time_ms"][old.row_container == 0]
    of_new = new.container_features["bpf_cpu_time_ms"][new.row_container == first]
    known = np.isfinite(of_old) & np.isfinite(of_new)
    assert np.nanmean(of_new[known]) == pytest.approx(np.nanmean(of_old[known]), rel=0.01)


@pytest.mark.parametrize("level", ["process", "container", "vm", "pod"])
def test_energy_of_workloads_falls_to_zero_and_is_shown_after_their_end(level: str) -> None:
    content = content_of(churn=0.9, timestamps=400)
    series = content[f"kepler_{level}_cpu_joules_total"]
    values = [[float(value) for _, value in one["values"]] for one in series]
    assert any(a > 0 and b == 0 for one in values for a, b in pairwise(one))
    if level != "vm":  # no virtual machine ends in this recording, so its state is always "running"
        assert {one["metric"]["state"] for one in series} == {"running", "terminated"}
    assert all("state" not in one["metric"] for one in content["kepler_process_cpu_seconds_total"])


def test_a_missing_level_is_no_error() -> None:
    content = {name: series for name, series in content_of().items() if "_process_" not in name}
    new = observed(content)
    assert new.features == ()
    assert set(new.sources) == {"rapl-sysfs", "redfish"}
