"""The offline trainer: what `POST /train` costs beside `kepler-model train`, and eight clients at once.

1. The same pipeline (2 + 2 trainers on one energy source) from the same recording, in turn by
   `kepler-model train` and by `POST /train`: seconds from the start to the models, medians.
2. Eight clients that each post a request at once, to a server with a bounded number of trainings: how
   long until all have their zip, memory of all its processes together (PSS, sampled), how many
   trainings ran at a time, and how long `/healthz` took meanwhile.

On kepler_coremark.json with kepler_idle.json (from ../shared/data) where they are, else on a simulated
recording.

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
EXISTING = 7.1
"""Seconds of the existing system on kepler_coremark.json with 2 + 2 trainers, without validation."""

HEALTH_EVERY = 0.05
MEMORY_EVERY = 0.25


def inputs(folder: Path) -> tuple[Path, Path]:
    """The recording and that of the idle machine."""
    found = DATA / "kepler_coremark.json", DATA / "kepler_idle.json"
    if all(path.is_file() for path in found):
        return found
    made = folder / "recording.json", folder / "idle.json"
    for seed, path in enumerate(made):
        path.write_text(json.dumps(recording(Simulation(seed=seed))))
    return made


def request(name: str, data: Path, idle: Path) -> bytes:
    trainer = {"abs_trainers": TRAINERS, "dyn_trainers": TRAINERS, "isolator": "MinIdleIsolator"}
    members = {"name": name, "energy_source": SOURCE, "trainer": trainer}
    whole = json.loads(data.read_bytes())
    members["trainer"] = {**trainer, "idle_prom_response": json.loads(idle.read_bytes())}
    return json.dumps({**members, "prome_response": whole}).encode()


class Server:
    """An offline trainer as a process of its own."""

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
                if self.ask("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
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
    """Seconds of the command line."""
    pipeline = folder / "compared.yaml"
    members = {"energy_sources": [SOURCE], "abs_trainers": TRAINERS, "dyn_trainers": TRAINERS}
    pipeline.write_text(json.dumps(members))
    command = [sys.executable, "-m", "kepler_core", "train", str(pipeline), "-i", str(data), "--idle", str(idle)]
    started = time.perf_counter()
    subprocess.run([*command, "-s", str(folder / "store")], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def overhead(data: Path, idle: Path, runs: int) -> dict[str, Any]:
    by_command, by_server = [], []
    with tempfile.TemporaryDirectory() as name, serving(Path(name), 1) as server:
        folder = Path(name)
        body = request("compared", data, idle)
        for number in range(-1, runs):
            say(f"run {number + 1} of {runs}")
            seconds = train(folder, data, idle)
            started = time.perf_counter()
            status, answer = server.ask("POST", "/train", body)
            served = time.perf_counter() - started
            assert status == 200, answer[:500]
            if number >= 0:  # the first one warms the disk's cache
                by_command.append(seconds)
                by_server.append(served)
    command, served = statistics.median(by_command), statistics.median(by_server)
    return {
        "recording": data.name, "runs": runs, "train_s": by_command, "post_s": by_server, "train_median_s": command,
        "post_median_s": served, "overhead_percent": 100 * (served / command - 1),
    }  # fmt: skip


def at_once(data: Path, idle: Path, clients: int, jobs: int) -> dict[str, Any]:
    over = threading.Event()
    health: list[float] = []
    memory: list[float] = []
    running: list[int] = []
    with tempfile.TemporaryDirectory() as name, serving(Path(name), jobs) as server:
        before = megabytes(family(server))

        def watch_health() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            while not over.wait(HEALTH_EVERY):
                started = time.perf_counter()
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                found = json.loads(answer.read())
                health.append(time.perf_counter() - started)
                running.append(found["jobs"]["running"])
                assert answer.status == 200

        def watch_memory() -> None:
            while not over.wait(MEMORY_EVERY):
                memory.append(megabytes(family(server)))

        bodies = [request(f"client-{number}", data, idle) for number in range(clients)]
        with ThreadPoolExecutor(clients + 2) as pool:
            watchers = [pool.submit(watch_health), pool.submit(watch_memory)]
            started = time.perf_counter()
            answers = [pool.submit(server.ask, "POST", "/train", body) for body in bodies]
            ended = [answer.result() for answer in answers]
            seconds = time.perf_counter() - started
            over.set()
            for watcher in watchers:
                watcher.result()
        assert all(status == 200 and content[:2] == b"PK" for status, content in ended), [s for s, _ in ended]
        http_process = max(megabytes([pid]) for pid in children(server.process.pid))
    health.sort()
    return {
        "clients": clients, "jobs": jobs, "seconds": seconds, "at_a_time": max(running),
        "memory_before_mb": before, "memory_peak_mb": max(memory), "http_process_mb": http_process,
        "health_requests": len(health), "health_median_ms": 1000 * statistics.median(health),
        "health_p99_ms": 1000 * health[int(0.99 * len(health))], "health_max_ms": 1000 * health[-1],
    }  # fmt: skip


def children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(name))
    return found


def family(server: Server) -> list[int]:
    """All processes of a server, and those that it or they started."""
    mark = f"KEPLER_OFFLINE_TRAINER_OF={server.state.resolve()}".encode()
    found = [server.process.pid, *children(server.process.pid)]
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


def megabytes(pids: list[int]) -> float:
    """Memory of processes together: pages that several have count once (PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time with several clients")
    parser.add_argument("--only", choices=("overhead", "clients"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, idle = inputs(Path(folder))
        if options.only != "clients":
            found["overhead"] = overhead(data, idle, options.runs)
        if options.only != "overhead":
            say(f"{options.clients} clients")
            found["clients"] = at_once(data, idle, options.clients, options.jobs)
    say("")
    if options.json:
        print(json.dumps(found, indent=1))
        return
    if "overhead" in found:
        one = found["overhead"]
        print(
            f"{one['recording']}, 2 + 2 trainers, medians of {one['runs']}: kepler-model train "
            f"{one['train_median_s']:.2f} s, POST /train {one['post_median_s']:.2f} s "
            f"({one['overhead_percent']:+.1f} %); the existing system without validation {EXISTING} s"
        )
    if "clients" in found:
        one = found["clients"]
        print(
            f"{one['clients']} clients at once, {one['jobs']} trainings at a time (seen: {one['at_a_time']}): all have "
            f"their zip after {one['seconds']:.1f} s; memory of all processes {one['memory_before_mb']:.0f} MB before, "
            f"{one['memory_peak_mb']:.0f} MB at most; HTTP process {one['http_process_mb']:.0f} MB; /healthz "
            f"{one['health_median_ms']:.1f} ms median, {one['health_p99_ms']:.1f} p99, {one['health_max_ms']:.1f} "
            f"at most ({one['health_requests']} requests)"
        )


if __name__ == "__main__":
    main()
