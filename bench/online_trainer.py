"""Measure the online trainer on a simulated machine: the errors of its models, or (`--cost`) its memory and CPU time.

    python bench/online_trainer.py [--minutes 240] [--plot FILE.png] [--json]
    python bench/online_trainer.py --cost [--minutes 60] [--speed 10]

Without `--cost`, a real Prometheus server (Debian's package) holds a simulated recording. In the recording,
three kinds of workload run one after another, and the whole sequence runs twice. After 60 % of the time, the power
of the machine shifts by 15 %, as it may after a kernel update. The online trainer runs a round every five minutes
of the recording. The time between two rounds is an interval. For each interval, the benchmark takes the models that
are served when the interval begins, and compares their estimates with the power that is measured during the
interval. For comparison, the benchmark also evaluates models that are retrained on the previous interval only.

With `--cost`, the online trainer runs as a process beside a Prometheus server. The Prometheus server scrapes
a replay of a simulated recording at a higher speed. Every few seconds, the benchmark prints the online
trainer's memory, its CPU time and the size of its sample store.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from kepler_core.errors import KeplerError
from kepler_core.logs import configure_logging
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.train import train
from kepler_core.prometheus import PrometheusClient, Server
from kepler_core.recording import Observations, observe, read_recording
from kepler_core.simulate import START, Simulation, recording
from kepler_core.store import Store, open_store
from kepler_core.store.models import read_models
from kepler_servers.online_trainer.fetching import Fetcher
from kepler_servers.online_trainer.rounds import Rounds, Schedule
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.state_folder import StateFolder

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from support.prometheus_process import prometheus  # noqa: E402

PIPELINE = """\
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [GradientBoostingRegressorTrainer, LinearRegressionTrainer]
"""
INTERVAL_SECONDS = 300
OVERLAP_SECONDS = 60.0
WORKLOADS = 3
SHIFT_AT = 0.6
"""Fraction of the recording's length after which the power shifts."""
SHIFT_FACTOR = 1.15

Row = dict[str, Any]
"""The results of one interval of five minutes. The keys are the names of the results."""


class ManualClock(PrometheusClient):
    """A Prometheus client that takes the value of its attribute `time` as the current time."""

    time = 0.0

    def now(self) -> float:
        return self.time


@attrs.define
class Bench:
    """The online trainer to measure, and a store with models that are retrained only on the previous interval."""

    content: dict[str, Any]
    minutes: int
    step: int
    client: ManualClock
    rounds: Rounds
    last_interval_store: Store

    def run_interval(self, at: int) -> Row:
        """Run a round at the Unix time `at`. Then measure the errors of the served models in the next interval."""
        self.client.time = float(at)
        started = time.perf_counter()
        if not self.rounds.try_round():
            raise SystemExit(f"a round failed: {self.rounds.status.problem}")
        seconds = time.perf_counter() - started
        self._train_on_last_interval(at)
        coming = observe_between(self.content, at - self.step, at + INTERVAL_SECONDS)
        decision = self.rounds.status.last_decision
        name = self.rounds.fetcher.spec.name
        phase_seconds = self.minutes * 60 / (2 * WORKLOADS)
        return {
            "minute": (at - START) / 60,
            "workload": "ABC"[int((at - START) // phase_seconds) % WORKLOADS],
            "power": SHIFT_FACTOR if at - START >= SHIFT_AT * self.minutes * 60 else 1.0,
            "online": served_error(self.rounds.store, name, coming),
            "last_interval": served_error(self.last_interval_store, name, coming),
            "mean_watts": float(np.nanmean(coming.power["rapl-sysfs", "package"])),
            "version": self.rounds.drift.version,
            "drift": self.rounds.drift.alarm,
            "decision": None if decision is None else f"{decision['decision']} ({decision['trigger']})",
            "reason": None if decision is None else decision["reason"],
            "seconds": round(seconds, 2),
        }

    def _train_on_last_interval(self, at: int) -> None:
        fetcher = self.rounds.fetcher
        for observations in fetcher.fetch_groups(at - INTERVAL_SECONDS, at, threading.Event()):
            # if there are too few samples, training fails, and the models of an earlier interval stay in the store
            with contextlib.suppress(KeplerError):
                train(fetcher.spec, observations, self.last_interval_store, jobs=1)


@contextlib.contextmanager
def bench(minutes: int, step: int) -> Iterator[Bench]:
    """Start a Prometheus server that holds a simulated recording, and make an online trainer that queries it."""
    content = simulate(minutes, step)
    with tempfile.TemporaryDirectory() as name, prometheus(Path(name) / "prometheus", content) as server:
        folder = Path(name)
        (folder / "bench.yaml").write_text(PIPELINE)
        client = ManualClock(Server(server.url))
        fetcher = Fetcher(client, load_pipeline(folder / "bench.yaml"), None, None, ())
        state = StateFolder(folder / "state")
        state.path.mkdir()
        samples = SampleStore(state.samples, overlap=OVERLAP_SECONDS, max_samples=4000)
        schedule = Schedule(
            interval=INTERVAL_SECONDS,
            delay=0.0,
            backfill=INTERVAL_SECONDS,
            retrain_after=2 * INTERVAL_SECONDS // step,
        )
        rounds = Rounds(fetcher, open_store(str(folder / "store")), state, schedule, samples=samples)
        yield Bench(content, minutes, step, client, rounds, open_store(str(folder / "last_interval")))


def simulate(minutes: int, step: int) -> dict[str, Any]:
    """Return a simulated recording of `minutes` minutes with changing workloads and a power shift."""
    return recording(
        Simulation(
            containers=9,
            timestamps=minutes * 60 // step,
            step=step,
            sockets=1,
            churn=0.0,
            resets=2,
            accelerator=False,
            workloads=WORKLOADS,
            shift_at=SHIFT_AT,
            shift_gain=SHIFT_FACTOR,
            seed=3,
        )
    )


def observe_between(content: dict[str, Any], since: float, until: float) -> Observations:
    """Return the observations in a recording from `since` to `until`, both in Unix seconds."""
    part = {
        metric: [{"metric": s["metric"], "values": [v for v in s["values"] if since <= v[0] <= until]} for s in series]
        for metric, series in content.items()
    }
    return observe([read_recording(part, name="coming")])


def served_error(store: Store, name: str, observations: Observations) -> float | None:
    """Return the error in watts with which a store's best AbsPower model estimates package power.

    The best model is the model with the lowest validation error. The returned error is the model's mean absolute
    error on `observations`; None if the store does not have the pipeline yet.
    """
    if name not in store.pipelines():
        return None
    entries = [entry for entry in read_models(store.snapshot(name)) if entry.output_type == "AbsPower"]
    model = min(entries, key=lambda entry: entry.metadata["mae"]).load()
    X = np.column_stack([observations.node_features[feature] for feature in model.features])
    measured = observations.power["rapl-sysfs", "package"]
    usable = np.isfinite(X).all(axis=1) & np.isfinite(measured)
    return float(np.abs(model.predict(X[usable])["package"] - measured[usable]).mean())


def run_intervals(minutes: int, step: int) -> list[Row]:
    """Run the benchmark over all intervals of a recording, and print one line of results for each interval."""
    rows = []
    with bench(minutes, step) as trainer:
        last = START + minutes * 60 - INTERVAL_SECONDS
        for at in range(START + INTERVAL_SECONDS, last + 1, INTERVAL_SECONDS):
            row = trainer.run_interval(at)
            rows.append(row)
            print(
                f"{row['minute']:5.0f} {row['workload']} {row['power']:.2f} "
                f"{_watts(row['online'])} {_watts(row['last_interval'])} v{row['version']} "
                f"{'drift' if row['drift'] else ''} {row['decision']} {row['seconds']:.1f} s",
                file=sys.stderr,
            )
    return rows


def _watts(value: float | None) -> str:
    return "    -" if value is None else f"{value:5.2f}"


def summarise_phases(rows: list[Row]) -> list[Row]:
    """Return the mean results of each phase: all intervals with the same workload, before or after the power shift."""
    groups: list[list[Row]] = []
    for row in rows:
        if row["online"] is None or row["last_interval"] is None:
            continue
        if not groups or (groups[-1][-1]["workload"], groups[-1][-1]["power"]) != (row["workload"], row["power"]):
            groups.append([])
        groups[-1].append(row)
    return [
        {
            "workload": group[0]["workload"],
            "power": group[0]["power"],
            "intervals": len(group),
            **{key: float(np.mean([row[key] for row in group])) for key in ("online", "last_interval", "mean_watts")},
        }
        for group in groups
    ]


def recovery(rows: list[Row]) -> int | None:
    """Return the number of intervals from the power shift until the error is at most twice the usual error.

    The usual error is the median over the second half of the intervals before the shift. The result is None
    if the error stays higher until the end.
    """
    before = [row["online"] for row in rows if row["power"] == 1.0 and row["online"] is not None]
    usual = float(np.median(before[len(before) // 2 :]))
    after = [row["online"] for row in rows if row["power"] != 1.0]
    return next((n for n, error in enumerate(after) if error <= 2 * usual), None)


def plot(rows: list[Row], path: str) -> None:
    """Plot the errors of the online trainer's models, and of the models retrained on the last interval, over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4))
    minutes = [row["minute"] for row in rows]
    for key, label in (("last_interval", "retrained on the last interval"), ("online", "online trainer")):
        errors = [np.nan if row[key] is None else row[key] for row in rows]
        axes.plot(minutes, errors, label=label, drawstyle="steps-post")
    for before, row in itertools.pairwise(rows):
        if before["power"] != row["power"]:
            axes.axvline(row["minute"], color="grey", linestyle=":", label="+15 % power")
        if before["workload"] != row["workload"]:
            axes.axvline(row["minute"], color="lightgrey", linewidth=0.7)
    axes.set_xlabel("minute")
    axes.set_ylabel("MAE of package power, W, on the next interval")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# --- cost ---


def memory_and_cpu(pid: int) -> tuple[float, float]:
    """Return a process's resident memory in MiB, and the CPU seconds of the process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, sum(int(fields[at]) for at in (11, 12, 13, 14)) / ticks


@contextlib.contextmanager
def running_trainer(folder: Path, minutes: int, speed: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run an online trainer as a process, beside a Prometheus server that scrapes the replay of a recording."""
    (folder / "recording.json").write_text(json.dumps(simulate(minutes, 3)))
    (folder / "bench.yaml").write_text(PIPELINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    replay = subprocess.Popen(
        [sys.executable, "-m", "kepler_core", "replay", str(folder / "recording.json"),
         "--port", str(port), "--speed", str(speed)]
    )  # fmt: skip
    interval = INTERVAL_SECONDS / speed
    scrape = f"{round(3000 / speed)}ms"
    try:
        with prometheus(folder / "prometheus", targets=[f"127.0.0.1:{port}"], scrape=scrape) as server:
            trainer = subprocess.Popen(
                [sys.executable, "-m", "kepler_core", "serve", "online-trainer",
                 "--pipeline", str(folder / "bench.yaml"), "--server", server.url, "--store", str(folder / "store"),
                 "--state", str(folder / "state"), "--interval", str(interval), "--delay", "1s",
                 "--overlap", f"{OVERLAP_SECONDS / speed}s", "--backfill", f"{interval}s", "--memory-instants", "600",
                 "--host", "127.0.0.1", "--port", "0"],
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                yield trainer
            finally:
                trainer.send_signal(signal.SIGTERM)
                trainer.wait(60)
    finally:
        replay.kill()
        replay.wait()


def measure_cost(minutes: int, speed: float) -> list[dict[str, float]]:
    """Measure and print the memory, CPU time and disk space of an online trainer at regular times."""
    rows = []
    with tempfile.TemporaryDirectory() as name, running_trainer(Path(name), minutes, speed) as trainer:
        samples = StateFolder(Path(name) / "state").samples
        started = time.monotonic()
        while time.monotonic() - started < minutes * 60 / speed:
            time.sleep(minutes * 60 / speed / 24)
            memory, cpu = memory_and_cpu(trainer.pid)
            minute = (time.monotonic() - started) * speed / 60
            disk = sum(path.stat().st_size for path in samples.glob("*")) / 2**20
            rows.append({"minute": minute, "memory_mb": memory, "cpu_s": cpu, "disk_mb": disk})
            print(f"{minute:5.1f} {memory:6.1f} MB {cpu:6.1f} s {disk:6.2f} MB", file=sys.stderr)
    return rows


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int)
    parser.add_argument("--step", type=int, default=3)
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_logging(logging.ERROR)
    if arguments.cost:
        costs = measure_cost(arguments.minutes or 60, arguments.speed)
        print(json.dumps(costs, indent=1) if arguments.json else "", end="")
        return
    rows = run_intervals(arguments.minutes or 240, arguments.step)
    if arguments.plot:
        plot(rows, arguments.plot)
    phases = summarise_phases(rows)
    if arguments.json:
        print(json.dumps({"intervals": rows, "phases": phases, "recovered_after": recovery(rows)}, indent=1))
        return
    print("workload  power  intervals  mean W  online  last interval   MAE of package, W")
    for phase in phases:
        print(
            f"{phase['workload']:>8} {phase['power']:6.2f} {phase['intervals']:10d} {phase['mean_watts']:7.1f} "
            f"{phase['online']:7.2f} {phase['last_interval']:14.2f}"
        )
    print(f"recovered {recovery(rows)} intervals after the shift (error at most twice the usual one)")


if __name__ == "__main__":
    main()
