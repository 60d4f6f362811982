"""Tests of `bench/accuracy.py` on the public recordings, with few trainers and rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT, SHARED

DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not (DATA / "public").exists(), reason=f"no {DATA / 'public'}")


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run `bench/accuracy.py` with `--quick`, and return its JSON output."""
    output = folder / "accuracy.json"
    command = [sys.executable, ROOT / "bench" / "accuracy.py", "--quick", "--jobs", "1", "--json", output, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    return result


@needs_data
def test_the_tail_is_measured_and_plotted(tmp_path: Path) -> None:
    result = run(tmp_path, "--only", "tail", "--plots", tmp_path / "plots")
    worst, chosen, interval = result["figures"]
    maes = [model["mae"] for model in worst["values"]["models"]]
    assert len(maes) == 4  # two trainers and two feature groups: four models
    assert f"{max(maes):.1f} W" in worst["now"]
    for one in chosen["values"].values():
        assert one["timestamps"] == 443  # the split `tail30` of the public tables has this number of test rows
        assert min(maes) <= one["mae"] <= max(maes)
        assert f"{100 * one['coverage']:.0f} %" in interval["now"]
    names = sorted(path.stem for path in (tmp_path / "plots").iterdir())
    assert names == ["accuracy-calibration", "accuracy-splits", "accuracy-tail", "accuracy-width"]


@needs_data
def test_idle_power_is_compared_with_the_idle_phases_of_the_table(tmp_path: Path) -> None:
    (figure,) = run(tmp_path, "--only", "idle")["figures"]
    values = figure["values"]
    assert values["truth"] == pytest.approx(32.0, abs=0.3)
    assert len(values["with"]) == len(values["without"]) == 7
    assert all(one["noted"] for one in values["without"])


@needs_data
def test_blocks_are_scored_on_the_rows_of_the_split(tmp_path: Path) -> None:
    (figure,) = run(tmp_path, "--only", "blocks")["figures"]
    assert set(figure["values"]) == {"CounterOnly", "BasicNoPageCache"}
    assert all(2 < mae < 20 for mae in figure["values"].values())
    assert figure["met"] is None  # a quick run validates one fold only, so its error is not compared with a target


def test_measurements_without_data_are_skipped_with_the_reason(tmp_path: Path) -> None:
    result = run(tmp_path, "--data", tmp_path, "--only", "tail", "--only", "containers")
    assert result["figures"] == []
    assert result["skipped"]["tail"].startswith("no file recordings/kepler_stressng.json.gz")
    assert result["skipped"]["containers"].startswith("no file recordings/kepler_coremark.json")
