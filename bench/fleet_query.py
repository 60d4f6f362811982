"""Measure the time and memory of `kepler-model query` for a fleet, whose samples a server generates.

The server (tests/support/generated_fleet.py) runs in a process of its own. It has two usage metrics and one energy
metric of each node, and rejects large queries as Prometheus and Mimir do. `query` writes the recording as Parquet. Its
CPU seconds and its peak memory are measured for fleets of different size.

    python bench/fleet_query.py [--nodes 250 1000 4000] [--containers 10] [--minutes 120] [--interval 30] [--jobs 4]
                                [--max-samples 50000000] [--max-series 100000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from support.generated_fleet import START, GeneratedFleet  # noqa: E402
from support.prometheus_process import answering  # noqa: E402

FULL_NODES, FULL_MINUTES = 10_000, 120
"""The fleet for which time and size are extrapolated."""


def serve(options: dict[str, Any]) -> None:
    """Serve a fleet until standard input ends. Print the URL, and at the end the numbers of requests as JSON."""
    fleet = GeneratedFleet(**options)
    with answering(fleet.reply) as url:
        print(url, flush=True)
        sys.stdin.read()
    counts = {"requests": len(fleet.requests), "rejected": fleet.rejected, "largest_mb": fleet.largest / 2**20}
    print(json.dumps(counts), flush=True)


def measure(nodes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Query a fleet, and return the CPU seconds, the peak memory in MB and the numbers of requests and samples."""
    options = {
        "nodes": nodes,
        "containers": arguments.containers,
        "interval": arguments.interval,
        "max_samples": arguments.max_samples,
        "max_series": arguments.max_series,
    }
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "kepler_core", "query", "--server", url, "-j", str(arguments.jobs)),
            *("--start", str(START), "--end", str(START + 60 * arguments.minutes), "--rate", str(arguments.rate)),
            *("-o", f"{folder}/fleet.parquet", "--json"),
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status != 0:
            sys.exit("the query failed")
    counts = json.loads(server.communicate("")[0])
    per_series = 60 * arguments.minutes / arguments.interval
    samples = nodes * (2 * arguments.containers + 1) * per_series
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "nodes": nodes,
        "samples": samples,
        "queries": summary["queries"],
        **counts,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "us_per_sample": 1e6 * cpu / samples,
        "peak_mb": usage.ru_maxrss / 1024,
        "parquet_mb": summary["bytes"] / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--containers", type=int, default=10, help="containers of each node")
    parser.add_argument("--minutes", type=int, default=FULL_MINUTES)
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two scrapes")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--max-samples", type=int, default=50_000_000)
    parser.add_argument("--max-series", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    results = []
    for nodes in arguments.nodes:
        results.append(measure(nodes, arguments))
        print(json.dumps(results[-1]), file=sys.stderr)
    last = results[-1]
    scale = FULL_NODES * FULL_MINUTES / (last["nodes"] * arguments.minutes)
    extrapolated = {name: last[name] * scale for name in ("samples", "cpu_seconds", "parquet_mb")}
    if arguments.json:
        print(json.dumps({"cases": results, "extrapolated": extrapolated}, indent=1))
        return
    print("nodes     samples  queries  requests  rejected  largest MB  CPU s  µs/sample  peak MB  Parquet MB")
    for r in results:
        print(
            f"{r['nodes']:5} {r['samples']:11.0f} {r['queries']:8} {r['requests']:9} {r['rejected']:9} "
            f"{r['largest_mb']:11.1f} {r['cpu_seconds']:6.1f} {r['us_per_sample']:10.2f} {r['peak_mb']:8.0f} "
            f"{r['parquet_mb']:11.1f}"
        )
    print(
        f"extrapolated from the last row to {FULL_NODES} nodes × {FULL_MINUTES} minutes: "
        f"{extrapolated['samples'] / 1e6:.0f} million samples, {extrapolated['cpu_seconds']:.0f} CPU seconds"
    )


if __name__ == "__main__":
    main()
