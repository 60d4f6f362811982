"""Test the rules of `kepler-model doctor`: each rule reports its kind of fault, and nothing if Kepler has no fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler
from support.kepler_process import simulated_kepler, without_power
from support.simulated_host import IDLE_WATTS, SimulatedHost

from kepler_core import kepler_names as names
from kepler_core.doctor.examination import examine
from kepler_core.doctor.idle import idle_power
from kepler_core.errors import RecordingError
from kepler_core.recording import read_recording

Content = dict[str, list[dict[str, Any]]]
ESTIMATE = "/run/kepler-core/sysfs/class/powercap/kepler-core:formula:machine-formula@1"
ENERGY = (names.NODE_JOULES, names.NODE_ACTIVE_JOULES, names.NODE_IDLE_JOULES, names.NODE_WATTS)


def relabel(content: Content, metrics: tuple[str, ...], **labels: str | None) -> None:
    """Replace labels of all series of some metrics; None removes a label."""
    for metric in metrics:
        for series in content[metric]:
            merged = {**series["metric"], **labels}
            series["metric"] = {name: value for name, value in merged.items() if value is not None}


def fake_paths(content: Content) -> None:
    for series in (series for metric in ENERGY for series in content[metric]):
        series["metric"]["path"] = f"/sys/class/powercap/intel-rapl/energy_{series['metric']['zone']}"


def fake_values(content: Content) -> None:
    relabel(content, ENERGY, path="aggregated-package")
    for series in (series for metric in ENERGY for series in content[metric]):
        series["values"] = [[time, str(float(value) * 1e-5)] for time, value in series["values"]]


def no_package(content: Content) -> None:
    for metric in ENERGY:
        content[metric] = [series for series in content[metric] if series["metric"]["zone"] != "package"]


def no_power(content: Content) -> None:
    for metric in without_power():
        del content[metric]


def gaps(content: Content) -> None:
    for series in (series for metric in ENERGY for series in content[metric]):
        del series["values"][40:43]


def other_windows(content: Content) -> None:
    for series in content[names.NODE_WATTS]:
        series["values"] = [[t, str(float(v) * (1.0, 1.3)[n % 2])] for n, (t, v) in enumerate(series["values"])]


def kubevirt(content: Content) -> None:
    del content[names.VM_JOULES], content[names.VM_WATTS]
    qemu = content[names.PROCESS_SECONDS][0]["metric"]
    qemu.update(type="container", container_id="c1", vm_id="", comm="qemu-kvm")


def second_guest(content: Content) -> None:
    first = content[names.PROCESS_SECONDS][0]
    content[names.PROCESS_SECONDS].append({**first, "metric": {**first["metric"], "pid": "101"}})


FAULTS: list[tuple[str, str, Callable[[Content], None], str]] = [
    ("fake-meter", "error", fake_paths, "switch the fake meter off"),
    ("fake-meter", "error", fake_values, "switch the fake meter off"),
    ("zones-summed", "error", lambda content: relabel(content, (names.NODE_JOULES,), zone=None), "by (zone)"),
    ("missing-zones", "warning", no_package, "rapl.zones"),
    ("no-power", "error", no_power, "CAP_SYS_PTRACE"),
    ("power-with-gaps", "warning", gaps, "Kepler's log"),
    ("disturbed-windows", "warning", other_windows, "interval: 0s"),
    ("guests-as-containers", "warning", kubevirt, "virt-launcher"),
    ("shared-vm-id", "warning", second_guest, "-uuid"),
    ("empty-node-name", "note", lambda content: relabel(content, ENERGY, node_name=None), "--kube.node-name"),
    ("estimated-power", "note", lambda content: relabel(content, ENERGY, path=ESTIMATE), "do not train"),
    ("release-lag", "note", lambda content: relabel(content, (names.BUILD_INFO,), version="v0.11.4"), "use joules"),
]


def test_a_kepler_without_faults_has_no_finding() -> None:
    assert examine(read_recording(SimulatedHost().recording())) == []


@pytest.mark.parametrize(("rule", "severity", "change", "advice"), FAULTS)
def test_a_fault_is_found_by_its_rule(rule: str, severity: str, change: Callable[[Content], None], advice: str) -> None:
    content = SimulatedHost().recording()
    change(content)
    (found,) = examine(read_recording(content))
    assert (found.rule, found.severity, found.node) == (rule, severity, "host-1:28282")
    assert advice in found.advice
    assert found.seen


def test_the_lag_is_found_without_a_version_and_the_fall_of_the_raw_counter() -> None:
    content = SimulatedHost(lag=True, wrap=500.0).recording()
    relabel(content, (names.BUILD_INFO,), version=None)
    assert [found.rule for found in examine(read_recording(content))] == ["release-lag", "counter-wraps"]


def test_the_idle_power_is_learned_from_quiet_times() -> None:
    host = SimulatedHost(idle_seconds=60)
    zones = {zone.zone: zone for zone in idle_power(read_recording(host.recording()))}
    for zone, watts in IDLE_WATTS.items():
        assert zones[zone].watts == pytest.approx(watts, abs=0.2)
    # The watts that Kepler exports as idle depend on the load, so on a busy host they exceed the idle power.
    busy = {zone.zone: zone for zone in idle_power(read_recording(SimulatedHost().recording()))}
    kepler_watts = busy["package"].kepler_watts
    assert kepler_watts is not None
    assert kepler_watts > IDLE_WATTS["package"] + 1
    assert busy["package"].watts is None
    assert "never idle" in busy["package"].reason


def test_validate_shows_the_idle_power_beside_that_of_kepler(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text(json.dumps(SimulatedHost(idle_seconds=60).recording()))
    done = kepler("validate", file, "--json")
    assert done.returncode == 0, done.stderr
    zones = {zone["zone"]: zone for zone in json.loads(done.stdout)["idle_power"]}
    assert zones["package"]["watts"] == pytest.approx(IDLE_WATTS["package"], abs=0.2)
    assert zones["package"]["kepler_watts"] != pytest.approx(zones["package"]["watts"], abs=0.2)
    assert "Idle power" in kepler("validate", file).stdout


def test_other_exporters_are_named_as_such() -> None:
    series = [{"metric": {"instance": "a"}, "values": [[1, "1"], [2, "2"]]}]
    with pytest.raises(RecordingError, match=r"Kepler 0\.9 or earlier"):
        examine(read_recording({"kepler_exporter_build_info": series}))
    with pytest.raises(RecordingError, match="is this an exporter of Kepler"):
        examine(read_recording({"up": series}))


def test_the_command_reads_a_file_and_a_running_kepler(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text(json.dumps(SimulatedHost(idle_seconds=60).recording()))
    clean = kepler("doctor", file)
    assert clean.returncode == 0, clean.stderr
    assert "nothing found" in clean.stdout
    assert 'Kepler\'s "idle" W' in clean.stdout
    with simulated_kepler(SimulatedHost(), **without_power()) as url:
        done = kepler("doctor", url, "--duration", "1s", "--interval", "0.6", "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert [found["rule"] for found in report["findings"]] == ["no-power"]
    assert report["source"] == f"{url}/metrics"
    missing = kepler("doctor", "http://127.0.0.1:9/metrics")
    assert missing.returncode == 1
    assert "cannot be read" in missing.stderr
