"""Measure the time and memory for observing recordings of fleets, from JSON and from Parquet.

Each node has one container and one socket, and so two metrics with one series each. As with Prometheus, each node is
scraped at other times than the other nodes, and the times have milliseconds. There are two tables: one with the same
number of samples for each node, and one with the same number of samples in total. Each case runs in a process of its
own, which reads and observes the recording twice. The second run shows the time without the imports. Times are CPU
seconds.

    python bench/fleet.py [--nodes 10 100 1000 10000] [--times 100] [--total 2000000] [--runs 1] [--plot FILE.svg]
                          [--json]
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STEP_SECONDS = 5.0
START = 1_700_000_000.0
USAGE, ENERGY = "kepler_container_bpf_cpu_time_ms_total", "kepler_node_package_joules_total"
FULL_NODES, FULL_DAYS = 10_000, 30
"""Nodes and days of the fleet for which the benchmark extrapolates the CPU time."""


def write_fleet(path: Path, nodes: int, times: int) -> None:
    """Write a recording of a fleet as JSON, with `times` scrapes of each node."""
    with path.open("w") as file:
        for metric in (USAGE, ENERGY):
            file.write(("{" if metric == USAGE else ",") + f'"{metric}":[')
            for node in range(nodes):
                file.write(("," if node else "") + _series(metric, node, times))
            file.write("]")
        file.write("}")


def _series(metric: str, node: int, times: int) -> str:
    rng = np.random.default_rng(node)
    at = np.arange(times)
    seconds = np.round(START + rng.uniform(0, STEP_SECONDS) + STEP_SECONDS * at + rng.normal(0, 0.002, times), 3)
    load = rng.uniform(0, 16_000) * np.abs(np.sin(at / rng.uniform(3, 20)))
    watts = 60 + load / 100 * (1 + rng.normal(0, 0.01, times))
    labels = {"instance": f"10.{node >> 16}.{node >> 8 & 255}.{node & 255}:9102", "job": "kepler"}
    if metric == USAGE:
        labels["container_id"] = f"container-{node}"
        values = [f"{value:.0f}" for value in np.cumsum(load * STEP_SECONDS).tolist()]
    else:
        labels |= {"mode": "dynamic", "package": "0", "source": "rapl-sysfs"}
        values = [f"{value:.3f}" for value in np.cumsum(watts * STEP_SECONDS).tolist()]
    samples = list(zip(seconds.tolist(), values, strict=True))
    return json.dumps({"metric": labels, "values": samples}, separators=(",", ":"))


def measure(path: str) -> dict[str, Any]:
    """Read a recording twice. Return CPU seconds of the second run, the number of samples, and peak memory in MB."""
    from kepler_core.recording import observe, read_recording
    from kepler_core.recording.schemas import is_used_metric

    is_used_metric("")  # imports the metric schemas
    if path.endswith(".parquet"):
        from kepler_core.parquet import open_parts

        def opened() -> Any:
            return open_parts(path, wanted=is_used_metric)
    else:

        def opened() -> Any:
            return read_recording(path, wanted=is_used_metric)

    for _ in range(2):
        started = time.process_time()
        recording = opened()
        read = time.process_time()
        observations = observe([recording])
        done = time.process_time()
        samples = sum(recording.sample_counts.values())
        del recording, observations
    return {
        "samples": samples,
        "read": read - started,
        "observe": done - read,
        "total": done - started,
        "us_per_sample": 1e6 * (done - started) / samples,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Yield the cases: name of the case's table, number of nodes, and number of scrapes of each node."""
    for nodes in arguments.nodes:
        yield "same times", nodes, arguments.times
    for nodes in arguments.nodes:
        yield "same total", nodes, max(arguments.total // (2 * nodes), 2)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all cases, and return for each case the medians of its runs."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for table, nodes, times in cases(arguments):
            path = Path(folder) / "fleet.json"
            write_fleet(path, nodes, times)
            parquet = Path(folder) / f"fleet-{table[5:]}-{nodes}.parquet"
            subprocess.run(
                [sys.executable, "-m", "kepler_core", "convert", path, parquet], check=True, capture_output=True
            )
            for form, source in (("JSON", path), ("Parquet", parquet)):
                command = [sys.executable, __file__, "--one", str(source)]
                runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.runs)]
                median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                results.append({"table": table, "form": form, "nodes": nodes, "times": times, **median})
                print(json.dumps(results[-1]), file=sys.stderr)
    return results


def extrapolated(results: list[dict[str, Any]]) -> dict[str, float]:
    """Extrapolate the CPU hours for a fleet of `FULL_NODES` nodes, for a recording in JSON and in Parquet.

    Each node has two metrics for `FULL_DAYS` days. The time per sample is that of the case with the most nodes.
    """
    samples = 2 * FULL_NODES * FULL_DAYS * 86_400 / STEP_SECONDS
    last = {r["form"]: r["us_per_sample"] for r in results if r["table"] == "same times"}
    return {form: samples * cost / 1e6 / 3600 for form, cost in last.items()}


def plot(results: list[dict[str, Any]], path: str) -> None:
    """Draw CPU seconds over samples, both logarithmic, with the extrapolation as a dashed line."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fleet"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    full = 2 * FULL_NODES * FULL_DAYS * 86_400 / STEP_SECONDS
    for form, colour in (("JSON", "tab:blue"), ("Parquet", "tab:orange")):
        of_form = [r for r in results if r["form"] == form and r["table"] == "same times"]
        axes.loglog([r["samples"] for r in of_form], [r["total"] for r in of_form], "o-", color=colour, label=form)
        last = of_form[-1]
        line = [last["samples"], full], [last["total"], last["total"] * full / last["samples"]]
        axes.loglog(*line, "--", color=colour, label=f"{form}, extrapolated")
    axes.set_xlabel("samples (100 per series, 10 to 10,000 nodes; right: 10,000 nodes × 30 days)")
    axes.set_ylabel("CPU seconds")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--times", type=int, default=100, help="scrapes of each node in the first table")
    parser.add_argument("--total", type=int, default=1_000_000, help="samples in the second table")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    results = run(arguments)
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.json:
        print(json.dumps({"cases": results, "extrapolated_cpu_hours": extrapolated(results)}, indent=1))
        return
    print(f"{'':12} {'form':8} {'nodes':>6} {'times':>7} {'samples':>9} {'CPU s':>7} {'k/s':>6} {'µs/sample':>10} "
          f"{'peak MB':>8}")  # fmt: skip
    for r in results:
        print(
            f"{r['table']:12} {r['form']:8} {r['nodes']:6} {r['times']:7} {r['samples']:9.0f} {r['total']:7.2f} "
            f"{r['samples'] / r['total'] / 1e3:6.0f} {r['us_per_sample']:10.2f} {r['peak_mb']:8.0f}"
        )
    for form, hours in extrapolated(results).items():
        print(f"extrapolated to {FULL_NODES} nodes, {FULL_DAYS} days, 2 metrics, from {form}: {hours:.1f} CPU hours")


if __name__ == "__main__":
    main()
