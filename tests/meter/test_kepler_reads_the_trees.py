"""Tests that read the meter's counter files in the way of Kepler, which chooses files and zones by its own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kepler_reader import MAX_UINT64, KeplerRapl, ReadError, kepler_hwmon
from support.readings import FORMULA, MEASURED, reading

from kepler_plugins.outputs.hwmon import HwmonOutput
from kepler_plugins.outputs.powercap import PowercapOutput

ALL = {"package": 40.0, "core": 20.0, "uncore": 2.0, "dram": 5.0, "platform": 90.0}


@pytest.fixture
def output(tmp_path: Path) -> Iterator[PowercapOutput]:
    opened = PowercapOutput(str(tmp_path))
    opened.open()
    yield opened
    opened.close()


def test_without_a_zone_kepler_does_not_start(tmp_path: Path, output: PowercapOutput) -> None:
    with pytest.raises((ReadError, FileNotFoundError)):
        KeplerRapl(tmp_path)
    output.write(reading(package=42.0), {"package": 0.0})
    assert KeplerRapl(tmp_path).refresh(0.0) == {}


def test_zones_have_keplers_names_and_one_folder_each(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(**ALL), dict.fromkeys(ALL, 1.0))
    kepler = KeplerRapl(tmp_path)
    assert set(kepler.paths) == {"package", "core", "uncore", "dram", "psys"}
    assert kepler.primary == "psys"
    for zone, path in kepler.paths.items():
        assert path.endswith(f"/kepler-core:formula:machine-formula@1:{zone}"), "the path states the provenance"
        assert not path.startswith("aggregated-")


def test_the_package_stands_for_a_node_without_psys(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0, dram=5.0), {"package": 1.0, "dram": 1.0})
    assert KeplerRapl(tmp_path).primary == "package"


@pytest.mark.parametrize("joules", [0.0, 1.0, 262_143.328850, 1.8e13])
def test_every_window_has_the_published_watts(tmp_path: Path, output: PowercapOutput, joules: float) -> None:
    """Kepler gets right watts in windows of different lengths, even if a counter exceeds the range of real counters."""
    output.write(reading(package=42.0), {"package": joules})
    kepler, now = KeplerRapl(tmp_path), 0.0
    kepler.refresh(now)
    for seconds in (0.5, 5.0, 3.0, 0.1, 60.0, 2.5):
        now += seconds
        output.advance({"package": joules + 42.0 * now})
        assert kepler.refresh(now)["package"] == pytest.approx(42.0, rel=1e-3)


def test_a_meter_that_is_killed_and_starts_again_adds_no_energy(tmp_path: Path) -> None:
    first = PowercapOutput(str(tmp_path))
    first.open()
    first.write(reading(package=42.0), {"package": 1e6})
    kepler = KeplerRapl(tmp_path)
    kepler.refresh(0.0)
    first._lock.release()  # the kernel releases the lock of a killed process
    second = PowercapOutput(str(tmp_path))
    joules = second.restore()
    second.open()
    with pytest.raises(ReadError):
        kepler.refresh(3.0)
    second.write(reading(package=42.0), joules)
    second.advance({"package": joules["package"] + 42.0})
    assert kepler.refresh(10.0)["package"] == pytest.approx(4.2)
    second.close()


def test_a_counter_that_is_lost_gives_no_energy_in_one_window(tmp_path: Path) -> None:
    """The meter publishes a counter range of 0. Otherwise, Kepler would add the range, and once reported 63 kW."""
    for joules in (1e6, 0.0):
        output = PowercapOutput(str(tmp_path))
        output.open()
        output.write(reading(package=42.0), {"package": joules})
        if joules:
            kepler = KeplerRapl(tmp_path)
            kepler.refresh(0.0)
            output.close()
            for path in tmp_path.rglob("last_energy_uj"):
                path.unlink()
    assert kepler.refresh(5.0) == {"package": 0.0}
    output.advance({"package": 210.0})
    assert kepler.refresh(10.0)["package"] == pytest.approx(42.0, rel=1e-3)
    output.close()


def test_a_missing_zone_fails_the_whole_refresh_until_it_is_back(tmp_path: Path, output: PowercapOutput) -> None:
    output.write(reading(package=42.0, dram=5.0), {"package": 1.0, "dram": 1.0})
    kepler = KeplerRapl(tmp_path)
    kepler.refresh(0.0)
    output.write(reading(package=42.0), {"package": 2.0, "dram": 1.0})
    with pytest.raises(ReadError):
        kepler.refresh(1.0)
    output.write(reading(package=42.0, dram=5.0), {"package": 43.0, "dram": 6.0})
    assert kepler.refresh(2.0) == {"package": pytest.approx(21.0), "dram": pytest.approx(2.5)}


def test_hwmon_sensors_are_keplers_zones(tmp_path: Path) -> None:
    output = HwmonOutput(str(tmp_path))
    output.open()
    output.write(reading(**ALL), dict.fromkeys(ALL, 1.0))
    assert kepler_hwmon(tmp_path) == {"package": 40.0, "core": 20.0, "uncore": 2.0, "dram": 5.0, "psys": 90.0}
    names = {path.name for path in (tmp_path / "class/hwmon/hwmon0").iterdir()}
    assert not [name for name in names if re.match(r"energy\d+_input|power\d+_average", name)], "Kepler prefers these"
    output.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.floats(0.1, 1e4)),
        st.tuples(st.just("source"), st.sampled_from([FORMULA, MEASURED])),
        st.tuples(st.just("withdraw"), st.just(0.0)),
        st.tuples(st.just("restart"), st.just(0.0)),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_no_script_of_the_meter_gives_kepler_energy_that_was_not_published(script: list[tuple[str, object]]) -> None:
    with TemporaryDirectory() as folder:
        output = PowercapOutput(folder)
        output.open()
        provenance, joules, now, is_published = FORMULA, 1.0, 0.0, True
        output.write(reading(provenance, package=42.0), {"package": joules})
        kepler, seen = KeplerRapl(Path(folder)), joules
        kepler.refresh(now)
        for action, value in script:
            now += 1.0
            if action == "withdraw":
                output.withdraw("no source")
                is_published = False
            elif action == "restart":
                output._lock.release()
                output = PowercapOutput(folder)
                assert output.restore()["package"] == pytest.approx(joules, abs=1e-6)
                output.open()
                is_published = False
            else:
                joules += value if isinstance(value, float) else 1.0
                provenance = provenance if isinstance(value, float) else value
                output.write(reading(provenance, package=42.0), {"package": joules})
                is_published = True
            if is_published:
                before = kepler._time or 0.0
                watts = kepler.refresh(now)["package"]
                assert watts * (now - before) == pytest.approx(joules - seen, abs=1e-5)
                assert 0 < int(next(Path(folder).rglob("energy_uj")).read_text()) <= MAX_UINT64
                seen = joules
            else:
                with pytest.raises(ReadError):
                    kepler.refresh(now)
        output.close()
