"""Tests that the power of a virtual machine is computed from the recording of its host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.simulated_host import CPUS, IDLE_WATTS, VM_ID, SimulatedHost

from kepler_core import kepler_names as names
from kepler_core.errors import RecordingError
from kepler_core.pairs.host import HostWindows, Reservation, read_host
from kepler_core.recording import read_recording

Content = dict[str, list[dict[str, Any]]]


def read(content: Content, target: Any = "kepler", **options: Any) -> HostWindows:
    return read_host(read_recording(content, name="host.json"), VM_ID, target, **options)


def test_joules_give_the_watts_that_kepler_reports() -> None:
    host = SimulatedHost()
    windows = read(host.recording())
    assert windows.watts["package"] == pytest.approx(host.kepler_watts()[1:], abs=1e-4)
    assert windows.watts["core"] == pytest.approx(host.kepler_watts("core")[1:], abs=1e-4)
    assert names.VM_JOULES in windows.basis
    assert windows.repeats == 0


def test_the_lag_of_releases_is_repaired() -> None:
    host = SimulatedHost(lag=True)
    windows = read(host.recording())
    assert windows.watts["package"] == pytest.approx(host.kepler_watts()[1:-1], abs=1e-4)
    assert "lags" in windows.notes[0]
    # Without the CPU seconds of processes, the lag cannot be repaired: the watts belong to another time window.
    content = host.recording()
    del content[names.PROCESS_SECONDS]
    reported = read(content).watts["package"]
    assert np.abs(reported - host.kepler_watts()[1:]).max() > 1.0


def test_repeated_readings_are_one_window() -> None:
    host = SimulatedHost(repeat=2)
    # If the recording has watts but no joules, the first time window is left out: its beginning is not known.
    for content, first in ((host.recording(), 1), ({names.VM_WATTS: host.recording()[names.VM_WATTS]}, 2)):
        windows = read(content)
        assert windows.watts["package"] == pytest.approx(host.kepler_watts()[first:], abs=1e-4)
        assert windows.end - windows.start == pytest.approx(2.0)
        assert windows.repeats == pytest.approx(0.5, abs=0.01)


def test_watts_are_used_only_without_joules_and_with_a_caveat() -> None:
    content = SimulatedHost().recording()
    assert read(content).notes == ()
    del content[names.VM_JOULES]
    windows = read(content)
    assert names.VM_WATTS in windows.basis
    assert "covers only Kepler's last window" in windows.notes[0]
    with pytest.raises(RecordingError, match=names.NODE_JOULES):
        read({names.VM_WATTS: content[names.VM_WATTS]}, "capacity")


def test_windows_without_active_energy_are_left_out() -> None:
    host = SimulatedHost()
    content = host.recording()
    for series in content[names.VM_JOULES]:
        fallen = float(series["values"][50][1])
        for at in range(50, len(series["values"])):
            series["values"][at][1] = f"{float(series['values'][at][1]) - fallen:.6f}"
    windows = read(content)
    expected = np.delete(host.kepler_watts()[1:], 49)
    assert windows.watts["package"] == pytest.approx(expected, abs=1e-4)
    assert windows.left_out == {"a counter fell or is missing": 1}


def test_capacity_is_the_part_of_all_cpu_time() -> None:
    host = SimulatedHost()
    values = host.windows()
    expected = values["package"] * values["vm"] / (CPUS * 2.0 * 2.0)
    assert read(host.recording(), "capacity").watts["package"] == pytest.approx(expected[1:], abs=1e-4)


def test_a_raw_counter_that_falls_back_leaves_its_windows_out() -> None:
    host = SimulatedHost(wrap=1000.0)
    content = host.recording()
    del content[names.NODE_IDLE_JOULES]
    windows = read(content, "capacity")
    values = host.windows()
    expected = dict(zip(values["end"], values["package"] * values["vm"] / (CPUS * 4.0), strict=True))
    assert 0 < len(windows.end) < len(values["end"]) - 1
    known = np.isfinite(windows.watts["package"])
    for end, watts in zip(windows.end[known], windows.watts["package"][known], strict=True):
        assert watts == pytest.approx(expected[round(end - 1_757_512_960.0, 3)], abs=1e-4)


def test_marginal_is_work_above_idle_and_reserved_idle() -> None:
    host = SimulatedHost()
    values = host.windows()
    watts = read(host.recording(), "marginal", reservation=Reservation(IDLE_WATTS, 0.5)).watts["package"]
    expected = 5.0 * values["vm"] / 2.0 + 0.5 * IDLE_WATTS["package"]
    assert watts == pytest.approx(expected[1:], abs=1e-3)


def test_terminated_machines_and_other_hosts_do_not_count() -> None:
    content = SimulatedHost().recording()
    expected = {target: read(content, target).watts["package"] for target in ("kepler", "capacity")}
    for series in list(content[names.VM_JOULES]):
        terminated = {**series["metric"], "state": "terminated"}
        rising = [[time, str(500.0 * number)] for number, (time, _) in enumerate(series["values"])]
        content[names.VM_JOULES].append({"metric": terminated, "values": rising})
    for metric, all_series in SimulatedHost(seed=3).recording().items():
        for series in all_series:
            other = {**series["metric"], "instance": "host-2:28282"}
            if "node_name" in other:
                other["node_name"] = "host-2"
            if other.get("vm_id"):
                other.update(vm_id="another", vm_name="vm-z")
            content[metric].append({**series, "metric": other})
    for target, watts in expected.items():
        assert read(content, target).watts["package"] == pytest.approx(watts)


def test_unknown_machines_are_named_with_the_known_ones() -> None:
    recording = read_recording(SimulatedHost().recording(), name="host.json")
    for unknown in ("vm-b", ""):
        with pytest.raises(RecordingError, match=f"no virtual machine '{unknown}'.*vm-a"):
            read_host(recording, unknown, "kepler")
    assert read_host(recording, "vm-a", "kepler").vm == VM_ID
