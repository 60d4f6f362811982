"""Tests of `kepler-model serve meter` and `kepler-model meter status` as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support.command import kepler
from support.meter_process import MeterProcess, SensorMachine, running_meter
from support.paths import ROOT
from support.process import wait_for
from support.qemu_host import QemuHost, qemu
from support.server_process import free_port
from support.small_disk import fill_disk, small_disk

MIN_VALID_SECONDS = 5.0
"""Time in seconds for which the meter continues to add energy if no new reading of the power follows."""
FORBIDDEN = ("pandas", "sklearn", "matplotlib", "scipy")
"""Modules that the meter's process must not import, because they take much memory."""


@pytest.fixture
def machine(tmp_path: Path) -> SensorMachine:
    return SensorMachine(tmp_path / "machine")


def test_a_meter_publishes_until_it_is_stopped(machine: SensorMachine, tmp_path: Path) -> None:
    with running_meter(machine.root, tmp_path / "tree", "-o", "powercap", "-o", "hwmon") as meter:
        maps = Path(f"/proc/{meter.process.pid}/maps").read_text()
        wait_for(lambda: (tmp_path / "tree/class/hwmon/hwmon0/power1_input").exists(), "no power is published")
        assert (tmp_path / "tree/class/hwmon/hwmon0/power1_input").read_text() == "42000000\n"
        assert list(meter.zones()) == ["package-0"]
        shown = kepler("meter", "status", "--tree", tmp_path / "tree")
    assert "measured: hwmon" in shown.stdout
    assert "package 42.0" in " ".join(shown.stdout.split())
    assert [name for name in FORBIDDEN if f"/{name}/" in maps] == []
    left = {path.name for path in (tmp_path / "tree").rglob("*") if path.is_file()}
    assert not left & {"energy_uj", "power1_input", "status.json"}
    assert "last_energy_uj" in left
    gone = kepler("meter", "status", "--tree", tmp_path / "tree")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no meter publishes in" in gone.stderr


def test_the_benchmark_finds_the_energy_of_stepped_loads() -> None:
    """The energy counters rise by the reported watts times seconds, in total and in each time window.

    A restart of the meter adds no energy.
    """
    command = [sys.executable, ROOT / "bench" / "meter.py", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    result = json.loads(done.stdout)
    assert result["zones"] == 4
    assert result["joules"] > 100
    assert abs(result["total_error_percent"]) <= 0.5
    assert result["windows"] >= 2
    assert abs(result["worst_window_percent"]) <= 5
    assert 0 <= result["joules_added_by_kill"] < 50, "the pause of 3 s would have added at least 45 J"
    assert (result["counters_after_kill"], result["counters_after_stop"]) == (4, 0)


def test_a_second_meter_on_one_tree_is_refused(machine: SensorMachine, tmp_path: Path) -> None:
    with running_meter(machine.root, tmp_path / "tree") as meter:
        second = kepler("serve", "meter", "--root", machine.root, "--tree", tmp_path / "tree")
        assert second.returncode == 1
        assert f"another meter publishes in {tmp_path / 'tree'}" in second.stderr
        before = meter.zones()["package-0"]
        meter.wait_until(lambda: meter.zones().get("package-0", 0) > before, "the first meter has stopped")


def test_the_counter_continues_after_a_kill(machine: SensorMachine, tmp_path: Path) -> None:
    killed = MeterProcess(machine.root, tmp_path / "tree")
    killed.wait_published()
    killed.wait_until(lambda: killed.zones().get("package-0", 0) > 10_000_000, "the counter stands still")
    killed.kill()
    before = killed.zones()["package-0"]
    time.sleep(2)
    with running_meter(machine.root, tmp_path / "tree") as meter:
        # The test may read the new counter late, so the counter may have risen by 42 J per second since the new start.
        added = meter.zones()["package-0"] - before
        assert 0 <= added <= 42e6 * (time.time() - meter.status()["started"])


def test_a_process_that_was_stopped_does_not_invent_energy(machine: SensorMachine, tmp_path: Path) -> None:
    with running_meter(machine.root, tmp_path / "tree", "--interval", "0.2") as meter:
        before, begin = meter.zones()["package-0"], time.monotonic()
        os.kill(meter.process.pid, signal.SIGSTOP)
        time.sleep(MIN_VALID_SECONDS + 4)
        stopped = time.monotonic() - begin
        os.kill(meter.process.pid, signal.SIGCONT)
        meter.wait_until(lambda: meter.zones().get("package-0", 0) > before, "the counter stands still")
        time.sleep(1)
        added = (meter.zones()["package-0"] - before) / 42e6
        assert MIN_VALID_SECONDS < added < time.monotonic() - begin - stopped + MIN_VALID_SECONDS + 1


def test_a_change_of_the_source_does_not_change_the_counter(machine: SensorMachine, tmp_path: Path) -> None:
    """While the power source changes twice, the counter that Kepler reads keeps its path, and rises without a jump."""
    seen: list[int] = []
    known = tmp_path / "tree/class/powercap/kepler-core:measured:hwmon:package/energy_uj"
    with running_meter(machine.root, tmp_path / "tree", "--source", "hwmon", "--source", "formula") as meter:

        def changed_to(kind: str) -> bool:
            seen.append(int(known.read_text()))
            return bool(meter.status()["kind"] == kind)

        begin = time.monotonic()
        assert changed_to("measured")
        machine.set(0)
        meter.wait_until(lambda: changed_to("formula"), "the formula does not take over")
        meter.wait_until(lambda: changed_to("formula") and seen[-1] > seen[-2], "the counter stands still")
        assert list(meter.zones()) == ["package-0"]
        machine.set(42)
        meter.wait_until(lambda: changed_to("measured"), "the meter is not used again")
        seconds = time.monotonic() - begin
    assert seen == sorted(seen)
    # The counter did not jump: the power is 42 W from the sensor, or at most 1000 W from the formula.
    assert 0 < seen[-1] - seen[0] < 1000e6 * (seconds + 1)
    assert meter.log.count("power source kepler-core:") == 3


def test_without_a_source_there_is_no_value_and_then_a_value_again(machine: SensorMachine, tmp_path: Path) -> None:
    with running_meter(machine.root, tmp_path / "tree", "--source", "hwmon") as meter:
        machine.set(0)
        meter.wait_until(lambda: not meter.zones(), "the value stays although the sensor does not measure")
        shown = kepler("meter", "status", "--tree", tmp_path / "tree")
        assert "no estimate: hwmon: " in shown.stdout
        machine.set(50)
        meter.wait_published()
        meter.wait_until(lambda: bool(meter.status()["power"]), "no status")
        assert meter.status()["power"]["package"]["watts"] == 50.0
    assert meter.log.count("no estimate") == 1


def test_a_full_disk_is_logged_once_and_then_the_counter_continues(machine: SensorMachine, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "128k"), running_meter(machine.root, tmp_path / "disk" / "tree") as meter:
        fill_disk(tmp_path / "disk" / "filler")
        meter.wait_until(lambda: not meter.zones(), "a frozen counter stays")
        time.sleep(1.5)
        (tmp_path / "disk" / "filler").unlink()
        meter.wait_published()
        meter.wait_until(lambda: "output powercap works again" in meter.log, "the recovery is not logged")
        assert meter.log.count("output powercap fails") == 1
        assert "No space left on device" in meter.log


def test_the_trees_of_six_guests_add_up_to_the_host_and_a_meter_in_a_guest_reads_its_tree(tmp_path: Path) -> None:
    machine = SensorMachine(tmp_path / "machine", watts=200.0, proc=False)
    host = QemuHost(machine.root)
    for pid in range(1, 7):
        host.start(pid, *qemu(f"vm-{pid}", pid))
    trees = tmp_path / "guests"
    (tmp_path / "guest").mkdir()
    with running_meter(machine.root, tmp_path / "tree", "--per-vm", trees) as meter:
        meter.wait_until(lambda: (trees / "vm-6/class/powercap/intel-rapl:0/energy_uj").exists(), "no trees")
        options = ("--source", "provided", "--provided-tree", trees / "vm-6" / "class" / "powercap")
        with running_meter(tmp_path / "guest", tmp_path / "guest-tree", *options) as guest:
            guest.wait_until(lambda: guest.zones()["package-0"] > 300e6, "the meter in the guest stands still")
            watts = guest.status()["power"]["package"]["watts"]
            assert watts == pytest.approx(200.0 * 6 / 21, rel=0.1), "6 of 21 virtual CPUs"
        host.end(2)
        meter.wait_until(lambda: not (trees / "vm-2/class/powercap/intel-rapl:0/energy_uj").exists(), "vm-2 stays")
    counters = [int(file.read_text()) for file in trees.rglob("last_energy_uj")]
    (total,) = [int(file.read_text()) for file in (tmp_path / "tree").rglob("last_energy_uj")]
    assert len(counters) == 6
    assert sum(counters) == pytest.approx(total, rel=0.01)


def test_settings_come_from_the_configuration(machine: SensorMachine, tmp_path: Path) -> None:
    port = free_port()
    keys = {
        "METER_METRICS_PORT": str(port), "METER_ZONE": "psys", "METER_WATTS_FILE": str(tmp_path / "watts"),
        "METER_KEPLER_NAMES": "true", "METER_SOURCES": "hwmon", "METER_SCAPHANDRE": "true",
    }  # fmt: skip
    with running_meter(machine.root, tmp_path / "tree", environ=keys) as meter:
        assert list(meter.zones()) == ["psys"]
        assert (tmp_path / "tree/class/powercap/intel-rapl:1/energy_uj").exists()
        assert (tmp_path / "watts").read_text().startswith("42.000\n")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    assert 'kepler_meter_watts{component="platform"} 42.0' in text
    assert 'zone="psys"' in text
    assert not (tmp_path / "watts").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--output", "powrcap"), 1, "unknown output 'powrcap'; did you mean powercap?"),
        (("--output", "watts"), 2, "the output watts needs a file: give --watts-file"),
        (("--output", "per-vm"), 2, "the output per-vm needs a folder: give --per-vm"),
        (("--source", "powrcap"), 2, "unknown power source 'powrcap'; did you mean powercap?"),
        (("--zone", "dram"), 2, "'dram' is not one of 'package', 'psys'"),
        (("--interval", "0"), 2, "0 is not in the range 0.1<=x<=60"),
        (("--idle-watts", "pakage=3"), 2, "unknown component 'pakage'; did you mean package?"),
        (("--tree", "/proc/tree"), 1, "cannot write /proc/tree/class/powercap: "),
        (("--tree", "/sys"), 1, "cannot write /sys/class/powercap: "),
        (("--metrics-port", "99999"), 2, "99999 is not in the range 0<=x<=65535"),
    ],
)
def test_wrong_settings_are_one_line(
    machine: SensorMachine, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = kepler("serve", "meter", "--root", machine.root, "--tree", tmp_path / "tree", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert list(tmp_path.rglob("energy_uj")) == []


def test_an_invalid_status_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"pid": "x"}')
    done = kepler("meter", "status", "--tree", tmp_path)
    assert done.returncode == 1
    assert "status.json is not the status of a meter: " in done.stderr
