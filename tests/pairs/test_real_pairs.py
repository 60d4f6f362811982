"""Test models of a real virtual machine. They are trained on the recording of one day, and tested on another day."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT, SHARED

DATA = SHARED / "data" / "vm_pairs"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}")
def test_a_model_of_one_session_holds_on_the_other_session(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "bench" / "vm_pairs.py", "--data", DATA, "--json", output]
    command += ["--set", "validation.folds=3", "--set", "validation.regimes=2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for result in json.loads(output.read_text()):
        lower, upper = result["pair"]["offset_interval"]
        assert 2.0 <= lower <= result["pair"]["offset_seconds"] <= upper <= 3.0
        assert result["pair"]["repeated_timestamps"] == pytest.approx(0.4, abs=0.03)
        assert 0.08 <= result["line"]["mae"] <= 0.14
        # The guest's hardware counters are 0 in every row, so no other feature group is trained.
        assert {one["feature_group"] for one in result["on_the_other_session"]} == {"CPUTime"}
        assert {one["target"] for one in result["on_the_other_session"]} == {"kepler"}
        assert max(one["mae"] for one in result["on_the_other_session"]) <= 0.14
        assert min(one["coverage"] for one in result["on_the_other_session"]) >= 0.9
        assert max(one["half_width"] for one in result["on_the_other_session"]) <= 0.7
