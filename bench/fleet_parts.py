"""Measure the time and memory for reading a sample of a Parquet recording in parts, as `train` does.

The recording is that of bench/fleet.py. The benchmark reads it in one process, in worker processes and on Dask
clusters. Each of these cases runs in a process of its own. `peak MB` is the highest memory of the main process and of
a worker. The CPU seconds are those of all processes, with their imports. All cases must give the same observations.

    python bench/fleet_parts.py [--nodes 1000] [--times 2000] [--part-samples 1000000] [--sample-rows 500000] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fleet import write_fleet

CASES = (("whole", 1), ("loky", 1), ("loky", 4), ("dask", 1), ("dask", 4))
"""Backend and number of workers of each case. The case `whole` reads the recording at once, not in parts."""


def measure(path: str, backend: str, workers: int, part_samples: int, sample_rows: int) -> dict[str, Any]:
    """Make observations from a recording. Return seconds, peak memory in MB, and a digest of the observations."""
    import kepler_core.pipeline.part_sampling as part_sampling
    from kepler_core.parquet import open_parts
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.recording.schemas import is_used_metric

    whole = backend == "whole"
    started = time.perf_counter()
    recording = open_parts(path, wanted=is_used_metric, part_samples=None if whole else part_samples)
    observations, n_samples = part_sampling.observe_sample(
        PipelineSpec("fleet"), [recording], max_rows=sample_rows, backend="loky" if whole else backend, jobs=workers
    )  # fmt: skip
    seconds = time.perf_counter() - started
    digest = hashlib.sha256()
    columns = [observations.sample_time, observations.sample_stream, *observations.power.values()]
    for column in [*columns, *observations.container_features.values()]:
        digest.update(column.tobytes())
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "backend": backend,
        "workers": workers,
        "parts": len(recording.parts),
        "samples": sum(recording.sample_counts.values()),
        "kept": len(observations.sample_time),
        "of": n_samples,
        "cpu_seconds": own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime,
        "seconds": seconds,
        "main_peak_mb": own.ru_maxrss / 1024,
        "worker_peak_mb": others.ru_maxrss / 1024,
        "digest": digest.hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--times", type=int, default=2000, help="scrapes of each node")
    parser.add_argument("--part-samples", type=int, default=1_000_000)
    parser.add_argument("--sample-rows", type=int, default=500_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        path, backend, workers = arguments.one
        print(json.dumps(measure(path, backend, int(workers), arguments.part_samples, arguments.sample_rows)))
        return
    sizes = ["--part-samples", str(arguments.part_samples), "--sample-rows", str(arguments.sample_rows)]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "fleet.json", Path(folder) / "fleet.parquet"
        write_fleet(source, arguments.nodes, arguments.times)
        subprocess.run([sys.executable, "-m", "kepler_core", "convert", source, path], check=True, capture_output=True)
        source.unlink()
        for backend, workers in CASES:
            command = [sys.executable, __file__, "--one", str(path), backend, str(workers), *sizes]
            results.append(json.loads(subprocess.check_output(command)))
            print(json.dumps(results[-1]), file=sys.stderr)
    if len({result["digest"] for result in results}) > 1:
        sys.exit("the observations differ")
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(f"{'backend':8} {'workers':>7} {'parts':>6} {'samples':>10} {'kept':>9} {'CPU s':>7} {'s':>7} {'main MB':>8} "
          f"{'worker MB':>10}")  # fmt: skip
    for r in results:
        print(
            f"{r['backend']:8} {r['workers']:7} {r['parts']:6} {r['samples']:10} {r['kept']:9} {r['cpu_seconds']:7.1f} "
            f"{r['seconds']:7.1f} {r['main_peak_mb']:8.0f} {r['worker_peak_mb']:10.0f}"
        )


if __name__ == "__main__":
    main()
