"""What installed plugins cost who only lists them: `plugins list` with 10, 50 and 200 dummy plugins.

Each dummy is a distribution of its own with a trainer and an alias, in a folder on the path; none of
their modules could be imported. The commands alternate, so that a busy machine is as busy for each.
What is compared is the median of the processor time that a run takes, and of the time that passes.

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
MOST_MORE = 100.0
"""Milliseconds that listing 50 may take more than listing 10."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kepler-bench-") as folder:
        sites = {count: site(Path(folder) / str(count), count) for count in COUNTS}
        taken: dict[int, list[tuple[float, float]]] = {count: [] for count in COUNTS}
        for run in range(arguments.runs + 1):
            for count in COUNTS:
                found = listed(sites[count], count)
                if run:  # the first one writes byte code and fills caches
                    taken[count].append(found)
    processor = {count: statistics.median(cpu for cpu, _ in taken[count]) for count in COUNTS}
    passed = {count: statistics.median(wall for _, wall in taken[count]) for count in COUNTS}
    more = {"cpu_ms": processor[50] - processor[10], "wall_ms": passed[50] - passed[10]}
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "runs": arguments.runs,
        "cpu_ms": {str(count): round(processor[count], 1) for count in COUNTS},
        "wall_ms": {str(count): round(passed[count], 1) for count in COUNTS},
        "50_more_than_10": {key: round(value, 1) for key, value in more.items()},
        "met": max(more.values()) < MOST_MORE,
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"plugins list, median of {arguments.runs} runs, Python {report['python']}\n")
        print("dummy plugins   CPU ms   wall ms")
        for count in COUNTS:
            print(f"{count:>13}  {processor[count]:>7.0f}  {passed[count]:>8.0f}")
        print(
            f"\n50 take {more['cpu_ms']:.0f} ms of CPU and {more['wall_ms']:.0f} ms more than 10; "
            f"at most {MOST_MORE:.0f} are allowed: {'met' if report['met'] else 'NOT MET'}"
        )
    return 0 if report["met"] else 1


def site(folder: Path, count: int) -> Path:
    """A folder with so many distributions, as pip leaves them."""
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


def listed(folder: Path, count: int) -> tuple[float, float]:
    """Processor and wall milliseconds of one `plugins list`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kepler_core", "plugins", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = sum("kepler-dummy-" in line for line in done.stdout.splitlines())
    if shown != count:
        raise SystemExit(f"{shown} dummies were listed, not {count}")
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), 1000 * wall


if __name__ == "__main__":
    sys.exit(main())
