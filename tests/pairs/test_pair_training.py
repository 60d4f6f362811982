"""Tests that models of a virtual machine are trained from recordings of the machine and of its host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import kepler
from support.simulated_host import IDLE_WATTS, SimulatedHost
from support.training import only_model

from kepler_core.store import open_store
from kepler_core.store.models import read_models

PIPELINE = "abs_trainers: [LinearRegressionTrainer]\ndyn_trainers: []\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pipeline file and, for each of two days, a recording of a host and one of its virtual machine."""
    path = tmp_path_factory.mktemp("pairs")
    for number, host in enumerate((SimulatedHost(offset=2.7), SimulatedHost(offset=-1.2, seed=7))):
        content = {
            metric: [
                {**series, "values": [[t + 86400 * number, v] for t, v in series["values"]]} for series in all_series
            ]
            for metric, all_series in host.recording().items()
        }
        (path / f"host{number}.json").write_text(json.dumps(content))
        header, *rows = host.guest_csv().splitlines()
        shifted = [f"{float(row.partition(',')[0]) + 86400 * number},{row.partition(',')[2]}" for row in rows]
        (path / f"guest{number}.csv").write_text("\n".join([header, *shifted]) + "\n")
    (path / "mine.yaml").write_text(PIPELINE)
    return path


def train(folder: Path, *arguments: str, store: str = "store", sessions: tuple[int, ...] = (0,)) -> Any:
    pairs = [word for n in sessions for word in ("--host", f"host{n}.json", "--guest", f"guest{n}.csv")]
    words = ["train", "mine.yaml", *pairs, "--vm", "vm-a", "-s", store, "--jobs", "1", "--json", *arguments]
    return kepler(*words, cwd=folder)


def test_a_model_of_the_guest_is_trained_and_names_its_target(folder: Path) -> None:
    done = train(folder, sessions=(0, 1), store="both")
    assert done.returncode == 0, done.stderr
    assert "the guest is 2.7 s ahead of the host" in done.stderr
    assert "the guest is 1.2 s behind the host" in done.stderr
    report = json.loads(done.stdout)
    assert [pair["offset_seconds"] for pair in report["pairs"]] == pytest.approx([2.7, -1.2], abs=0.15)
    model = only_model(report, source="vm-kepler", feature_group="CPUTime")
    assert model["splits"]["recordings"] is not None
    # The guest's hardware counters are 0 in every row. They count as missing, so no model uses them.
    assert {entry["feature_group"] for entry in report["models"]} == {"CPUTime"}
    (stored,) = read_models(open_store(str(folder / "both")).snapshot("mine"))
    assert stored.metadata["target"] == "kepler"
    # The host draws 20 W plus 5 W for each busy CPU. Other processes use half a CPU to one CPU. The expected watts
    # are the guest's part of the host's power.
    watts = stored.load().predict(np.array([[1000.0], [4000.0]]))["package"]
    assert watts == pytest.approx([1 / 8 * 28.75, 4 / 8 * 43.75], rel=0.12)


def test_marginal_power_needs_the_idle_power_and_the_reservation(folder: Path) -> None:
    done = train(folder, "--target", "marginal")
    assert done.returncode == 2
    assert "--idle-watts" in done.stderr
    idle = ",".join(f"{zone}={watts}" for zone, watts in IDLE_WATTS.items())
    done = train(folder, "--target", "marginal", "--idle-watts", idle, "--reserved", "0.5", store="marginal")
    assert done.returncode == 0, done.stderr
    (stored,) = read_models(open_store(str(folder / "marginal")).snapshot("mine"))
    assert (stored.source, stored.metadata["target"]) == ("vm-marginal", "marginal")
    # The guest gets 10 W of reserved idle power, and 5 W per CPU. The load of other processes does not matter.
    assert stored.load().predict(np.array([[2000.0]]))["package"] == pytest.approx([20.0], rel=0.05)


def test_models_of_different_targets_are_never_mixed(folder: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert train(folder, store=store).returncode == 0
    other = train(folder, "--target", "capacity", store=store)
    assert other.returncode == 1
    assert "choose another name with --name" in other.stderr
    assert train(folder, "--target", "capacity", "--name", "other", store=store).returncode == 0
    compared = kepler("store", "compare", "mine", "other", "-s", store)
    assert compared.returncode == 2
    assert "estimate different kinds of power" in compared.stderr
    recording = str(tmp_path / "machine.json")
    assert kepler("simulate", "-o", recording, "--minutes", "5").returncode == 0
    refused = kepler("recalibrate", "-s", store, "--pipeline", "mine", "-i", recording)
    assert refused.returncode == 2
    assert "target kepler" in refused.stderr
    machine = kepler("train", "mine.yaml", "-i", recording, "-s", store, cwd=folder)
    assert "has the target kepler, this training has machine" in machine.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vm", "vm-a"], "--vm needs --host and --guest"),
        (["--host", "host0.json", "--guest", "guest0.csv"], "name the virtual machine"),
        (["--host", "host0.json", "--vm", "vm-a"], "1 --host, but 0 --guest"),
        (["--host", "host0.json", "--guest", "guest0.csv", "--vm", "vm-b"], "no virtual machine 'vm-b'"),
        (
            ["--host", "host0.json", "--guest", "guest0.csv", "--vm", "vm-a", "-i", "x.json"],
            "--input cannot be used with",
        ),
        (["-i", "host0.json", "--set", "target=kepler"], "needs a pair of recordings|no metric that"),
        (["--host", "host0.json", "--guest", "guest1.csv", "--vm", "vm-a"], "record host and guest at the same time"),
    ],
)
def test_wrong_use_is_refused_with_the_right_form(folder: Path, arguments: list[str], message: str) -> None:
    import re

    done = kepler("train", "mine.yaml", "-s", "refused", *arguments, cwd=folder)
    assert done.returncode in (1, 2)
    assert re.search(message, done.stderr), done.stderr
    assert not (folder / "refused").exists()


def test_a_pipeline_with_a_target_of_machines_alone_cannot_be_trained(folder: Path, tmp_path: Path) -> None:
    recording = str(tmp_path / "machine.json")
    assert kepler("simulate", "-o", recording, "--minutes", "2").returncode == 0
    done = kepler("train", "mine.yaml", "-i", recording, "-s", "refused", "--set", "target=kepler", cwd=folder)
    assert done.returncode == 2
    assert "needs a pair of recordings" in done.stderr


def test_a_recording_of_the_guests_exporter_replaces_a_table(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "guest0.csv").read_text().splitlines()[1:]
    total, values = 0.0, []
    for row in rows:
        total += float(row.split(",")[2])
        values.append([float(row.split(",")[0]), f"{total:.3f}"])
    labels = {"instance": "guest-1:9102", "container_id": "c1", "container_name": "all"}
    recording = tmp_path / "guest.json"
    recording.write_text(json.dumps({"kepler_container_bpf_cpu_time_ms_total": [{"metric": labels, "values": values}]}))
    words = ["train", "mine.yaml", "--host", "host0.json", "--guest", str(recording), "--vm", "vm-a", "-s", "exporter"]
    done = kepler(*words, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"][0]["offset_seconds"] == pytest.approx(2.7, abs=0.15)


def test_one_recording_can_hold_the_host_and_the_guest(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "host0.json").read_text())
    modes: dict[str, list[list[Any]]] = {"user": [], "idle": []}
    total, idle = 0.0, 0.0
    for row in (folder / "guest0.csv").read_text().splitlines()[1:]:
        time, _, load = row.split(",")[:3]
        total, idle = total + float(load) / 1000, idle + 4 - float(load) / 1000
        modes["user"].append([float(time), f"{total:.4f}"])
        modes["idle"].append([float(time), f"{idle:.4f}"])
    content["node_cpu_seconds_total"] = [
        {"metric": {"instance": "guest-1:9100", "cpu": "0", "mode": mode}, "values": values}
        for mode, values in modes.items()
    ]
    both = tmp_path / "both.json"
    both.write_text(json.dumps(content))
    words = ["train", "mine.yaml", "--host", str(both), "--guest", str(both), "--vm", "vm-a", "-s", "one"]
    unnamed = kepler(*words, cwd=folder)
    assert unnamed.returncode == 2
    assert "choose the guest with --guest-node" in unnamed.stderr
    done = kepler(*words, "--guest-node", "guest-1:9100", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"][0]["offset_seconds"] == pytest.approx(2.7, abs=0.15)


def test_the_online_trainer_refuses_models_of_virtual_machines(folder: Path) -> None:
    words = [
        "serve",
        "online-trainer",
        "--pipeline",
        "mine.yaml",
        "--server",
        "http://127.0.0.1:9",
        "-s",
        "online",
        "--state",
        "state",
    ]
    done = kepler(*words, "--set", "target=kepler", cwd=folder)
    assert done.returncode == 2
    assert "the online trainer reads recordings of machines" in done.stderr
