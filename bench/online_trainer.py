"""The online trainer over a day of a simulated machine: the error of what is served, and what it costs.

    python bench/online_trainer.py [--minutes 240] [--plot FILE.png] [--json]
    python bench/online_trainer.py --cost [--minutes 60] [--speed 10]

Without --cost: a real Prometheus (Debian's package) holds a simulated recording: three kinds of work come
one after another, twice, and in the middle the machine needs 15 % more power (a new kernel). Every five
minutes of its time the trainer does a round, and the model that is served at the beginning of an interval
is judged on what the machine really did in it. Beside it: retraining on the last interval only, as the
system before it was meant to.

With --cost: the trainer as a process beside a Prometheus that scrapes a replay of such a recording at a
higher speed; its memory and CPU time every few seconds.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

PIPELINE = """\
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [GradientBoostingRegressorTrainer, LinearRegressionTrainer]
"""
INTERVAL = 300
OVERLAP = 60.0
KINDS = 3
CHANGE = 0.6


def simulated(minutes: int, step: int) -> dict[str, Any]:
    from kepler_core.simulate import Simulation, recording

    return recording(
        Simulation(
            containers=9,
            timestamps=minutes * 60 // step,
            step=step,
            sockets=1,
            churn=0.0,
            resets=2,
            accelerator=False,
            workloads=KINDS,
            law_change=CHANGE,
            seed=3,
        )
    )


def served_error(store: Any, name: str, observations: Any) -> float | None:
    """MAE of package power of the best served model on some observations; None where nothing is served."""
    from kepler_core.store.models import read_models

    if name not in store.pipelines():
        return None
    entries = [e for e in read_models(store.snapshot(name)) if e.output_type == "AbsPower"]
    entry = min(entries, key=lambda e: e.metadata["mae"])
    model = entry.load()
    X = np.column_stack([observations.node_features[f] for f in model.features])
    measured = observations.power["rapl-sysfs", "package"]
    known = np.isfinite(X).all(axis=1) & np.isfinite(measured)
    return float(np.abs(model.predict(X[known])["package"] - measured[known]).mean())


def over_time(minutes: int, step: int) -> list[dict[str, Any]]:
    from support.prometheus_process import prometheus

    from kepler_core.errors import KeplerError
    from kepler_core.pipeline.load import load_pipeline
    from kepler_core.pipeline.train import train
    from kepler_core.prometheus import PrometheusClient, Server
    from kepler_core.recording import observe, read_recording
    from kepler_core.simulate import START
    from kepler_core.store import open_store
    from kepler_servers.online_trainer.fetching import Source
    from kepler_servers.online_trainer.memory import TrainingMemory
    from kepler_servers.online_trainer.rounds import Pace, Rounds, state_folder

    content = simulated(minutes, step)
    phase_seconds = minutes * 60 / (2 * KINDS)
    rows: list[dict[str, Any]] = []

    class Clock(PrometheusClient):
        """A server that thinks it is some time of the recording."""

        time = 0.0

        def now(self) -> float:
            return self.time

    with tempfile.TemporaryDirectory() as folder, prometheus(Path(folder) / "prometheus", content) as server:
        work = Path(folder)
        pipeline = work / "bench.yaml"
        pipeline.write_text(PIPELINE)
        spec = load_pipeline(pipeline)
        client = Clock(Server(server.url))
        source = Source(client, spec, None, None, ())
        store, windows = open_store(str(work / "store")), open_store(str(work / "windows"))
        memory = TrainingMemory(state_folder(work / "state"), overlap=OVERLAP, most_instants=4000)
        pace = Pace(interval=INTERVAL, delay=0.0, backfill=INTERVAL, retrain_after=2 * INTERVAL // step)
        (work / "state").mkdir()
        rounds = Rounds(source, store, work / "state", pace, memory=memory)
        end = START + minutes * 60
        for at in range(START + INTERVAL, int(end) - INTERVAL + 1, INTERVAL):
            client.time = float(at)
            started = time.perf_counter()
            if not rounds.guarded_round():
                raise SystemExit(f"a round failed: {rounds.status.problem}")
            seconds = time.perf_counter() - started
            window = source.fetch(at - INTERVAL, at, threading.Event())
            try:
                if window is not None:
                    train(spec, window, windows, jobs=1)
            except KeplerError:
                pass  # too little to train on: what was served before stays
            part = {
                metric: [
                    {"metric": s["metric"], "values": [v for v in s["values"] if at - step <= v[0] <= at + INTERVAL]}
                    for s in series
                ]
                for metric, series in content.items()
            }
            coming = observe([read_recording(part, name="coming")])
            last = rounds.status.last_decision
            rows.append(
                {
                    "minute": (at - START) / 60,
                    "work": "ABC"[int((at - START) // phase_seconds) % KINDS],
                    "law": 1.15 if at - START >= CHANGE * minutes * 60 else 1.0,
                    "online": served_error(store, spec.name, coming),
                    "window": served_error(windows, spec.name, coming),
                    "mean_watts": float(np.nanmean(coming.power["rapl-sysfs", "package"])),
                    "version": rounds.drift.version,
                    "drift": rounds.drift.alarm,
                    "decision": None if last is None else f"{last['decision']} ({last['trigger']})",
                    "reason": None if last is None else last["reason"],
                    "seconds": round(seconds, 2),
                }
            )
            print(
                f"{rows[-1]['minute']:5.0f} {rows[-1]['work']} {rows[-1]['law']:.2f} "
                f"{_watts(rows[-1]['online'])} {_watts(rows[-1]['window'])} v{rows[-1]['version']} "
                f"{'drift' if rows[-1]['drift'] else ''} {rows[-1]['decision']} {seconds:.1f} s",
                file=sys.stderr,
            )
    return rows


def _watts(value: float | None) -> str:
    return "    -" if value is None else f"{value:5.2f}"


def phases(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means by kind of work and law, in order of time."""
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        if row["online"] is None or row["window"] is None:
            continue
        if not groups or (groups[-1][-1]["work"], groups[-1][-1]["law"]) != (row["work"], row["law"]):
            groups.append([])
        groups[-1].append(row)
    return [
        {
            "work": g[0]["work"],
            "law": g[0]["law"],
            "intervals": len(g),
            "online": float(np.mean([r["online"] for r in g])),
            "window": float(np.mean([r["window"] for r in g])),
            "mean_watts": float(np.mean([r["mean_watts"] for r in g])),
        }
        for g in groups
    ]


def recovery(rows: list[dict[str, Any]]) -> int | None:
    """Intervals after the change of the law until the error is back at twice what it was before, or less."""
    before = [r["online"] for r in rows if r["law"] == 1.0 and r["online"] is not None]
    usual = float(np.median(before[len(before) // 2 :]))
    after = [r["online"] for r in rows if r["law"] != 1.0]
    return next((n for n, error in enumerate(after) if error <= 2 * usual), None)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4))
    minutes = [r["minute"] for r in rows]
    for key, label in (("window", "retrained on the last interval"), ("online", "online trainer")):
        axes.plot(minutes, [np.nan if r[key] is None else r[key] for r in rows], label=label, drawstyle="steps-post")
    changes = [r["minute"] for a, r in itertools.pairwise(rows) if a["law"] != r["law"]]
    for minute in changes:
        axes.axvline(minute, color="grey", linestyle=":", label="+15 % power")
    for a, r in itertools.pairwise(rows):
        if a["work"] != r["work"]:
            axes.axvline(r["minute"], color="lightgrey", linewidth=0.7)
    axes.set_xlabel("minute")
    axes.set_ylabel("MAE of package power, W, on the next interval")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def process_figures(pid: int) -> tuple[float, float]:
    """Resident memory in MB and CPU seconds of a process, those of its ended children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, sum(int(fields[at]) for at in (11, 12, 13, 14)) / ticks


def cost(minutes: int, speed: float) -> list[dict[str, float]]:
    from support.prometheus_process import prometheus

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "recording.json").write_text(json.dumps(simulated(minutes, 3)))
        (work / "bench.yaml").write_text(PIPELINE)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        replay = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("replay.py")), str(work / "recording.json"),
             "--port", str(port), "--speed", str(speed)]
        )  # fmt: skip
        interval = INTERVAL / speed
        scrape = f"{round(3000 / speed)}ms"
        try:
            with prometheus(work / "prometheus", targets=[f"127.0.0.1:{port}"], scrape=scrape) as server:
                trainer = subprocess.Popen(
                    [sys.executable, "-m", "kepler_core", "serve", "online-trainer", "--pipeline",
                     str(work / "bench.yaml"), "--server", server.url, "--store", str(work / "store"), "--state",
                     str(work / "state"), "--interval", str(interval), "--delay", "1s", "--overlap",
                     f"{OVERLAP / speed}s",
                     "--backfill", f"{interval}s", "--memory-instants", "600", "--host", "127.0.0.1", "--port", "0"],
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
                started = time.monotonic()
                try:
                    while time.monotonic() - started < minutes * 60 / speed:
                        time.sleep(minutes * 60 / speed / 24)
                        memory, cpu = process_figures(trainer.pid)
                        minute = (time.monotonic() - started) * speed / 60
                        disk = sum(p.stat().st_size for p in (work / "state" / "memory").glob("*")) / 2**20
                        rows.append({"minute": minute, "memory_mb": memory, "cpu_s": cpu, "disk_mb": disk})
                        print(f"{minute:5.1f} {memory:6.1f} MB {cpu:6.1f} s {disk:6.2f} MB", file=sys.stderr)
                finally:
                    trainer.send_signal(signal.SIGTERM)
                    trainer.wait(60)
        finally:
            replay.kill()
            replay.wait()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int)
    parser.add_argument("--step", type=int, default=3)
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--plot", metavar="FILE.png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.cost:
        figures = cost(arguments.minutes or 60, arguments.speed)
        print(json.dumps(figures, indent=1) if arguments.json else "", end="")
        return
    rows = over_time(arguments.minutes or 240, arguments.step)
    if arguments.plot:
        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"intervals": rows, "phases": phases(rows), "recovered_after": recovery(rows)}, indent=1))
        return
    print(
        f"{'work':>5} {'law':>5} {'intervals':>9} {'mean W':>7} {'online':>7} {'last interval':>14}   MAE of package, W"
    )
    for p in phases(rows):
        print(
            f"{p['work']:>5} {p['law']:5.2f} {p['intervals']:9d} {p['mean_watts']:7.1f} {p['online']:7.2f} "
            f"{p['window']:14.2f}"
        )
    print(f"recovered {recovery(rows)} intervals after the change (error at most twice the usual one)")


if __name__ == "__main__":
    main()
