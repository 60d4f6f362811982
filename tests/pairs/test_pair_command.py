"""Tests of the commands that record a pair: a host, and a virtual machine (guest) on this host.

A simulated Kepler plays the host's Kepler, and this machine plays the guest.
"""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import kepler
from support.kepler_process import simulated_kepler, without_power
from support.prometheus_process import answering
from support.simulated_host import VM_ID, SimulatedHost

from kepler_core import kepler_names as names
from kepler_core.cli.pairs import read_guest
from kepler_core.pairs.host import read_host
from kepler_core.recording import read_recording


def test_a_host_is_recorded_without_prometheus(tmp_path: Path) -> None:
    host = tmp_path / "host.json"
    with simulated_kepler(SimulatedHost()) as url:
        done = kepler("pair", "host", url, "-o", host, "--interval", "1", "--duration", "5s", "--vm", "vm-a")
    assert done.returncode == 0, done.stderr
    assert f"virtual machines: {VM_ID} (vm-a)" in done.stderr
    assert "6 readings" in done.stderr
    recording = read_recording(host)
    assert set(recording.metrics) == set(SimulatedHost().recording())
    watts = recording.metrics[names.VM_WATTS]
    assert watts.labels[0]["instance"] == url.removeprefix("http://")
    windows = read_host(recording, "vm-a", "capacity")
    # On a busy machine, a reading may come late. The time until the next reading is then too short to be used.
    assert len(windows.end) + sum(windows.left_out.values()) == 5
    assert len(windows.end) > 2
    assert windows.end - windows.start == pytest.approx(1.0, abs=0.5)


def test_a_signal_ends_a_recording_and_keeps_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    with simulated_kepler(SimulatedHost()) as url:
        command = [sys.executable, "-m", "kepler_core", "pair", "host", url, "-o", str(path), "--interval", "0.6"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "virtual machines" in process.stderr.readline()
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "readings" in error
    assert read_recording(path).metrics[names.NODE_JOULES].n_samples >= 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["host.json"]


def test_failed_readings_are_left_out_and_counted(tmp_path: Path) -> None:
    from support.kepler_process import SimulatedKepler

    server = SimulatedKepler(SimulatedHost())
    count = iter(range(100))

    def reply(path: str, headers: object) -> tuple[int, dict[str, str], bytes]:
        if next(count) in (2, 3):
            return 200, {}, b"<html>not a Kepler"
        status, types, body = server.reply(path, {})
        return status, dict(types), body

    path = tmp_path / "host.json"
    with answering(reply) as url:
        done = kepler("pair", "host", url, "-o", path, "--interval", "0.6", "--duration", "3s")
    assert done.returncode == 0, done.stderr
    assert "4 readings, 2 failed (http://" in done.stderr
    assert read_recording(path).metrics[names.USAGE_RATIO].n_samples == 4


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (without_power(), [], "reports no power of the node"),
        ({}, ["--vm", "vm-b"], "no virtual machine 'vm-b'"),
        ({names.VM_JOULES: None, names.PROCESS_SECONDS: None}, [], "no virtual machine in the metrics"),
        ({}, ["--duration", "soon"], "--duration: 'soon' is not a duration"),
    ],
)
def test_a_host_without_a_pair_is_refused_at_once(
    tmp_path: Path, changes: dict[str, None], arguments: list[str], message: str
) -> None:
    with simulated_kepler(SimulatedHost(), **changes) as url:
        done = kepler("pair", "host", url, "-o", tmp_path / "host.json", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_guest_records_its_features_as_a_table(tmp_path: Path) -> None:
    path = tmp_path / "guest.csv"
    done = kepler("pair", "guest", "-o", path, "--interval", "0.3", "--duration", "3s")
    assert done.returncode == 0, done.stderr
    usage, _ = read_guest(str(path), None)
    assert len(usage.time) >= 4
    assert usage.features["bpf_cpu_time_ms"][1:].max() > 0
    header, first, *rows = csv.reader(path.read_text().splitlines())
    assert header[:2] == ["timestamp", "node"]
    assert set(first[2:]) == {""}  # the first row only states when the first period starts, so it has no values
    assert rows
    # if the machine has no hardware counters, the table has no columns for them
    assert "cpu_cycles" not in header or any(float(row[header.index("cpu_cycles")] or 0) > 0 for row in rows)


def test_names_of_files_are_checked_before_the_recording(tmp_path: Path) -> None:
    for words, message in (
        (["host", "http://127.0.0.1:1", "-o", "host.csv"], "must end in .json or .json.gz"),
        (["guest", "-o", "guest.json"], "must end in .csv"),
        (["guest", "-o", "no/guest.csv"], "there is no folder"),
    ):
        done = kepler("pair", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
    assert not list(tmp_path.iterdir())
