"""Tests of the output `hwmon`: the power sensor that Kepler and node_exporter read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.readings import MEASURED, files_below, reading
from support.small_disk import fill_disk, small_disk

from kepler_core.errors import OutputError
from kepler_plugins.outputs.hwmon import HwmonOutput

CHIP = "class/hwmon/hwmon0"


@pytest.fixture
def output(tmp_path: Path) -> Iterator[HwmonOutput]:
    opened = HwmonOutput(str(tmp_path))
    opened.open()
    yield opened
    opened.close()


def test_a_sensor_has_the_files_that_kepler_reads(tmp_path: Path, output: HwmonOutput) -> None:
    output.write(reading(package=42.0, platform=90.5), {})
    files = files_below(tmp_path)
    assert files.pop(f"{CHIP}/provenance").startswith("kind: formula\n")
    assert files == {
        f"{CHIP}/name": "kepler_core\n",
        f"{CHIP}/power1_label": "package\n",
        f"{CHIP}/power1_input": "42000000\n",
        f"{CHIP}/power1_enable": "1\n",
        f"{CHIP}/power5_label": "psys\n",
        f"{CHIP}/power5_input": "90500000\n",
        f"{CHIP}/power5_enable": "1\n",
    }
    output.write(reading(MEASURED, package=50.0), {})
    files = files_below(tmp_path)
    assert files[f"{CHIP}/power1_input"] == "50000000\n"
    assert f"{CHIP}/power5_input" not in files
    assert files[f"{CHIP}/provenance"].startswith("kind: measured\n")


def test_without_an_estimate_there_is_no_value(tmp_path: Path, output: HwmonOutput) -> None:
    output.write(reading(package=42.0), {})
    output.withdraw("the meter is broken")
    assert not (tmp_path / CHIP / "power1_input").exists()
    output.write(reading(package=42.0), {})
    output.close()
    assert not (tmp_path / CHIP / "power1_input").exists()


def test_the_value_of_a_killed_process_is_removed(tmp_path: Path, output: HwmonOutput) -> None:
    output.write(reading(package=42.0), {})
    second = HwmonOutput(str(tmp_path))
    with pytest.raises(OutputError, match="another meter publishes in"):
        second.open()
    output._lock.release()  # the kernel releases the lock of a killed process
    second.open()
    assert not (tmp_path / CHIP / "power1_input").exists()
    second.close()


def test_real_sensors_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / CHIP).mkdir(parents=True)
    (tmp_path / CHIP / "name").write_text("k10temp\n")
    with pytest.raises(OutputError, match=r"no meter has made .*; choose an empty folder"):
        HwmonOutput(str(tmp_path)).open()


def test_a_full_disk_leaves_no_old_value(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k"):
        output = HwmonOutput(str(tmp_path / "disk"))
        output.open()
        output.write(reading(package=42.0), {})
        fill_disk(tmp_path / "disk" / "filler")
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
            output.write(reading(package=43.0), {})
        assert not (tmp_path / "disk" / CHIP / "power1_input").exists()
        (tmp_path / "disk" / "filler").unlink()
        output.write(reading(package=44.0), {})
        assert (tmp_path / "disk" / CHIP / "power1_input").read_text() == "44000000\n"
        output.close()
