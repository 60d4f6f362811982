"""Measure the time and memory for reading a recording and extracting the data sets of all feature groups.

There are three simulated recordings: 50 containers and 200 timestamps; 200 containers and 600 timestamps; 1000
containers and 600 timestamps. Each run is a separate process, which reads the recording's JSON, calculates rates,
and extracts the AbsPower and DynPower data sets of each feature group and of each energy source (rapl-sysfs and
acpi). The output shows the medians of the runs. It also shows a ratio: the time per sample with 1000 containers,
divided by the time per sample with 200 containers.

    python bench/extract.py [--runs 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = ((50, 200), (200, 600), (1000, 600))
EXISTING_SECONDS = {(50, 200): 0.08 + 0.24, (200, 600): 1.1 + 3.8, (1000, 600): 7.6 + 51.0}
"""Seconds that the predecessor of Kepler Core takes, by the numbers of containers and timestamps.

The seconds are for parsing and extraction together, for a single feature group and a single output type.
"""


def measure(path: str) -> dict[str, Any]:
    """Read a recording and extract all data sets.

    Return the seconds of each step, the numbers of samples and rows, and the peak memory of this process in MB.
    """
    import numpy as np
    import pandas as pd  # noqa: F401 - imported before the measurement begins

    from kepler_core.contracts import IsolationContext
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.plan import datasets, plan
    from kepler_core.plugins import registry
    from kepler_core.recording import observe, read_recording
    from kepler_core.recording.schemas import is_used_metric

    spec = load_pipeline("default")
    is_used_metric("")  # imports the metric schemas now, so that the measured time does not include the import
    started = time.perf_counter()
    recording = read_recording(path, wanted=is_used_metric)
    read = time.perf_counter()
    observations = observe([recording])
    observed = time.perf_counter()
    samples = recording.n_samples
    del recording
    n_datasets = rows = 0
    checksum = 0.0
    extractor = registry.extractors.create(spec.extractor.name, spec.extractor.args)
    isolator = registry.isolators.create(spec.isolator.name, spec.isolator.args)
    context = IsolationContext(observations)
    for _, dataset in datasets(extractor, isolator, plan(spec, observations), context):
        n_datasets += 1
        rows += len(dataset.frame)
        checksum += float(np.nansum(dataset.frame.iloc[-1].to_numpy()))
        del dataset  # as in a training, only one data set at a time is in memory
    done = time.perf_counter()
    return {
        "samples": samples,
        "read": read - started,
        "observe": observed - read,
        "datasets": done - observed,
        "total": done - started,
        "n_datasets": n_datasets,
        "rows": rows,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    from kepler_core.simulate import Simulation, write

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for containers, timestamps in SIZES:
            path = str(Path(folder) / f"{containers}.json")
            # With churn=0.0, every container exists at all timestamps, so the number of samples of each metric is
            # known: containers x timestamps.
            write(Simulation(containers=containers, timestamps=timestamps, churn=0.0), path)
            runs = [
                json.loads(subprocess.check_output([sys.executable, __file__, "--one", path]))
                for _ in range(arguments.runs)
            ]
            median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            median |= {"containers": containers, "timestamps": timestamps, "mb": Path(path).stat().st_size / 1e6}
            median["ns_per_sample"] = 1e9 * median["total"] / median["samples"]
            results.append(median)
            Path(path).unlink()
    ratio = results[-1]["ns_per_sample"] / results[-2]["ns_per_sample"]
    if arguments.json:
        print(json.dumps({"sizes": results, "per_sample_1000_to_200": ratio}, indent=1))
        return
    print(f"medians of {arguments.runs} runs; seconds")
    header = f"{'size':>10} {'MB':>6} {'samples':>9} {'read':>6} {'observe':>8} {'datasets':>9} {'total':>6}"
    print(f"{header} {'sets':>5} {'ns/sample':>10} {'peak MB':>8} {'existing*':>10}")
    for r in results:
        size = f"{r['containers']}x{r['timestamps']}"
        print(
            f"{size:>10} {r['mb']:6.0f} {r['samples']:9.0f} {r['read']:6.2f} {r['observe']:8.2f} "
            f"{r['datasets']:9.2f} {r['total']:6.2f} {r['n_datasets']:5.0f} {r['ns_per_sample']:10.0f} "
            f"{r['peak_mb']:8.0f} {EXISTING_SECONDS[r['containers'], r['timestamps']]:10.2f}"
        )
    print(f"cost per sample at 1000 containers / at 200: {ratio:.2f}")
    print("* existing: Kepler Core's predecessor, one feature group and output type only, on the same class of machine")


if __name__ == "__main__":
    main()
