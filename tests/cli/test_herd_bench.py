"""Test that the benchmark of many estimators after an outage runs, and that all of its estimators get a model."""

from __future__ import annotations

import json
import subprocess
import sys

from support.paths import ROOT


def test_all_estimators_get_a_model_after_an_outage() -> None:
    command = [sys.executable, ROOT / "bench/herd.py", "--estimators", "4", "--outage", "1", "--refresh", "2"]
    done = subprocess.run(
        [*command, "--models", "20", "--fleet", "500", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for phase in results["phases"].values():
        assert phase["unanswered"] == phase["failed"] == 0
        assert phase["with_model"] == 4
        assert sum(phase["requests_by_second"]) == phase["requests"] >= 4
        assert 0 < phase["p50"] <= phase["p99"] <= phase["max"]
    longest = results["extrapolated"][-1]
    assert longest["all_answered"] > 0
    assert longest["p50"] >= results["service_us"] / 1000 * 0.99
