"""Compare `POST /train` of the offline trainer with `kepler-model train`, and measure concurrent clients.

Part 1: `kepler-model train` and `POST /train` alternately train the same pipeline from the same recording.
The pipeline has two AbsPower trainers and two DynPower trainers for one energy source. The benchmark measures
the median number of seconds from the start of a training until its models are available.

Part 2: several clients post a training request at the same time to a server that limits the number of
concurrent trainings. The benchmark measures the seconds until all clients have received their zip file, the
memory of all processes of the server (proportional set size, sampled during the trainings), the number of
concurrent trainings, and the latency of `/healthz` during the trainings.

The recordings are kepler_coremark.json and kepler_idle.json from ../shared/data. If these files do not exist,
the recordings are simulated.

    python bench/offline_trainer.py [--runs 5] [--clients 8] [--jobs 2] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kepler_core.simulate import Simulation, recording

DATA = Path(__file__).parents[2] / "shared" / "data" / "recordings"
TRAINERS = ["GradientBoostingRegressorTrainer", "SGDRegressorTrainer"]
SOURCE = "rapl-sysfs"
EXISTING_SECONDS = 7.1
"""Seconds that the predecessor of Kepler Core takes for the training in part 1 of this benchmark.

It trains on kepler_coremark.json, without validation.
"""

HEALTH_INTERVAL_SECONDS = 0.05
MEMORY_INTERVAL_SECONDS = 0.25


def inputs(folder: Path) -> tuple[Path, Path]:
    """Return the paths of a recording and of a recording of the idle machine.

    Both are simulated if the real recordings do not exist.
    """
    real = DATA / "kepler_coremark.json", DATA / "kepler_idle.json"
    if all(path.is_file() for path in real):
        return real
    simulated = folder / "recording.json", folder / "idle.json"
    for seed, path in enumerate(simulated):
        path.write_text(json.dumps(recording(Simulation(seed=seed))))
    return simulated


def request(name: str, data: Path, idle: Path) -> bytes:
    """Return the body of a `POST /train` request with the pipeline's name and the two recordings."""
    trainer = {
        "abs_trainers": TRAINERS,
        "dyn_trainers": TRAINERS,
        "isolator": "MinIdleIsolator",
        "idle_prom_response": json.loads(idle.read_bytes()),
    }
    members = {
        "name": name,
        "energy_source": SOURCE,
        "trainer": trainer,
        "prome_response": json.loads(data.read_bytes()),
    }
    return json.dumps(members).encode()


class Server:
    """An offline trainer that runs as a separate process."""

    def __init__(self, folder: Path, jobs: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.state = folder / "state"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "kepler_core", "serve", "offline-trainer", "--store", str(folder / "store"),
                "--state", str(self.state), "--port", str(self.port), "--jobs", str(jobs),
            ],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while True:
            assert self.process.poll() is None, "the server did not start"
            with contextlib.suppress(OSError):
                if self.request("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.05)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request on a new connection and return the status and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@contextlib.contextmanager
def serving(folder: Path, jobs: int) -> Iterator[Server]:
    server = Server(folder, jobs)
    try:
        yield server
    finally:
        server.stop()


def train(folder: Path, data: Path, idle: Path) -> float:
    """Train with `kepler-model train`, and return the seconds that the training took."""
    pipeline = folder / "compared.yaml"
    members = {"energy_sources": [SOURCE], "abs_trainers": TRAINERS, "dyn_trainers": TRAINERS}
    pipeline.write_text(json.dumps(members))
    command = [sys.executable, "-m", "kepler_core", "train", str(pipeline), "-i", str(data), "--idle", str(idle)]
    started = time.perf_counter()
    subprocess.run([*command, "-s", str(folder / "store")], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def overhead(data: Path, idle: Path, runs: int) -> dict[str, Any]:
    """Train alternately with `kepler-model train` and with `POST /train`. Return both times."""
    by_command, by_server = [], []
    with tempfile.TemporaryDirectory() as name, serving(Path(name), 1) as server:
        folder = Path(name)
        body = request("compared", data, idle)
        for number in range(-1, runs):
            show(f"run {number + 1} of {runs}")
            seconds = train(folder, data, idle)
            started = time.perf_counter()
            status, answer = server.request("POST", "/train", body)
            served = time.perf_counter() - started
            assert status == 200, answer[:500]
            if number >= 0:  # the first run, number -1, only fills the page cache
                by_command.append(seconds)
                by_server.append(served)
    command, served = statistics.median(by_command), statistics.median(by_server)
    return {
        "recording": data.name, "runs": runs, "train_s": by_command, "post_s": by_server, "train_median_s": command,
        "post_median_s": served, "overhead_percent": 100 * (served / command - 1),
    }  # fmt: skip


def concurrent(data: Path, idle: Path, clients: int, jobs: int) -> dict[str, Any]:
    """Post requests from several clients at the same time.

    Return the seconds until all requests are answered, the memory, and latencies of `/healthz`.
    """
    ended = threading.Event()
    health: list[float] = []
    memory: list[float] = []
    running: list[int] = []
    with tempfile.TemporaryDirectory() as name, serving(Path(name), jobs) as server:
        before = megabytes(processes_of(server))

        def watch_health() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            while not ended.wait(HEALTH_INTERVAL_SECONDS):
                started = time.perf_counter()
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                content = json.loads(answer.read())
                health.append(time.perf_counter() - started)
                running.append(content["jobs"]["running"])
                assert answer.status == 200

        def watch_memory() -> None:
            while not ended.wait(MEMORY_INTERVAL_SECONDS):
                memory.append(megabytes(processes_of(server)))

        bodies = [request(f"client-{number}", data, idle) for number in range(clients)]
        with ThreadPoolExecutor(clients + 2) as pool:
            watchers = [pool.submit(watch_health), pool.submit(watch_memory)]
            started = time.perf_counter()
            answers = [pool.submit(server.request, "POST", "/train", body) for body in bodies]
            results = [answer.result() for answer in answers]
            seconds = time.perf_counter() - started
            ended.set()
            for watcher in watchers:
                watcher.result()
        assert all(status == 200 and content[:2] == b"PK" for status, content in results), results
        http_process = max(megabytes([pid]) for pid in children(server.process.pid))
    health.sort()
    return {
        "clients": clients, "jobs": jobs, "seconds": seconds, "at_a_time": max(running),
        "memory_before_mb": before, "memory_peak_mb": max(memory), "http_process_mb": http_process,
        "health_requests": len(health), "health_median_ms": 1000 * statistics.median(health),
        "health_p99_ms": 1000 * health[int(0.99 * len(health))], "health_max_ms": 1000 * health[-1],
    }  # fmt: skip


def children(parent: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    pids = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(name))
    return pids


def processes_of(server: Server) -> list[int]:
    """Return the ids of all processes of a server: its own, and its training processes with their descendants."""
    variable = f"KEPLER_OFFLINE_TRAINER_OF={server.state.resolve()}".encode()
    pids = [server.process.pid, *children(server.process.pid)]
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if variable in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                pids.append(int(name))
    return pids


def megabytes(pids: list[int]) -> float:
    """Return the memory of several processes in MB. Memory that the processes share counts only once (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def show(progress: str) -> None:
    """Show a progress message in place of the terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2, help="maximum number of concurrent trainings in part 2")
    parser.add_argument("--only", choices=("overhead", "clients"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, idle = inputs(Path(folder))
        if options.only != "clients":
            report["overhead"] = overhead(data, idle, options.runs)
        if options.only != "overhead":
            show(f"{options.clients} clients")
            report["clients"] = concurrent(data, idle, options.clients, options.jobs)
    show("")
    if options.json:
        print(json.dumps(report, indent=1))
        return
    if "overhead" in report:
        result = report["overhead"]
        print(
            f"{result['recording']}, 2 + 2 trainers, medians of {result['runs']}: kepler-model train "
            f"{result['train_median_s']:.2f} s, POST /train {result['post_median_s']:.2f} s "
            f"({result['overhead_percent']:+.1f} %); Kepler Core's predecessor without validation {EXISTING_SECONDS} s"
        )
    if "clients" in report:
        result = report["clients"]
        print(
            f"{result['clients']} concurrent clients, {result['jobs']} concurrent trainings "
            f"(seen: {result['at_a_time']}): all zips after {result['seconds']:.1f} s; memory of all processes "
            f"{result['memory_before_mb']:.0f} MB before, {result['memory_peak_mb']:.0f} MB at most; HTTP process "
            f"{result['http_process_mb']:.0f} MB; /healthz {result['health_median_ms']:.1f} ms median, "
            f"{result['health_p99_ms']:.1f} p99, {result['health_max_ms']:.1f} at most "
            f"({result['health_requests']} requests)"
        )


if __name__ == "__main__":
    main()
