"""Tests of the output `watts`: the text file that PowerJoular and scripts read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.readings import reading
from support.small_disk import fill_disk, small_disk

from kepler_core.errors import OutputError
from kepler_plugins.outputs.watts_file import WattsFileOutput


@pytest.fixture
def output(tmp_path: Path) -> Iterator[WattsFileOutput]:
    opened = WattsFileOutput(str(tmp_path / "new" / "watts"))
    opened.open()
    yield opened
    opened.close()


def test_the_first_line_is_the_watts(tmp_path: Path, output: WattsFileOutput) -> None:
    output.write(reading(package=42.125), {})
    lines = output.path.read_text().splitlines()
    assert lines[:4] == ["42.125", "lower: 37.913", "upper: 46.338", "kind: formula"]
    assert [path.name for path in output.path.parent.iterdir() if not path.name.startswith(".")] == ["watts"]


@pytest.mark.parametrize(
    ("watts", "first"),
    [
        ({"package": 40.0, "core": 30.0, "dram": 5.0}, "45.000"),
        ({"package": 40.0, "dram": 5.0, "platform": 90.0}, "90.000"),
    ],
)
def test_the_watts_are_those_of_the_whole_machine(output: WattsFileOutput, watts: dict[str, float], first: str) -> None:
    output.write(reading(**watts), {})
    assert output.path.read_text().splitlines()[0] == first


def test_without_an_estimate_there_is_no_file(output: WattsFileOutput) -> None:
    output.write(reading(package=42.0), {})
    output.withdraw("the meter is broken")
    assert not output.path.exists()
    output.write(reading(package=42.0), {})
    output.close()
    assert not output.path.exists()


def test_a_second_meter_is_refused(output: WattsFileOutput) -> None:
    output.write(reading(package=42.0), {})
    second = WattsFileOutput(str(output.path))
    with pytest.raises(OutputError, match="another meter publishes in"):
        second.open()
    second.close()
    assert output.path.exists()


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        WattsFileOutput(str(tmp_path)).open()


def test_a_full_disk_leaves_no_old_watts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k"):
        output = WattsFileOutput(str(tmp_path / "disk" / "watts"))
        output.open()
        output.write(reading(package=42.0), {})
        fill_disk(tmp_path / "disk" / "filler")
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
            output.write(reading(package=43.0), {})
        assert not output.path.exists()
        output.close()
