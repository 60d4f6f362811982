"""Measure the model server with small and large stores: time to start, requests per second, latencies, memory.

There are three stores, each with one pipeline. The trained store has a pipeline that is trained on a simulated
recording. The small store has 100 models of 3 node types, and the large store has 10,000 models of 300 node
types. The models of the small and the large store are made up by bench/generated_stores.py. A
separate server process (`kepler-model serve model-server`) serves each store. The three servers run on this
machine at the same time. bench/load.py, in a process of its own, puts load on one server after another. There
are three kinds of requests:

    captured   always the same bytes, which Kepler 0.7 has sent
    300 specs  the machines of the large store's 300 node types, in turn
    distinct   a different machine in every request, so that no cache can help

    python bench/model_server.py [--runs 3] [--seconds 0.8] [--workers 1] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from generated_stores import CAPTURED, machines, memory_folder, publish, train

TRAINED, SMALL, LARGE = "trained", "100 models", "10,000 models"
SIZES = {SMALL: (100, 3), LARGE: (10_000, 300)}
"""Number of models and number of node types of each made-up store, by the store's name."""
CLIENTS = (1, 16)
KINDS = ("captured", "300 specs", "distinct")
DISTINCT = 20_000
MAX_COST_RATIO = 1.3
"""Target for this ratio: time of a request to the large store, divided by the time of a request to the small store."""
PREDECESSOR = {1: "925", 16: "411 (p99 65 ms)"}
"""Requests per second of kepler-model-server, the predecessor of the model server, by number of clients."""
START_TIMEOUT_SECONDS = 60.0


# --- requests ---


def bodies(kind: str, weights: bool) -> Iterator[bytes]:
    """Yield the bodies of the requests of one kind: "captured", "300 specs" or "distinct"."""
    request = CAPTURED | {"weight": weights}
    captured = CAPTURED["machine_spec"]
    specs: Iterator[dict[str, Any]]
    if kind == "captured":
        specs = iter([captured])
    elif kind == "300 specs":
        specs = iter([captured | spec for spec in machines(SIZES[LARGE][1])])
    else:
        specs = (captured | {"memory": memory} for memory in range(1, DISTINCT + 1))
    for spec in specs:
        yield json.dumps(request | {"machine_spec": spec}, separators=(",", ":")).encode()


# --- a model server's process ---


class RunningServer:
    """A model server's process, which serves a store and is ready to answer."""

    def __init__(self, store: str, workers: int, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "kepler_core", "serve", "model-server", "--store", store]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(workers)]
        self.log = log
        started = time.perf_counter()
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._until_200("GET", "/readyz", None)
            self.ready = time.perf_counter() - started
            """Seconds from the start of the process until it answered `GET /readyz` with status 200."""
            answer = self._until_200("POST", "/model", next(bodies("captured", True)))
            self.first_answer = time.perf_counter() - started
            """Seconds from the start of the process until it answered with weights to Kepler's recorded request."""
            check_weights(answer)
        except BaseException:
            self.stop()
            raise

    def _until_200(self, method: str, path: str, body: bytes | None) -> bytes:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        answer = b""
        while True:
            with contextlib.suppress(ConnectionError):
                status, answer = self.ask(method, path, body)
                if status == 200:
                    return answer
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(
                    f"the server does not answer with status 200: {answer[:500]!r}\n{self.log.read_text()[-2000:]}"
                )
            time.sleep(0.005)

    def ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def memory(self) -> dict[str, Any]:
        """Return the memory in MB of the parent process, of each worker process, and of each worker at its peak."""
        children = [pid for pid, parent in processes() if parent == self.process.pid]
        return {
            "parent": megabytes(self.process.pid, "VmRSS"),
            "workers": [megabytes(pid, "VmRSS") for pid in children],
            "peaks": [megabytes(pid, "VmHWM") for pid in children],
        }

    def cpu(self) -> float:
        """Return the CPU seconds that the server's processes have used so far."""
        pids = [self.process.pid, *(pid for pid, parent in processes() if parent == self.process.pid)]
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def processes() -> Iterator[tuple[int, int]]:
    """Yield the id of each process on this machine, and the id of its parent process."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process may have ended since `glob` listed it
            yield int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])


def megabytes(pid: int, field: str) -> float:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def check_weights(body: bytes) -> dict[str, Any]:
    """Decode an answer of the model server; fail unless it has the weights that Kepler needs."""
    answer: dict[str, Any] = json.loads(body)
    assert answer["model_name"].startswith("SGDRegressorTrainer_"), answer
    for component in ("package", "dram"):
        assert answer[component]["All_Weights"]["Numerical_Variables"]["bpf_cpu_time_ms"]["scale"] > 0, answer
    return answer


def check_node_types(server: RunningServer, count: int) -> None:
    """Check that the server sends the machine of each node type a model of this node type."""
    for number, body in enumerate(itertools.islice(bodies("300 specs", True), count)):
        status, answer = server.ask("POST", "/model", body)
        assert status == 200, answer
        assert check_weights(answer)["model_name"] == f"SGDRegressorTrainer_{number}", (number, answer)


def run_load(server: RunningServer, requests: Path, clients: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("load.py")), f"http://127.0.0.1:{server.port}/model"]
    command += [str(requests), "--clients", str(clients), "--seconds", str(seconds), "--json"]
    before = server.cpu()
    result: dict[str, float] = json.loads(subprocess.check_output(command))
    used = server.cpu() - before
    return result | {"cpu_us": 1e6 * used / max(result["answered"], 1), "ms": 1e3 / max(result["rate"], 1e-9)}


# --- measuring ---


def measure(folder: Path, runs: int, seconds: float, workers: int, names: Sequence[str]) -> dict[str, Any]:
    stores = {name: str(folder / re.sub(r"\W+", "-", name)) for name in names}
    for name, root in stores.items():
        progress(f"making the store: {name}")
        train(root, folder) if name == TRAINED else publish(root, *SIZES[name])
    files: dict[tuple[str, bool], Path] = {}
    for kind, weights in itertools.product(KINDS, (True, False)):
        files[kind, weights] = folder / f"{kind}-{weights}.jsonl"
        files[kind, weights].write_bytes(b"\n".join(bodies(kind, weights)))
    starts: dict[str, dict[str, Any]] = {}
    servers: dict[str, RunningServer] = {}
    try:
        for name, root in stores.items():
            progress(f"starting a server: {name}")
            tries = []
            for run in range(runs):
                servers[name] = RunningServer(root, workers, folder / "server.log")
                tries.append(servers[name])
                if run < runs - 1:
                    servers[name].stop()
            if name != TRAINED:
                check_node_types(servers[name], SIZES[name][1])
            starts[name] = {
                "ready": statistics.median(t.ready for t in tries),
                "first_answer": statistics.median(t.first_answer for t in tries),
                "before": servers[name].memory(),
            }
        loads = measure_loads(servers, files, runs, seconds)
        for name, server in servers.items():
            starts[name]["after"] = server.memory()
    finally:
        for server in servers.values():
            server.stop()
    return {"starts": starts, "loads": loads, "ratios": ratios(loads)}


def measure_loads(
    servers: dict[str, RunningServer], files: dict[tuple[str, bool], Path], runs: int, seconds: float
) -> list[dict[str, Any]]:
    results = []
    for weights, kind, clients in itertools.product((True, False), KINDS, CLIENTS):
        progress(f"load: {'weights' if weights else 'zip'}, {kind}, {clients} clients")
        # The trained store has a single node type, so it gets only requests of the kind "captured".
        asked = [name for name in servers if name != TRAINED or kind == "captured"]
        results_of: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
        for _ in range(runs):
            # Put load on the servers in turn, so that other programs on this machine affect all servers alike.
            for name in asked:
                results_of[name].append(run_load(servers[name], files[kind, weights], clients, seconds))
        for name, tries in results_of.items():
            median = {key: statistics.median(t[key] for t in tries) for key in tries[0]}
            median["errors"] = sum(t["errors"] for t in tries)
            answer = "weights" if weights else "zip"
            results.append({"store": name, "kind": kind, "answer": answer, "clients": clients, **median})
    return results


def ratios(loads: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the large store with the small store.

    Return two ratios for each kind of request: the large store's value divided by the small store's value, for the
    time per request and for the server's CPU time per request.
    """
    at = {(r["store"], r["kind"], r["answer"], r["clients"]): r for r in loads}
    return [
        {"kind": kind, "answer": answer, "clients": clients}
        | {key: large[key] / at[SMALL, kind, answer, clients][key] for key in ("ms", "cpu_us")}
        for (store, kind, answer, clients), large in at.items()
        if store == LARGE
    ]


def progress(step: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{step}", end="", file=sys.stderr, flush=True)


def show(results: dict[str, Any]) -> None:
    print(f"{'start':>15} {'ready s':>8} {'1st answer s':>13} {'parent MB':>10} {'worker MB':>16} ", end="")
    print(f"{'after load':>16} {'at most':>16}")
    for name, r in results["starts"].items():
        before, after = r["before"], r["after"]
        columns = (before["workers"], after["workers"], after["peaks"])
        workers = " ".join(f"{'/'.join(f'{mb:.0f}' for mb in column):>16}" for column in columns)
        print(f"{name:>15} {r['ready']:8.2f} {r['first_answer']:13.2f} {after['parent']:10.0f} {workers}")
    print(f"{'target':>15} {'':>8} {'≤ 1.5':>13} {'':>10} {'':>16} {'≤ 90':>16}")
    print(f"{'predecessor*':>15} {'':>8} {'3':>13} {'':>10} {'':>16} {'165–196':>16}")
    print(f"\n{'store':>15} {'answer':>8} {'request':>10} {'clients':>8} {'req/s':>7}", end="")
    print(f" {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7} {'CPU µs':>7} {'load':>5} {'errors':>7}")
    for r in results["loads"]:
        print(
            f"{r['store']:>15} {r['answer']:>8} {r['kind']:>10} {r['clients']:8.0f} {r['rate']:7.0f} {r['p50']:7.2f} "
            f"{r['p99']:7.2f} {r['max']:7.1f} {r['cpu_us']:7.0f} {100 * r['load_cpu']:4.0f}% {r['errors']:7.0f}"
        )
    print(f"{'target':>15} {'':>8} {'':>10} {16:8.0f} {'≥ 5000':>7} {'':>7} {'≤ 15':>7}")
    print(
        f"{'predecessor*':>15} {'':>8} {'':>10} " + "; ".join(f"{n} clients: {rate}" for n, rate in PREDECESSOR.items())
    )
    if results["ratios"]:
        print(f"\ntime per request, {LARGE} ÷ {SMALL} (target ≤ {MAX_COST_RATIO}); in brackets the server's CPU time")
        for answer, kind in itertools.product(("weights", "zip"), KINDS):
            rows = [r for r in results["ratios"] if (r["answer"], r["kind"]) == (answer, kind)]
            shown = "   ".join(f"{r['clients']:>2} clients {r['ms']:5.2f} ({r['cpu_us']:.2f})" for r in rows)
            print(f"{answer:>15} {kind:>10}   {shown}")
    print("\nCPU µs: of all of the server's processes, per request. load: CPU of the load generator.")
    print("* the model server that this one replaces, on 2 cores of the same class of machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="number of runs; medians are shown (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.8, help="seconds of load in each run (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, help="number of worker processes of each server (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="make one short run, and leave out the trained store")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs, seconds = (1, 0.5) if arguments.quick else (arguments.runs, arguments.seconds)
    names = (SMALL, LARGE) if arguments.quick else (TRAINED, SMALL, LARGE)
    busy = os.getloadavg()[0]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        results = measure(Path(folder), runs, seconds, arguments.workers, names)
    progress("")
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(
        f"medians of {runs} runs of {seconds:g} s; {os.cpu_count()} cores shared by server and load, load average "
        f"{busy:.1f} before; {platform.machine()}, Python {platform.python_version()}, granian {version('granian')}, "
        f"{arguments.workers} workers; stores in memory; {time.perf_counter() - started:.0f} s in all\n"
    )
    show(results)


if __name__ == "__main__":
    main()
