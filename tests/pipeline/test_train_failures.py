"""Tests of trainings that fail: their error message and exit code, and that no incomplete version is in the store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler
from support.process import wait_for
from support.training import only_metrics, train

from kepler_core.simulate import Simulation, recording
from kepler_core.store import open_store


def test_a_scheduler_needs_the_dask_backend(quick: Path, simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    done = kepler("train", quick, "-i", simulated, "-s", tmp_path, "--scheduler", "tcp://127.0.0.1:1")
    assert (done.returncode, "--scheduler needs --backend dask" in done.stderr) == (2, True)
    assert not (tmp_path / "quick").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"[1, 2]", "not a recording"),
        (b'{"a": 1}', "not a recording"),
        (b"\x1f\x8bgarbage", "gzip"),
        (b"{}", "it is empty"),
        (b'{"up": []}', "no metric that an installed metric schema knows"),
    ],
)
def test_bad_recordings_leave_the_store_alone(quick: Path, tmp_path: Path, content: bytes, words: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    done = kepler("train", quick, "-i", bad, "-s", tmp_path / "store")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("kepler-model: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "bad.json" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no power", "nothing can be trained"),
        ("no features", "no cache_miss, cpu_cycles, cpu_instructions in the data"),
        ("one timestamp", "nothing can be trained"),
        ("few timestamps", "at least 20 are needed"),
    ],
)
def test_recordings_that_train_nothing(
    quick: Path, small: dict[str, Any], tmp_path: Path, what: str, words: str
) -> None:
    if what == "no power":
        small = only_metrics(small, "container")
    elif what == "no features":
        small = only_metrics(small, "joules")
    else:
        n = 1 if what == "one timestamp" else 10
        for series in small.values():
            for item in series:
                item["values"] = item["values"][:n]
    (tmp_path / "recording.json").write_text(json.dumps(small))
    done = kepler("train", quick, "-i", tmp_path / "recording.json", "-s", tmp_path / "store")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert open_store(str(tmp_path / "store")).pipelines() == []


def test_the_same_recording_twice_is_refused(quick: Path, simulated: Path, tmp_path: Path) -> None:
    done = kepler("train", quick, "-i", simulated, "-i", simulated, "-s", tmp_path / "s")
    assert done.returncode == 1
    assert "given twice" in done.stderr
    (tmp_path / "copy.json.gz").write_bytes(simulated.read_bytes())
    done = kepler("train", quick, "-i", simulated, "-i", tmp_path / "copy.json.gz", "-s", tmp_path / "s")
    assert done.returncode == 1
    assert "hold the same data" in done.stderr


def test_an_unwritable_store_ends_the_command_before_training(quick: Path, simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = kepler("train", quick, "-i", simulated, "-s", tmp_path / "file")
    assert done.returncode == 1
    assert "cannot write the store" in done.stderr
    assert done.stderr.count("\n") == 1


def workers(leader: int) -> list[Path]:
    """Return the /proc folders of loky's worker processes in the process group of the process `leader`."""
    workers_of_leader = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
            if group == leader and b"popen_loky" in (folder / "cmdline").read_bytes():
                workers_of_leader.append(folder)
    return workers_of_leader


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_training_publishes_nothing(simulated: Path, tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "kepler_core", "train", "default", "-i", str(simulated), "-s", str(tmp_path)]
    running = subprocess.Popen(
        [*command, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: len(workers(running.pid)) > 1, "the training has no worker processes", 60)
    time.sleep(4)  # the workers fit models, whose results are larger than the buffer of a pipe
    assert running.poll() is None, "the training ended before the test interrupted it"
    running.send_signal(how)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == (130 if how is signal.SIGINT else -how)
    wait_for(lambda: not workers(running.pid), "the worker processes are still running", 60)
    if how is signal.SIGINT:
        assert "interrupted; a store that was being written is unchanged" in errors
        assert "Traceback" not in errors
    assert open_store(str(tmp_path)).pipelines() == []


def test_a_source_or_group_that_is_named_but_absent_fails(quick: Path, small: dict[str, Any], tmp_path: Path) -> None:
    del small["kepler_node_accelerator_intel_qat"]
    (tmp_path / "recording.json").write_text(json.dumps(small))
    arguments = [
        "train",
        quick,
        "-i",
        tmp_path / "recording.json",
        "-s",
        tmp_path / "s",
        "--json",
        "--set",
        "dyn_trainers=[]",
    ]
    arguments += ["--set", "energy_sources=[acpi, hmc]", "--set", "feature_groups=[CounterOnly, AcceleratorOnly]"]
    done = kepler(*arguments)
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert len(report["models"]) == 2
    reasons = {(failure["source"], failure["feature_group"]): failure["reason"] for failure in report["failed"]}
    assert reasons["hmc", "CounterOnly"] == "no power of hmc in the data"
    assert reasons["acpi", "AcceleratorOnly"] == "no accelerator_intel_qat in the data"


def test_a_node_that_lacks_something_is_named(quick: Path, tmp_path: Path) -> None:
    data = recording(Simulation(containers=4, timestamps=120, nodes=2))
    dram = data["kepler_node_dram_joules_total"]
    data["kepler_node_dram_joules_total"] = [one for one in dram if one["metric"]["instance"] == "node-0"]
    (tmp_path / "recording.json").write_text(json.dumps(data))
    settings = ["--set", "feature_groups=[CounterOnly]", "--set", "dyn_trainers=[]"]
    report = train(quick, "-i", tmp_path / "recording.json", "-s", tmp_path / "s", *settings)
    (skip,) = report["skipped"]
    assert skip["source"] == "rapl-sysfs"
    assert "node 'node-1'" in skip["reason"]
    assert "is not used: no dram" in skip["reason"]


def test_a_foreign_folder_ends_the_command_before_training(quick: Path, simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    done = kepler("train", quick, "-i", simulated, "-s", tmp_path)
    assert done.returncode == 1
    assert "was not published by kepler-model" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "quick"]


def test_a_url_of_an_unknown_kind(quick: Path, simulated: Path, tmp_path: Path) -> None:
    done = kepler("train", quick, "-i", simulated, "-s", "nope://bucket/store", cwd=tmp_path)
    assert done.returncode == 1
    assert "nope:// is not known; a store is a folder, s3://bucket/folder" in done.stderr
    assert list(tmp_path.iterdir()) == []
