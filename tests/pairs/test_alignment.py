"""Tests that the offset between the clocks of a guest and its host is found."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
from support.simulated_host import VM_ID, SimulatedHost

from kepler_core.pairs.alignment import AlignmentError, align
from kepler_core.pairs.guest import GuestUsage, guest_of_table
from kepler_core.pairs.host import HostWindows, read_host
from kepler_core.recording import read_recording
from kepler_core.tables.table import read_table


def both(host: SimulatedHost, folder: Path) -> tuple[HostWindows, GuestUsage]:
    path = folder / "guest.csv"
    path.write_text(host.guest_csv())
    guest = guest_of_table(read_table(str(path), {}, (), needs_power=False), None)
    return read_host(read_recording(host.recording(), name="host.json"), VM_ID, "kepler"), guest


@pytest.mark.parametrize("offset", [-3.3, 0.0, 2.7, 11.0])
def test_the_offset_is_found(offset: float, tmp_path: Path) -> None:
    alignment = align(*both(SimulatedHost(offset=offset), tmp_path))
    assert alignment.offset == pytest.approx(offset, abs=0.15)
    assert alignment.lower - 0.15 <= offset <= alignment.upper + 0.15
    assert alignment.upper - alignment.lower < 1.0
    assert ("behind" if offset < 0 else "ahead of") in str(alignment)


def test_the_same_offset_is_found_in_repeated_watts(tmp_path: Path) -> None:
    alignment = align(*both(SimulatedHost(offset=2.7, repeat=2), tmp_path))
    assert alignment.offset == pytest.approx(2.7, abs=0.15)


def test_a_constant_load_has_no_offset(tmp_path: Path) -> None:
    windows, guest = both(SimulatedHost(), tmp_path)
    still = attrs.evolve(guest, features={"bpf_cpu_time_ms": np.full(len(guest.time), 700.0)})
    with pytest.raises(AlignmentError, match="constant"):
        align(windows, still)


def test_another_machine_has_no_offset(tmp_path: Path) -> None:
    windows, _ = both(SimulatedHost(), tmp_path)
    _, other = both(SimulatedHost(seed=5), tmp_path)
    with pytest.raises(AlignmentError, match="do not follow"):
        align(windows, other)


def test_a_load_that_repeats_has_several_offsets(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match="two offsets fit nearly equally well"):
        align(*both(SimulatedHost(period=10.0), tmp_path))


def test_recordings_of_different_times_are_named_as_such(tmp_path: Path) -> None:
    windows, guest = both(SimulatedHost(), tmp_path)
    with pytest.raises(AlignmentError, match=r"33\d\d s apart"):
        align(windows, attrs.evolve(guest, time=guest.time + 3600))


def test_an_offset_at_the_end_of_the_range_is_refused(tmp_path: Path) -> None:
    windows, guest = both(SimulatedHost(offset=8.0), tmp_path)
    assert align(windows, guest, 10.0).offset == pytest.approx(8.0, abs=0.15)
    with pytest.raises(AlignmentError, match=r"do not follow|end of the searched range"):
        align(windows, guest, 7.9)


def test_means_follow_windows_and_know_their_gaps() -> None:
    time = np.arange(10.0)
    load = np.arange(10.0) * 100
    guest = GuestUsage("g", time, {"bpf_cpu_time_ms": load})
    start, end = np.array([1.0, 1.5, 7.0, -3.0]), np.array([3.0, 2.5, 9.0, 0.5])
    assert guest.means("bpf_cpu_time_ms", start, end) == pytest.approx([250.0, 250.0, 850.0, np.nan], nan_ok=True)
    gap = GuestUsage("g", np.concatenate([time[:5], time[5:] + 60]), {"bpf_cpu_time_ms": load})
    means = gap.means("bpf_cpu_time_ms", np.array([1.0, 4.5, 66.0]), np.array([3.0, 5.5, 68.0]))
    assert means == pytest.approx([250.0, np.nan, 750.0], nan_ok=True)
