"""Measure how a model server answers when many estimators ask it at once after an outage (a thundering herd).

Each simulated estimator is the estimator's own model cache with its provider for a model server: the same threads,
requests, time limits and delays as in `kepler-model serve estimator`. A few client processes run all simulated
estimators. The model server is a process of its own (`kepler-model serve model-server`) with a made-up store. There
are two phases:

    late start   all estimators need a model, but the server starts only after the outage
    restart      all estimators have a model; the server is killed, and started again after the outage

A phase ends when each estimator has got an answer after the outage. The estimator measures the latency of a request,
from the connection to the loaded answer. The estimators and the server share the CPU, so on a machine with few cores,
the latency contains the wait for the CPU. A request counts as failed if the server was ready when the request was sent,
but the answer was no model.

A simulation extrapolates the results to a fleet. In the simulation, one server answers one request after another, and
each answer takes the CPU time that was measured under load. The estimators have the delays of the estimator's code.

    python bench/herd.py [--estimators 200] [--processes 2] [--outage 6] [--refresh 10] [--models 1000]
                         [--fleet 10000] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from generated_stores import CAPTURED, machines, memory_folder, publish

START_TIMEOUT_SECONDS = 60.0
PHASE_TIMEOUT_SECONDS = 120.0
LOAD_REQUESTS = 20_000
LOAD_SECONDS = 2.0
KEPLER_SECONDS = 3.0
"""Seconds between two requests of Kepler to an estimator. All estimators of a fleet get their first request within
this time."""
FLEET_OUTAGES_SECONDS = (5.0, 60.0, 600.0)
FLEET_REFRESH_SECONDS = 120.0
"""Default of the estimator's option `--refresh`."""


# --- estimators ---


def run_estimators(url: str, numbers: Sequence[int], refresh: float, commands: Any) -> None:
    """Run estimators in this process, and send their requests through the pipe `commands`.

    The function answers each message "report" with the requests since the previous such message, and with the number
    of estimators that have a model. A request is a tuple: number of the estimator, start and end (monotonic seconds),
    and whether the answer was a model.
    """
    from kepler_servers.estimator.model_cache import ModelCache
    from kepler_servers.estimator.remote_providers import ModelServerProvider
    from kepler_servers.estimator.request import ModelKey
    from kepler_servers.estimator.time_limited_provider import TimeLimitedProvider

    requests: list[tuple[int, float, float, bool]] = []

    class TimedProvider(ModelServerProvider):
        number = 0

        def offer(self, request: Any) -> Any:
            started = time.monotonic()
            answered = False
            try:
                offer = super().offer(request)
                answered = True
                return offer
            finally:
                requests.append((self.number, started, time.monotonic(), answered))

    key = ModelKey(CAPTURED["output_type"], "rapl-sysfs", "", "", frozenset(CAPTURED["metrics"]))
    caches = []
    specs = machines(max(numbers, default=0) + 1)
    for number in numbers:
        provider = TimedProvider(url)
        provider.number = number
        cache = ModelCache(
            [TimeLimitedProvider(provider)],
            machine_spec=specs[number],
            refresh_seconds=refresh,
            on_search_end=lambda: None,
            logs_problems=False,
        )
        cache.start()
        cache.entry(key)
        caches.append(cache)
    commands.send("started")
    while commands.recv() == "report":
        taken = len(requests)
        sent, requests[:taken] = requests[:taken], []
        commands.send((sent, sum(cache.entry(key).loaded is not None for cache in caches)))
    os._exit(0)  # does not wait until hundreds of threads have ended


class Herd:
    """Client processes with estimators."""

    def __init__(self, url: str, estimators: int, processes: int, refresh: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.requests: list[tuple[int, float, float, bool]] = []
        self.with_model = 0
        """Number of estimators that have a model."""
        self._pipes = []
        self._processes = []
        for first in range(processes):
            ours, theirs = context.Pipe()
            numbers = range(first, estimators, processes)
            process = context.Process(target=run_estimators, args=(url, numbers, refresh, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def collect(self) -> None:
        """Get the requests that the estimators have sent since the previous call."""
        self.with_model = 0
        for pipe in self._pipes:
            pipe.send("report")
        for pipe in self._pipes:
            requests, with_model = pipe.recv()
            self.requests += requests
            self.with_model += with_model

    def stop(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send("stop")
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()


# --- the model server ---


class Server:
    """A process of the model server. It has the same port after each restart."""

    def __init__(self, store: str, log: Path, workers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._command = [sys.executable, "-m", "kepler_core", "serve", "model-server", "--store", store]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(workers)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the server, wait until it accepts connections, and return the monotonic time of this moment."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, process_group=0)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return time.monotonic()
            time.sleep(0.01)
        sys.exit(f"the model server does not start\n{self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill the server with all its worker processes, as an outage of its node does."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def cpu(self) -> float:
        """Return the CPU seconds that the server's processes have used so far."""
        assert self._process is not None
        ticks = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = status.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process.pid:  # the process group
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


# --- measuring ---


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the phases "late start" and "restart", and return the results of each phase by its name."""
    store = str(folder / "store")
    publish(store, arguments.models, min(arguments.models, 300))
    server = Server(store, folder / "server.log", arguments.workers)
    results: dict[str, Any] = {}
    herd = Herd(f"http://127.0.0.1:{server.port}/model", arguments.estimators, arguments.processes, arguments.refresh)
    try:
        for phase in ("late start", "restart"):
            time.sleep(arguments.outage)
            results[phase] = run_phase(herd, server, arguments.estimators)
            if phase == "restart":
                herd.stop()
                results["service_us"] = service_time(server, folder)
            server.kill()
    finally:
        server.kill()
        herd.stop()
    return results


def run_phase(herd: Herd, server: Server, estimators: int) -> dict[str, Any]:
    """Start the server, and wait until it has answered each estimator."""
    herd.collect()
    herd.requests.clear()
    ready = server.start()
    before = server.cpu()
    deadline = ready + PHASE_TIMEOUT_SECONDS
    served: dict[int, float] = {}
    while len(served) < estimators and time.monotonic() < deadline:
        time.sleep(0.25)
        herd.collect()
        for number, started, ended, answered in herd.requests:
            if answered and started >= ready:
                served[number] = min(served.get(number, ended), ended)
    used = server.cpu() - before
    after = [request for request in herd.requests if request[1] >= ready]
    seconds = Counter(int(started - ready) for _, started, _, _ in after)
    return {
        "estimators": estimators,
        "with_model": herd.with_model,
        "unanswered": estimators - len(served),
        "requests": len(after),
        "failed": sum(not answered for *_, answered in after),
        "seconds_until_all_answered": max(served.values(), default=ready) - ready,
        "server_cpu_us": 1e6 * used / max(len(after), 1),
        "requests_by_second": [seconds[second] for second in range(max(seconds, default=-1) + 1)],
        **percentiles([1e3 * (ended - started) for _, started, ended, answered in after if answered]),
    }


def service_time(server: Server, folder: Path) -> float:
    """Return the server's CPU time per answer in µs, under a load in which all requests differ."""
    request = {**CAPTURED, "weight": False, "portable": True, "trainer_name": ""}
    specs = ({**CAPTURED["machine_spec"], "memory": memory} for memory in range(1, LOAD_REQUESTS + 1))
    bodies = folder / "bodies.jsonl"
    bodies.write_text("\n".join(json.dumps({**request, "machine_spec": spec}) for spec in specs))
    command = [sys.executable, str(Path(__file__).with_name("load.py")), f"http://127.0.0.1:{server.port}/model"]
    before = server.cpu()
    loaded = json.loads(subprocess.check_output([*command, str(bodies), "--seconds", str(LOAD_SECONDS), "--json"]))
    return float(1e6 * (server.cpu() - before) / max(loaded["answered"], 1))


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return percentiles of latencies, in the unit of the latencies."""
    ordered = sorted(latencies) or [float("inf")]
    last = len(ordered) - 1
    return {"p50": ordered[round(0.5 * last)], "p99": ordered[round(0.99 * last)], "max": ordered[-1]}


# --- extrapolation ---


def simulate(fleet: int, outage: float, service: float, refresh: float) -> dict[str, float]:
    """Simulate a fleet whose estimators all need their first model at the beginning of an outage of the model server.

    `service` is the server's time for one answer, in seconds. The server answers one request after another. After a
    failed request, an estimator waits for the delay of `search_delay`, and up to `POLL_SECONDS` longer, because it
    polls.
    """
    from kepler_servers.estimator.model_cache import POLL_SECONDS
    from kepler_servers.estimator.search_delay import search_delay

    rng = random.Random(0)
    arrivals = []
    for _ in range(fleet):
        at, failures = rng.uniform(0, KEPLER_SECONDS), 0
        while at < outage:
            failures += 1
            at += search_delay(failures, refresh, rng) + rng.uniform(0, POLL_SECONDS)
        arrivals.append(at)
    free = 0.0
    latencies = []
    for at in sorted(arrivals):
        free = max(free, at) + service
        latencies.append(1e3 * (free - at))
    busiest = max(Counter(int(at - outage) for at in arrivals).values())
    return {"outage": outage, "busiest_second": busiest, "all_answered": free - outage, **percentiles(latencies)}


def extrapolations(fleet: int, cpu_us: float) -> Iterator[dict[str, float]]:
    """Yield the result of a simulation for each length of the outage."""
    for outage in FLEET_OUTAGES_SECONDS:
        yield simulate(fleet, outage, cpu_us / 1e6, FLEET_REFRESH_SECONDS)


def show(results: dict[str, Any]) -> None:
    print(f"{'phase':>12} {'estimators':>10} {'requests':>9} {'failed':>7} {'unanswered':>10} {'p50 ms':>7} ", end="")
    print(f"{'p99 ms':>7} {'max ms':>7} {'all answered s':>14} {'CPU µs':>7}   requests by second")
    for name, r in results["phases"].items():
        print(
            f"{name:>12} {r['estimators']:10} {r['requests']:9} {r['failed']:7} {r['unanswered']:10} {r['p50']:7.0f} "
            f"{r['p99']:7.0f} {r['max']:7.0f} {r['seconds_until_all_answered']:14.1f} {r['server_cpu_us']:7.0f}   "
            + " ".join(map(str, r["requests_by_second"]))
        )
    print(f"\nextrapolated, not measured: {results['fleet']:,} estimators, {results['service_us']:.0f} µs per answer")
    for r in results["extrapolated"]:
        print(
            f"outage of {r['outage']:4.0f} s: p50 {r['p50']:5.1f} ms, p99 {r['p99']:6.1f} ms, max {r['max']:6.1f} ms, "
            f"busiest second {r['busiest_second']:.0f} requests, all answered after {r['all_answered']:.0f} s"
        )
    print("\nCPU µs: of all of the server's processes, per request, with what the server does besides answering")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2, help="client processes (%(default)s)")
    parser.add_argument("--outage", type=float, default=6.0, help="seconds without a server (%(default)s)")
    parser.add_argument("--refresh", type=float, default=10.0, help="the estimators' --refresh (%(default)s)")
    parser.add_argument("--models", type=int, default=1000, help="models of the store (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the server (%(default)s)")
    parser.add_argument("--fleet", type=int, default=10_000, help="estimators of the extrapolation (%(default)s)")
    parser.add_argument("--service", type=float, help="assumed CPU time per answer in µs (default: measured)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not 1 <= arguments.processes <= arguments.estimators:
        parser.error("--processes must be between 1 and --estimators")
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        phases = measure(arguments, Path(folder))
    measured = phases.pop("service_us")
    service = arguments.service or measured
    extrapolated = list(extrapolations(arguments.fleet, service))
    results = {"phases": phases, "fleet": arguments.fleet, "service_us": service, "extrapolated": extrapolated}
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
