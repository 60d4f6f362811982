"""Measure the estimator: requests per second, latencies, memory and the time to the first answer.

The benchmark trains a pipeline on a simulated recording and starts `kepler-model serve estimator` with the
pipeline's store. bench/load.py then sends requests as Kepler does: it opens a new connection for each
request, sends no delimiter, and reads the reply with one call of at most 4096 bytes. A request has 1, 100 or
500 rows, with columns in a random order. The benchmark compares every reply with the watts that the model
itself predicts. For this comparison, the benchmark evaluates tree ensembles with ONNX Runtime, whereas the
estimator evaluates them as tables.

    python bench/estimator.py [--runs 3] [--seconds 0.5] [--minutes 0.5] [--features GROUP] [--quick] [--json]

With `--minutes 10`, the load lasts long enough to show whether the estimator's memory grows.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from estimator_run.requests import DISTINCT_REQUESTS, PIPELINE, SOURCE, CheckedRequests
from generated_stores import memory_folder
from load import KEPLER_READS
from model_server import megabytes, progress

from kepler_core.client import EstimatorClient
from kepler_core.vocabulary import FEATURE_GROUPS, OUTPUT_TYPES

GROUP = "BPFOnly"
"""Default feature group. `TARGETS` applies only to this feature group."""
BOOSTING, LINEAR = "GradientBoostingRegressorTrainer", "LinearRegressionTrainer"
TRAINERS = {BOOSTING: "boosting", LINEAR: "linear"}
ROWS = (1, 100, 500)
CLIENTS = (1, 8)
KEPLER_METRICS = ("bpf_cpu_time_ms", "bpf_net_tx_irq", "bpf_net_rx_irq", "bpf_block_irq", "bpf_page_cache_hit")
"""Metrics that Kepler 0.7 sends if a machine has no hardware counters. The models of `GROUP` need two of these."""
STARTS = 5
FIRST_REQUESTS = 10_000
SAMPLES = 5
"""Number of memory measurements during the load."""
START_TIMEOUT_SECONDS = 60.0

TARGETS = {BOOSTING: (6000, 3000, 1000), LINEAR: (6000, 4000, 2500)}
"""Targets for the requests per second with 8 clients: for each trainer, one target per number of rows in `ROWS`."""
EXISTING = {BOOSTING: (736, 648, 435), LINEAR: (934, 771, 582)}
P99 = "≤ 5 ms at 1 and 100 rows"
EXISTING_P99 = "20–34 ms"


# --- models ---


def train(store: str, folder: Path, group: str) -> None:
    """Train the benchmark's pipeline on a simulated recording, and publish it in a store."""
    from kepler_core.simulate import Simulation, write

    recording = str(folder / "simulated.json")
    write(Simulation(containers=12, timestamps=300, seed=1), recording)
    trainers = f"[{BOOSTING},{LINEAR}]"
    keys = {
        "energy_sources": f"[{SOURCE}]",
        "feature_groups": f"[{group}]",
        "abs_trainers": trainers,
        "dyn_trainers": trainers,
    }
    command = [sys.executable, "-m", "kepler_core", "train", "quickstart", "--name", PIPELINE, "--json"]
    command += ["--input", recording, "--store", store]
    command += [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# --- the estimator's process ---


class RunningEstimator:
    """An estimator process that has already given a correct answer."""

    def __init__(self, store: str, folder: Path, first: CheckedRequests) -> None:
        self.path = str(folder / "e.sock")
        self.log = folder / "estimator.log"
        command = [sys.executable, "-m", "kepler_core", "serve", "estimator"]
        command += ["--socket", self.path, "--store", store]
        started = time.perf_counter()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            first.check(0, self._first_reply(first.requests[0]))
            self.first_answer = time.perf_counter() - started
            """Seconds from the start of the process to its first correct answer."""
        except BaseException:
            self.stop()
            raise

    def _first_reply(self, request: bytes) -> bytes:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return self.ask(request)
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the estimator does not answer:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.002)

    def ask(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(START_TIMEOUT_SECONDS)
            connection.connect(self.path)
            connection.sendall(request)
            return connection.recv(KEPLER_READS)

    def memory(self) -> float:
        """Return the resident memory of the estimator's process in MB."""
        return megabytes(self.process.pid, "VmRSS")

    def cpu(self) -> float:
        """Return the CPU seconds that the estimator's process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Load:
    """Requests and their expected replies, in files that bench/load.py reads."""

    def __init__(self, estimator: RunningEstimator, folder: Path, name: str, *kinds: CheckedRequests) -> None:
        self._estimator = estimator
        self._bodies, self._replies = folder / f"{name}.requests", folder / f"{name}.replies"
        self.reply_bytes = 0
        requests, replies = [], []
        for kind in kinds:
            for number, request in enumerate(kind.requests):
                reply = estimator.ask(request)
                again = estimator.ask(request)
                kind.check(number, reply)
                kind.check(number, again)
                requests.append(request)
                # If the estimator adds the rounding error of a row to the next row, two replies to one request can
                # differ. An empty expected reply makes bench/load.py accept any reply.
                replies.append(reply if again == reply else b"")
                self.reply_bytes = max(self.reply_bytes, len(reply), len(again))
        self._bodies.write_bytes(b"\n".join(requests))
        self._replies.write_bytes(b"".join(reply + b"\n" for reply in replies))

    def run(self, clients: int, seconds: float, processes: int) -> dict[str, float]:
        """Run bench/load.py, which sends the requests for some seconds and compares every reply with the expected one.

        Return the measurements of bench/load.py, and the estimator's CPU time per request in µs.
        """
        processes = min(processes, clients)
        command = [sys.executable, str(Path(__file__).with_name("load.py")), f"unix:{self._estimator.path}"]
        command += [str(self._bodies), "--replies", str(self._replies), "--json"]
        command += ["--clients", str(clients), "--seconds", str(seconds), "--processes", str(processes)]
        before = self._estimator.cpu()
        result: dict[str, float] = json.loads(subprocess.check_output(command))
        used = self._estimator.cpu() - before
        return result | {"cpu_us": 1e6 * used / max(result["answered"], 1)}


# --- measurements ---


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    store = str(folder / "store")
    progress("training")
    train(store, folder, arguments.features)
    starts = {}
    for trainer in TRAINERS:
        first = CheckedRequests(store, trainer, "AbsPower", 1)
        seconds = []
        for run in range(arguments.starts):
            progress(f"start {run + 1}: {TRAINERS[trainer]}")
            estimator = RunningEstimator(store, folder, first)
            estimator.stop()
            seconds.append(estimator.first_answer)
        starts[trainer] = {"first_answer": statistics.median(seconds), "all": seconds}
    estimator = RunningEstimator(store, folder, CheckedRequests(store, BOOSTING, "AbsPower", 1))
    try:
        memory = measure_memory(estimator, store, folder, arguments)
        loads = list(measure_loads(estimator, store, folder, arguments))
        memory["at the end"] = estimator.memory()
        memory["at most"] = megabytes(estimator.process.pid, "VmHWM")
        return {"starts": starts, "memory": memory, "loads": loads, "status": status(estimator)}
    finally:
        estimator.stop()


def measure_memory(
    estimator: RunningEstimator, store: str, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure the estimator's memory in MB.

    The measurements are made after the first answer, after 10,000 requests, and several times during the
    minutes of load.
    """
    memory: dict[str, Any] = {"first answer": estimator.memory()}
    kinds = itertools.product(TRAINERS, OUTPUT_TYPES, ROWS)
    load = Load(estimator, folder, "all", *(CheckedRequests(store, *kind) for kind in kinds))
    sent: float = len(TRAINERS) * len(OUTPUT_TYPES) * len(ROWS) * DISTINCT_REQUESTS
    while sent < FIRST_REQUESTS:
        progress(f"memory: {sent:.0f} requests")
        sent += load.run(CLIENTS[-1], 0.5, arguments.processes)["answered"]
    memory["10,000 requests"] = estimator.memory()
    memory["requests"] = sent
    memory["load"] = []
    for sample in range(SAMPLES):
        minutes = arguments.minutes / SAMPLES
        progress(f"memory: {minutes * sample:.1f} of {arguments.minutes:g} minutes")
        result = load.run(CLIENTS[-1], 60 * minutes, arguments.processes)
        sent += result["answered"]
        memory["load"].append({"requests": sent, "mb": estimator.memory(), "errors": result["errors"]})
    return memory


def measure_loads(
    estimator: RunningEstimator, store: str, folder: Path, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    own = FEATURE_GROUPS[arguments.features]
    columns = {str(len(own)): own} | ({"5": KEPLER_METRICS} if arguments.features == GROUP else {})
    for trainer, output_type, rows, (wide, metrics) in itertools.product(TRAINERS, OUTPUT_TYPES, ROWS, columns.items()):
        more = metrics is KEPLER_METRICS
        if more and (rows != 100 or output_type != "DynPower"):
            continue
        load = Load(estimator, folder, "one", CheckedRequests(store, trainer, output_type, rows, metrics))
        for clients in CLIENTS:
            if more and clients != CLIENTS[-1]:
                continue
            progress(f"load: {TRAINERS[trainer]}, {output_type}, {rows} rows, {clients} clients")
            tries = [load.run(clients, arguments.seconds, arguments.processes) for _ in range(arguments.runs)]
            median = {key: statistics.median(t[key] for t in tries) for key in tries[0]}
            median["errors"] = sum(t["errors"] for t in tries)
            kind = {"trainer": trainer, "output_type": output_type, "rows": rows, "clients": clients, "columns": wide}
            yield kind | median | {"reply_bytes": load.reply_bytes}


def status(estimator: RunningEstimator) -> dict[str, Any]:
    report = EstimatorClient(estimator.path).status()
    return {key: value for key, value in report.items() if key not in ("models", "sockets", "origins")}


def show(results: dict[str, Any]) -> None:
    """Print the results as tables."""
    print(
        f"{'model':>9} {'type':>9} {'rows':>5} {'columns':>8} {'clients':>8} {'req/s':>7} {'p50 ms':>7} {'p99 ms':>7}",
        end="",
    )
    print(f" {'max ms':>7} {'CPU µs':>7} {'load':>5} {'bytes':>6} {'errors':>7}   {'target':>7} {'existing*':>10}")
    for r in results["loads"]:
        target, existing = "", ""
        if r["clients"] == CLIENTS[-1] and r["columns"] == "2" and results["features"] == GROUP:
            at = ROWS.index(r["rows"])
            target, existing = f"≥ {TARGETS[r['trainer']][at]}", str(EXISTING[r["trainer"]][at])
        print(
            f"{TRAINERS[r['trainer']]:>9} {r['output_type']:>9} {r['rows']:5} {r['columns']:>8} {r['clients']:8} "
            f"{r['rate']:7.0f} {r['p50']:7.2f} {r['p99']:7.2f} {r['max']:7.1f} {r['cpu_us']:7.0f} "
            f"{100 * r['load_cpu']:4.0f}% {r['reply_bytes']:6} {r['errors']:7.0f}   {target:>7} {existing:>10}"
        )
    print(f"p99: target {P99}; existing* {EXISTING_P99}")
    print("CPU µs: CPU time of the estimator per request. load: CPU of the load generator on the same machine.")
    memory = results["memory"]
    errors = sum(sample["errors"] for sample in memory["load"])
    samples = ", ".join(f"{sample['mb']:.1f}" for sample in memory["load"])
    last = memory["load"][-1]["requests"]
    print("\nresident MB (target ≤ 70 after 10,000 requests, and flat from there; existing* 179)")
    print(f"  after the first answer {memory['first answer']:.1f}")
    print(f"  after {memory['requests']:.0f} requests of all kinds {memory['10,000 requests']:.1f}")
    print(f"  during the minutes of load {samples} ({last:.0f} requests, {errors:.0f} errors)")
    print(f"  at the end {memory['at the end']:.1f}, at most {memory['at most']:.1f}")
    print("\nseconds from the process's start to the first right answer (target ≤ 0.8; existing* 3.1)")
    for trainer, r in results["starts"].items():
        every = " ".join(f"{seconds:.2f}" for seconds in r["all"])
        print(f"  {TRAINERS[trainer]:>9} {r['first_answer']:.2f} (median of {every})")
    print("\n* existing: the estimator that this one replaces, on the same class of machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of runs; medians are reported (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds of load in each run (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=0.5, help="minutes of load to see if memory grows (%(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="number of processes that send requests; they share 8 clients (%(default)s)",
    )
    parser.add_argument(
        "--features", metavar="GROUP", default=GROUP, choices=FEATURE_GROUPS, help="feature group (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="one short run")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.starts = STARTS
    if arguments.quick:
        arguments.runs, arguments.seconds, arguments.minutes, arguments.starts = 1, 0.3, 0.05, 1
    busy = os.getloadavg()[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        results = measure(Path(folder), arguments) | {"features": arguments.features, "load_average": busy}
    progress("")
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(
        f"medians of {arguments.runs} runs of {arguments.seconds:g} s; {os.cpu_count()} cores shared by "
        f"estimator and load; load average {busy:.1f} before, {os.getloadavg()[0]:.1f} after; {platform.machine()}, "
        f"Python {platform.python_version()}, numpy {version('numpy')}; {time.perf_counter() - began:.0f} s in all\n"
    )
    show(results)


if __name__ == "__main__":
    main()
