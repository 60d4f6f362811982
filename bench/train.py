"""Measure the time of a complete training: all trainers, feature groups, energy sources and output types.

Each run is the command `kepler-model train default --json`, with cross-validation on blocks of time. There
are two recordings: kepler_coremark.json from ../shared/data, which is skipped if it does not exist, and a
simulated recording of 200 containers x 600 timestamps.

    python bench/train.py [--runs 3] [--jobs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXISTING_SECONDS = {"kepler_coremark.json": 22.0, "simulated 200x600": 148.0}
"""Seconds that the predecessor of Kepler Core takes for each recording.

The predecessor does not cross-validate: it shuffles the data, and splits them once into training and test data.
"""


def run(path: str, jobs: int | None) -> dict[str, Any]:
    """Run one training with a recording.

    Return the seconds of the whole process and of each phase, and the numbers of trained and of failed
    models.
    """
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "kepler_core", "train", "default", "--input", path, "--store", store, "--json"]
        command += ["--jobs", str(jobs)] if jobs else []
        started = time.perf_counter()
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        wall = time.perf_counter() - started
    report = json.loads(process.stdout)
    return {"wall": wall, "models": len(report["models"]), "failed": len(report["failed"]), **report["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from kepler_core.simulate import Simulation, write

    data = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "recordings" / "kepler_coremark.json"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        simulated = str(Path(folder) / "simulated.json")
        write(Simulation(containers=200, timestamps=600), simulated)
        inputs = {"kepler_coremark.json": str(data), "simulated 200x600": simulated}
        for name, path in inputs.items():
            if not Path(path).exists():
                print(f"{name}: no such file, skipped", file=sys.stderr)
                continue
            runs = [run(path, arguments.jobs) for _ in range(arguments.runs)]
            results[name] = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(f"medians of {arguments.runs} runs; seconds; wall is the whole process")
    header = f"{'data':>22} {'models':>7} {'failed':>7} {'read':>6} {'extract':>8} {'fit':>7} {'wall':>7}"
    print(f"{header} {'existing*':>10} ratio")
    for name, r in results.items():
        print(
            f"{name:>22} {r['models']:7.0f} {r['failed']:7.0f} {r['read']:6.2f} {r['extract']:8.2f} {r['fit']:7.1f} "
            f"{r['wall']:7.1f} {EXISTING_SECONDS[name]:10.0f} {r['wall'] / EXISTING_SECONDS[name]:5.2f}"
        )
    print("* existing: the predecessor of Kepler Core, with a single shuffled split instead of cross-validation")


if __name__ == "__main__":
    main()
