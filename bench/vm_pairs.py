"""Train models of a virtual machine on one real session, and measure their errors on another session.

The data are two sessions of one KVM guest with 4 virtual CPUs under stress-ng. Each session has the power that Kepler
on the host reported for the guest (`kepler_vm_cpu_watts`), and the features that the guest read from /proc. The data
have the format of the program that recorded them, and are not part of the repository. This script converts them to the
files that `kepler-model pair` writes, and trains with `kepler-model train --host --guest`.

    python bench/vm_pairs.py [--data FOLDER] [--set KEY=VALUE] [--json FILE]
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.cli.pairs import read_guest
from kepler_core.honesty.document import read_honesty
from kepler_core.honesty.interval import SAME_MACHINE, half_widths
from kepler_core.pairs.alignment import align
from kepler_core.pairs.host import read_host
from kepler_core.pairs.joining import Pair, pair_table
from kepler_core.recording import read_recording
from kepler_core.store import open_store
from kepler_core.store.models import read_models

SESSIONS = ("20250910_100240", "20250910_145957")
VM = "fedora40"
CPUS = 4
"""Number of virtual CPUs of the guest. The recorded utilisation is in percent of all these CPUs."""
TRAINERS = "[LinearRegressionTrainer, BlendTrainer, GradientBoostingRegressorTrainer]"


def convert(data: Path, folder: Path, session: str) -> tuple[Path, Path]:
    """Write a session as a recording of the host and a table of the guest."""
    host, guest = folder / f"host-{session}.json", folder / f"guest-{session}.csv"
    by_zone: dict[str, dict[str, Any]] = {}
    for reading in json.loads((data / f"bm_power_training_{session}.json").read_text()):
        for vm in reading["vms"]:
            labels = {name: value for name, value in vm.items() if name != "watts"}
            series = by_zone.setdefault(vm["zone"], {"metric": labels, "values": []})
            series["values"].append([reading["timestamp_absolute"], str(vm["watts"])])
    host.write_text(json.dumps({"kepler_vm_cpu_watts": list(by_zone.values())}))
    with guest.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["timestamp", "node", "bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions", "cache_miss"])
        for row in json.loads((data / f"vm_features_training_{session}.json").read_text()):
            load = row["cpu_utilization"] / 100 * CPUS * 1000
            counters = [row[name] for name in ("cpu_cycles", "instructions", "cache_misses")]
            table.writerow([row["timestamp_absolute"], row["vm_hostname"], load, *counters])
    return host, guest


def joined(files: tuple[Path, Path]) -> Pair:
    """Read the recordings of one session, and align the clocks of the host and the guest."""
    recording = read_recording(files[0])
    windows = read_host(recording, VM, "kepler")
    guest, digest = read_guest(str(files[1]), None)
    return Pair(
        windows, guest, align(windows, guest), "kepler", (files[0].name, files[1].name), (recording.digest, digest)
    )


def train(files: tuple[Path, Path], store: Path, settings: list[str]) -> None:
    """Train models on one session with the command `kepler-model train`, and publish them in a store.

    `settings` are further keys of the pipeline, as `KEY=VALUE`.
    """
    host, guest = map(str, files)
    command = [sys.executable, "-m", "kepler_core", "train", "default", "--host", host, "--guest", guest, "--vm", VM]
    command += ["-s", str(store), "--set", f"abs_trainers={TRAINERS}", "--set", "dyn_trainers=[]", "--jobs", "1"]
    command += [word for setting in settings for word in ("--set", setting)]
    subprocess.run(command, check=True, capture_output=True)


def errors(store: Path, other: Pair) -> list[dict[str, Any]]:
    """Return the errors of a session's models on the package power of another session."""
    table = pair_table(other)
    measured = table.power["package"]
    results = []
    for entry in read_models(open_store(str(store)).snapshot("default")):
        values = np.column_stack([table.features[name] for name in entry.features])
        model, honesty = entry.load(), read_honesty(entry.metadata)
        predicted = model.predict(values)["package"]
        assert honesty is not None
        width = half_widths(honesty, {"package": predicted}, model.outside(values), SAME_MACHINE)["package"]
        error = predicted - measured
        results.append(
            {
                "trainer": entry.trainer,
                "feature_group": entry.feature_group,
                "source": entry.source,
                "target": entry.metadata["target"],
                "windows": len(measured),
                "mae": float(np.mean(np.abs(error))),
                "bias": float(np.mean(error)),
                "half_width": float(np.mean(width)),
                "coverage": float(np.mean(np.abs(error) <= width)),
            }
        )
    return results


def line(pair: Pair) -> dict[str, float]:
    """Fit a straight line (watts over CPU time) to a session, and return the errors of the line on the same session."""
    table = pair_table(pair)
    load: FloatArray = table.features["bpf_cpu_time_ms"]
    watts: FloatArray = table.power["package"]
    slope, idle = np.polyfit(load, watts, 1)
    residual = watts - slope * load - idle
    return {
        "mae": float(np.mean(np.abs(residual))),
        "r2": float(1 - np.var(residual) / np.var(watts)),
        "watts_per_cpu": float(1000 * slope),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "vm_pairs"
    parser.add_argument("--data", type=Path, default=default, help="the folder with the recordings of both sessions")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the pipeline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"no folder {arguments.data}")
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {session: convert(arguments.data, folder, session) for session in SESSIONS}
        pairs = {session: joined(files[session]) for session in SESSIONS}
        for session, other in zip(SESSIONS, reversed(SESSIONS), strict=True):
            train(files[session], folder / session, arguments.set)
            pair = pairs[session]
            result = {
                "session": session,
                "pair": pair.description(),
                "line": line(pair),
                "on_the_other_session": errors(folder / session, pairs[other]),
            }
            results.append(result)
            _print(result, str(pair.alignment))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def _print(result: dict[str, Any], alignment: str) -> None:
    fit = result["line"]
    print(f"session {result['session']}: {alignment}")
    print(f"  {result['pair']['windows']} windows; repeats {100 * result['pair']['repeated_timestamps']:.0f} %")
    print(
        f"  line fitted to this session: MAE {fit['mae']:.3f} W, R² {fit['r2']:.3f}, {fit['watts_per_cpu']:.2f} W/CPU"
    )
    for one in result["on_the_other_session"]:
        print(f"  {one['trainer']} ({one['feature_group']}) on the other session: {_errors_of(one)}")


def _errors_of(one: dict[str, Any]) -> str:
    interval = f"90 % interval ± {one['half_width']:.2f} W, which contains {100 * one['coverage']:.0f} %"
    return f"MAE {one['mae']:.3f} W, bias {one['bias']:+.3f} W, {interval}"


if __name__ == "__main__":
    main()
