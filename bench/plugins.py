"""Measure the time of `kepler-model plugins list` with 0, 10, 50 and 200 installed dummy plugins.

Each dummy plugin is a distribution with a trainer and an alias of the trainer, in a folder on PYTHONPATH. Its
module raises an error when it is imported, because `plugins list` must not import plugins. Each run of the
benchmark measures the command with each of these numbers of plugins, one after another. So other programs on the
machine affect all four measurements alike. The output shows the medians of CPU time and elapsed time.

    python bench/plugins.py [--runs 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COUNTS = (0, 10, 50, 200)
MAX_DIFFERENCE_MS = 100.0
"""Target: maximum additional time for listing 50 plugins instead of 10, in milliseconds."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kepler-bench-") as folder:
        sites = {count: site(Path(folder) / str(count), count) for count in COUNTS}
        times: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
        for run in range(arguments.runs + 1):
            for count in COUNTS:
                milliseconds = list_plugins(sites[count], count)
                if run:  # run 0 is not measured: it writes byte code and fills caches
                    times[count].append(milliseconds)
    processor = {count: statistics.median(cpu for cpu, _ in times[count]) for count in COUNTS}
    wall = {count: statistics.median(wall_ms for _, wall_ms in times[count]) for count in COUNTS}
    difference = {"cpu_ms": processor[50] - processor[10], "wall_ms": wall[50] - wall[10]}
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "runs": arguments.runs,
        "cpu_ms": {str(count): round(processor[count], 1) for count in COUNTS},
        "wall_ms": {str(count): round(wall[count], 1) for count in COUNTS},
        "50_more_than_10": {key: round(value, 1) for key, value in difference.items()},
        "met": max(difference.values()) < MAX_DIFFERENCE_MS,
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"plugins list, median of {arguments.runs} runs, Python {report['python']}\n")
        print("dummy plugins   CPU ms   wall ms")
        for count in COUNTS:
            print(f"{count:>13}  {processor[count]:>7.0f}  {wall[count]:>8.0f}")
        print(
            f"\n50 take {difference['cpu_ms']:.0f} ms of CPU and {difference['wall_ms']:.0f} ms more than 10; "
            f"the limit is {MAX_DIFFERENCE_MS:.0f}: {'met' if report['met'] else 'NOT MET'}"
        )
    return 0 if report["met"] else 1


def site(folder: Path, count: int) -> Path:
    """Create a folder for PYTHONPATH in which `count` dummy plugins are installed."""
    folder.mkdir()
    for number in range(count):
        name = f"kepler_dummy_{number}"
        (folder / f"{name}.py").write_text("raise RuntimeError('listing imports nothing')\n")
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        target = f"{name}:Dummy{number}Trainer"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: A dummy\n")
        (info / "entry_points.txt").write_text(
            f"[kepler.plugin_api]\n1.0 = {name}\n\n"
            f"[kepler.trainers]\nDummy{number}Trainer = {target}\n\n"
            f"[kepler.trainers.aliases]\ndummy-{number} = {target}\n"
        )
        (info / "RECORD").write_text("")
    return folder


def list_plugins(folder: Path, count: int) -> tuple[float, float]:
    """Run `plugins list` once, and return its CPU time and its elapsed time in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "kepler_core", "plugins", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = sum("kepler-dummy-" in line for line in process.stdout.splitlines())
    if shown != count:
        raise SystemExit(f"{shown} dummies were listed, not {count}")
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), 1000 * wall


if __name__ == "__main__":
    sys.exit(main())
