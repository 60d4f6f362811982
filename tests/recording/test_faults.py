"""Tests of faults in simulated recordings: if a fault makes the power wrong, a finding reports the fault.

Recordings without faults have only findings of the kinds in `USUAL`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.simulated_fits import errors, usage

from kepler_core.arrays import FloatArray
from kepler_core.errors import UsageError
from kepler_core.faults import FAULTS, SEVERITIES, STEPS
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.recording.findings import findings
from kepler_core.simulate import Simulation, recording, write

SOCKETS = 2
LARGEST_RISE = 5.0
"""A fault may increase the error of a fit by at most this number of percentage points."""
SEEDS = (1, 2, 3)
USUAL = {"resets", "one_sample_series", "incomplete", "gaps"}
"""Kinds of findings that simulations without a fault have, too."""
NAMES_OF_FAULTS = {
    "energy-counter-jump": {"power_jumps"},
    "usage-counter-jump": {"usage_jumps", "impossible_values", "unreadable"},
    "invalid-reading": {"impossible_values", "power_jumps"},
    "wrong-unit": {"impossible_power"},
    "stuck-socket": {"stuck_units"},
    "platform-below-package": {"contradicting_power"},
    "usage-frozen": {"frozen_usage"},
    "usage-frozen-loses": {"frozen_usage"},
    "meter-frozen": {"frozen_meters"},
    "meter-frozen-loses": {"frozen_meters"},
    "meter-renewed-seldom": {"frozen_meters"},
    "step-not-dividing": {"corrected_times"},
    "negative-counter": {"impossible_values"},
    "exporter-restart": {"resets"},
    "gaps": {"gaps", "incomplete"},
    "duplicate-exporter": {"duplicates"},
    "short-lived-containers": {"one_sample_series"},
}
"""For each fault: the kinds of findings, one of which must report the fault."""
UNNOTICED = {("usage-counter-jump", 2), ("gaps", 3)}
"""Pairs (fault, severity) that some simulations contain without a finding that reports the fault.

Both faults are harmless. `usage-counter-jump` with severity 2 adds 2^32 to a usage counter. If the counter counts CPU
cycles, this is the work of one CPU in one and a half seconds. `gaps` with severity 3 lets scrapes fail at random. In
some simulations, the time without scrapes is too short to count as a gap.
"""


def simulated(step: int, seed: int, *faults: str, severity: int = 1) -> Observations:
    simulation = Simulation(
        containers=8, timestamps=400, step=step, sockets=SOCKETS, seed=seed, faults=faults, severity=severity
    )
    return observe([read_recording(recording(simulation))])


@cache
def without_fault(step: int, seed: int) -> tuple[tuple[FloatArray, FloatArray], Mapping[tuple[str, str], float | None]]:
    observations = simulated(step, seed)
    where = usage(observations, SOCKETS)
    return where, errors(observations, SOCKETS, where)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_raises_the_error_unnoticed(fault: str, severity: int, seed: int) -> None:
    step = STEPS[severity][0] if fault == "step-not-dividing" else 3
    where, clean = without_fault(step, seed)
    observations = simulated(step, seed, fault, severity=severity)
    found = {finding.kind for finding in findings(observations.counts)}
    if (fault, severity) not in UNNOTICED:
        assert found & NAMES_OF_FAULTS[fault]
    for key, error in errors(observations, SOCKETS, where).items():
        before = clean[key]
        assert before is not None
        if error is not None:
            assert error <= before + LARGEST_RISE, key
        else:  # the component or the feature is left out, and a finding must name the component or feature
            component, feature = key
            places = {finding.where for finding in findings(observations.counts) if finding.kind not in USUAL}
            assert any(component in place or feature in place for place in places), key


@pytest.mark.parametrize("seed", range(50))
def test_clean_simulations_have_no_findings(seed: int) -> None:
    simulation = Simulation(
        containers=(2, 5, 20, 60)[seed % 4],
        timestamps=(60, 120, 300, 600)[seed // 4 % 4],
        step=(3, 5, 10, 30)[seed // 2 % 4],
        sockets=1 + seed % 2,
        nodes=1 + seed % 3,
        churn=(0.0, 0.3, 0.8)[seed % 3],
        resets=seed % 3,
        accelerator=bool(seed % 2),
        workloads=(0, 4, 12)[seed // 3 % 3],
        seed=seed,
    )
    observations = observe([read_recording(recording(simulation))])
    assert [finding for finding in findings(observations.counts) if finding.kind not in USUAL] == []


def test_a_socket_that_stands_still_for_some_time_is_left_out_for_that_time() -> None:
    clean, stuck = simulated(3, 1), simulated(3, 1, "stuck-socket", severity=3)
    for key in (("rapl-sysfs", "package"), ("rapl-sysfs", "dram")):
        known = np.isfinite(stuck.power[key])
        assert 0.15 < known.mean() < 0.85
        np.testing.assert_allclose(stuck.power[key][known], clean.power[key][known])
        assert stuck.counts.stuck_units[" ".join(key)] == np.count_nonzero(np.isfinite(clean.power[key]) & ~known)


def test_a_node_sum_without_a_busy_container_is_unknown() -> None:
    document = recording(Simulation(containers=3, timestamps=60, churn=0, resets=0, accelerator=False))
    series = document["kepler_container_bpf_cpu_time_ms_total"]
    busiest = max(series, key=lambda one: float(one["values"][-1][1]))
    busiest["values"][30:] = [(time, str(float(value) + 2.0**65)) for time, value in busiest["values"][30:]]
    observations = observe([read_recording(document)])
    assert observations.counts.impossible_values["kepler_container_bpf_cpu_time_ms_total"] == 30
    assert not np.isfinite(observations.node_features["bpf_cpu_time_ms"][30:]).any()
    assert np.isfinite(observations.node_features["cpu_cycles"][30:]).all()


def test_one_of_three_power_supplies_is_left_out_at_low_load_too() -> None:
    document = recording(Simulation(containers=5, timestamps=300, sockets=1, resets=0))
    for one in document["kepler_node_platform_joules_total"]:
        one["values"] = [(time, f"{float(value) / 3:.3f}") for time, value in one["values"]]
    observations = observe([read_recording(document)])
    assert not np.isfinite(observations.power["acpi", "platform"]).any()
    assert observations.counts.contradicting_power["acpi platform"] == 299


def test_a_platform_that_lags_is_used() -> None:
    document = recording(Simulation(containers=5, timestamps=300, sockets=2, resets=0))
    lag = 10  # number of samples by which the counter is late: 10 samples are 30 seconds
    for one in document["kepler_node_platform_joules_total"]:
        times, values = zip(*one["values"], strict=True)
        joules = np.array(values, dtype=np.float64)
        before = -(joules[1] - joules[0]) * np.arange(lag, 0, -1)
        late = 1e5 + np.concatenate([before, joules[:-lag]])
        one["values"] = [(time, f"{value:.3f}") for time, value in zip(times, late, strict=True)]
    observations = observe([read_recording(document)])
    known = np.isfinite(observations.power["acpi", "platform"])
    assert np.count_nonzero(known) > 200


@pytest.mark.parametrize("fault", FAULTS)
def test_equal_options_give_equal_bytes(fault: str, tmp_path: Path) -> None:
    simulation = Simulation(containers=3, timestamps=40, nodes=2, faults=(fault,), severity=2)
    write(simulation, str(tmp_path / "first.json"))
    write(simulation, str(tmp_path / "second.json"))
    write(Simulation(containers=3, timestamps=40, nodes=2), str(tmp_path / "clean.json"))
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert (tmp_path / "first.json").read_bytes() != (tmp_path / "clean.json").read_bytes()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_smallest_simulations_can_have_faults(fault: str, severity: int) -> None:
    simulation = Simulation(containers=1, timestamps=3, resets=0, sockets=1, faults=(fault,), severity=severity)
    observe([read_recording(recording(simulation))])


def test_several_faults_can_be_combined() -> None:
    observations = simulated(3, 1, "wrong-unit", "gaps", "exporter-restart", severity=2)
    found = {finding.kind for finding in findings(observations.counts)}
    assert {"impossible_power", "gaps", "resets"} <= found


def test_unknown_faults_and_severities_are_rejected() -> None:
    with pytest.raises(UsageError, match="unknown fault 'gap'; did you mean gaps"):
        Simulation(faults=("gap",))
    with pytest.raises(UsageError, match="severity must be 1, 2 or 3, not 4"):
        Simulation(faults=("gaps",), severity=4)


def test_the_command_writes_faults_and_lists_their_kinds(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kepler_core", "simulate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    path = tmp_path / "faulty.json"
    process = run("-o", str(path), "--fault", "wrong-unit", "--fault", "gaps", "--severity", "2")
    assert (process.returncode, process.stderr) == (0, "")
    counts = observe([read_recording(path)]).counts
    assert counts.impossible_power
    assert counts.gaps
    help_text = run("--help").stdout
    assert all(name in help_text for name in FAULTS)
    process = run("-o", str(path), "--fault", "wrong-units")
    assert process.returncode == 2
    assert "did you mean wrong-unit?" in process.stderr
