"""Tests of the output `powercap`: the files that Kepler, node_exporter and Scaphandre read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from support.readings import FORMULA, MEASURED, files_below, reading, zones_of
from support.small_disk import fill_disk, make_read_only, small_disk

from kepler_core.errors import OutputError
from kepler_core.plugins.registry import outputs
from kepler_plugins.outputs.powercap import PowercapOutput

CURRENT = "class/powercap/kepler-core:formula:machine-formula@1:package"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[PowercapOutput]:
    opened = PowercapOutput(str(tmp_path))
    opened.open()
    yield opened
    opened.close()


def test_a_zone_has_the_files_that_kepler_reads(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 0.0})
    files = files_below(tmp_path)
    assert files.pop(f"{CURRENT}/provenance").startswith("kind: formula\nname: machine-formula\nversion: 1\n")
    assert files == {
        f"{CURRENT}/name": "package-0\n",
        f"{CURRENT}/max_energy_range_uj": "0\n",
        f"{CURRENT}/energy_uj": "1\n",
    }
    assert os.stat(tmp_path / CURRENT / "energy_uj").st_mode & 0o444 == 0o444


def test_counters_are_replaced_and_not_truncated(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 1.0})
    energy = tmp_path / CURRENT / "energy_uj"
    with energy.open() as opened:
        before = energy.stat().st_ino
        output.advance({"package": 1.5})
        assert opened.read() == "1000000\n"
    assert energy.read_text() == "1500000\n"
    assert energy.stat().st_ino != before
    output.advance({"package": 1.25})
    assert energy.read_text() == "1500000\n", "a counter never falls"


def test_all_components_are_zones(tmp_path: Path, output: PowercapOutput) -> None:
    joules = {"package": 1.0, "core": 2.0, "uncore": 3.0, "dram": 4.0, "platform": 5.0}
    output.write(reading(package=40.0, core=20.0, uncore=2.0, dram=5.0, platform=90.0), joules)
    assert zones_of(tmp_path) == {
        "package-0": 1_000_000, "core": 2_000_000, "uncore": 3_000_000, "dram": 4_000_000, "psys": 5_000_000
    }  # fmt: skip


def test_without_an_estimate_there_is_no_counter(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 1.0})
    output.withdraw("the meter is broken")
    output.advance({"package": 9.0})
    assert not (tmp_path / CURRENT / "energy_uj").exists()
    assert (tmp_path / CURRENT / "name").exists(), "Kepler can start and find the zone"
    output.write(reading(package=42.0), {"package": 1.0})
    assert zones_of(tmp_path) == {"package-0": 1_000_000}
    assert not (tmp_path / CURRENT / "last_energy_uj").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_the_next_process_continues_the_counter(tmp_path: Path, killed: bool) -> None:
    first = PowercapOutput(str(tmp_path))
    first.open()
    first.write(reading(package=42.0), {"package": 123_456_789.123457})
    if killed:
        first._lock.release()  # the kernel releases the lock of a killed process
    else:
        first.close()
        assert not (tmp_path / CURRENT / "energy_uj").exists()
    second = PowercapOutput(str(tmp_path))
    joules = second.restore()
    second.open()
    assert not (tmp_path / CURRENT / "energy_uj").exists(), "the value of the first process looks current"
    second.write(reading(package=42.0), joules)
    assert zones_of(tmp_path) == {"package-0": 123_456_789_123_457}
    second.close()


def test_a_changed_provenance_continues_the_counter_at_both_paths(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 1.0})
    output.write(reading(MEASURED, package=50.0), {"package": 2.0})
    output.advance({"package": 3.0})
    assert zones_of(tmp_path) == {"package-0": 3_000_000}, "programs that list the zones find one zone"
    assert (tmp_path / "class/powercap/kepler-core:measured:powercap:package/name").exists()
    assert (tmp_path / CURRENT / "energy_uj").read_text() == "3000000\n", "Kepler continues to read the path it knows"
    output.write(reading(package=42.0), {"package": 4.0})
    assert zones_of(tmp_path) == {"package-0": 4_000_000}
    assert (tmp_path / CURRENT / "name").exists()
    old = tmp_path / "class/powercap/kepler-core:measured:powercap:package/energy_uj"
    assert old.read_text() == "4000000\n"
    output.withdraw("the meter is broken")
    assert not old.exists()


def test_a_changed_description_changes_the_file_only(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 1.0})
    changed = attrs.evolve(FORMULA, description="the host is busy")
    output.write(reading(changed, package=42.0), {"package": 2.0})
    assert "description: the host is busy\n" in (tmp_path / CURRENT / "provenance").read_text()
    assert zones_of(tmp_path) == {"package-0": 2_000_000}


def test_a_zone_that_the_source_does_not_know_disappears(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(MEASURED, package=42.0, dram=5.0), {"package": 1.0, "dram": 1.0})
    output.write(reading(package=42.0), {"package": 2.0, "dram": 1.0})
    assert zones_of(tmp_path) == {"package-0": 2_000_000}
    assert not (tmp_path / "class/powercap/kepler-core:measured:powercap:dram/energy_uj").exists()
    output.write(reading(MEASURED, package=42.0, dram=5.0), {"package": 3.0, "dram": 1.5})
    assert zones_of(tmp_path) == {"package-0": 3_000_000, "dram": 1_500_000}


def test_scaphandre_finds_its_names(tmp_path: Path) -> None:
    output = PowercapOutput(str(tmp_path), scaphandre=True)
    output.open()
    output.write(reading(package=42.0, dram=5.0), {"package": 1.0, "dram": 2.0})
    assert (tmp_path / "class/powercap/intel-rapl:0/energy_uj").read_text() == "1000000\n"
    assert (tmp_path / "class/powercap/intel-rapl:0:2/energy_uj").read_text() == "2000000\n"
    codecarbon = tmp_path / "class/powercap/intel-rapl/subsystem/intel-rapl:0/energy_uj"
    assert codecarbon.read_text() == "1000000\n", "CodeCarbon reads this path only"
    assert zones_of(tmp_path) == {"package-0": 1_000_000, "dram": 2_000_000}
    output.close()
    assert PowercapOutput(str(tmp_path)).restore() == {"package": 1.0, "dram": 2.0}


def test_a_second_meter_is_refused(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0), {"package": 1.0})
    second = PowercapOutput(str(tmp_path))
    with pytest.raises(OutputError, match=r"another meter publishes in .*"):
        second.open()
    second.close()
    assert zones_of(tmp_path) == {"package-0": 1_000_000}, "the values of the first meter stay"


def test_real_zones_are_not_touched(tmp_path: Path) -> None:
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("77\n")
    with pytest.raises(OutputError, match="contains intel-rapl:0, which no meter has made; choose an empty folder"):
        PowercapOutput(str(tmp_path)).open()
    assert (zone / "energy_uj").read_text() == "77\n"


def test_a_removed_tree_is_made_again(tmp_path: Path) -> None:
    output = PowercapOutput(str(tmp_path / "tree"))
    output.open()
    output.write(reading(package=42.0), {"package": 1.0})
    (tmp_path / "tree").rename(tmp_path / "gone")
    subprocess.run(["rm", "-r", tmp_path / "gone"], check=True)
    with pytest.raises(OutputError, match=r"cannot write .*: No such file or directory"):
        output.advance({"package": 2.0})
    output.write(reading(package=42.0), {"package": 4.0})
    assert zones_of(tmp_path / "tree") == {"package-0": 4_000_000}
    output.close()


def test_a_full_disk_leaves_no_frozen_and_no_half_value(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k"):
        output = PowercapOutput(str(tmp_path / "disk"))
        output.open()
        output.write(reading(package=42.0), {"package": 1.0})
        fill_disk(tmp_path / "disk" / "filler")
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
            output.advance({"package": 2.0})
        assert not (tmp_path / "disk" / CURRENT / "energy_uj").exists()
        (tmp_path / "disk" / "filler").unlink()
        output.write(reading(package=42.0), {"package": 3.0})
        assert zones_of(tmp_path / "disk") == {"package-0": 3_000_000}
        make_read_only(tmp_path / "disk")
        with pytest.raises(OutputError, match=r"cannot write .*: Read-only file system"):
            output.advance({"package": 4.0})
        output.close()


def test_a_disk_that_is_full_during_a_change_of_the_source_leaves_no_old_value(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k"):
        output = PowercapOutput(str(tmp_path / "disk"))
        output.open()
        output.write(reading(package=42.0), {"package": 1.0})
        fill_disk(tmp_path / "disk" / "filler")
        with pytest.raises(OutputError, match="No space left on device"):
            output.write(reading(MEASURED, package=42.0), {"package": 2.0})
        assert list((tmp_path / "disk").rglob("energy_uj")) == []
        (tmp_path / "disk" / "filler").unlink()
        output.write(reading(MEASURED, package=42.0), {"package": 3.0})
        assert zones_of(tmp_path / "disk") == {"package-0": 3_000_000}
        output.close()


def test_without_permission_the_error_is_one_line(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(65534)
    try:
        with pytest.raises(OutputError, match=r"cannot write .*: Permission denied"):
            PowercapOutput(str(tmp_path / "tree")).open()
    finally:
        os.seteuid(0)


def test_malformed_counters_are_not_restored(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0, dram=4.0), {"package": 1.0, "dram": 1.0})
    for content in ("", "-5\n", "1e9\n", "9" * 30, "\x00"):
        (tmp_path / CURRENT / "energy_uj").write_text(content)
        assert PowercapOutput(str(tmp_path)).restore() == {"dram": 1.0}, content


def test_readers_see_no_missing_and_no_falling_counter(tmp_path: Path, output: PowercapOutput) -> None:
    """Another process reads the counter at Kepler's path repeatedly while the source of the power changes.

    Every read must succeed and return at least the value before.
    """
    output.write(reading(package=42.0), {"package": 1.0})
    script = (
        "import sys\nlast = count = 0\n"
        "while True:\n"
        " value = int(open(sys.argv[1]).read())\n"
        " assert value >= last, (value, last)\n"
        " last, count = value, count + 1\n"
        " if value >= 2_000_000_000: print(count); break\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / CURRENT / "energy_uj")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        for step in range(2, 2001):
            if step % 50 == 0:
                provenance = MEASURED if step % 100 else FORMULA
                output.write(reading(provenance, package=42.0), {"package": float(step)})
            else:
                output.advance({"package": float(step)})
        out, err = reader.communicate(timeout=30)
    assert int(out or 0) > 0, err


def test_the_registry_makes_the_output(tmp_path: Path) -> None:
    made = outputs.create("powercap", {"root": str(tmp_path), "scaphandre": True})
    assert isinstance(made, PowercapOutput)
    assert made.advance_seconds == 0.1
