"""The online trainer against a real Prometheus: rounds, decisions, restarts, kills."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import yaml
from support.paths import ROOT

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.prometheus_process import PrometheusProcess, prometheus
from support.server_process import PATIENCE, ServerProcess, free_port, serving, wait_for

from kepler_core.pipeline.load import load_pipeline, pipeline_from
from kepler_core.prometheus import PrometheusClient, Server, select_metrics
from kepler_core.recording import observe, read_recording
from kepler_core.recording.schemas import is_known_metric
from kepler_core.simulate import START, Simulation, recording
from kepler_core.store import open_store
from kepler_core.store.models import read_models
from kepler_servers.online_trainer import instants
from kepler_servers.online_trainer.exposition import Exposition, health
from kepler_servers.online_trainer.fetching import Source
from kepler_servers.online_trainer.law import LawChange, Line, changed_watts, find_changes
from kepler_servers.online_trainer.memory import TrainingMemory, TrainingMemoryError
from kepler_servers.online_trainer.rounds import Pace, Rounds, state_folder

PIPELINE = """\
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [{name: PolynomialRegressionTrainer}]
dyn_trainers: []
"""
STEP = 3
SAMPLES = 700
CHANGE = 300
Content = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="module")
def content() -> Content:
    """35 minutes, after 15 of which the machine needs 15 % more power."""
    return recording(
        Simulation(
            containers=4,
            timestamps=SAMPLES,
            sockets=1,
            churn=0.2,
            resets=2,
            accelerator=False,
            law_change=CHANGE / SAMPLES,
            seed=5,
        )
    )


@pytest.fixture(scope="module")
def server(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), content) as found:
        yield found


class Clock(PrometheusClient):
    """A client of a server whose clock the test sets."""

    time = 0.0

    def now(self) -> float:
        return self.time


@attrs.define
class Bench:
    """A trainer whose time the test moves on."""

    folder: Path
    url: str
    pipeline: str = PIPELINE
    machine_spec: Mapping[str, Any] | None = None
    state: str = "state"
    client: Clock = attrs.field(init=False)
    rounds: Rounds = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.client = Clock(Server(self.url), patience=0)
        self.start()

    def start(self, pipeline: str | None = None, **pace: Any) -> None:
        """Begin, or begin again after a restart."""
        path = self.folder / "test.yaml"
        path.write_text(pipeline or self.pipeline)
        state = self.folder / self.state
        state.mkdir(exist_ok=True)
        source = Source(self.client, load_pipeline(path), None, None, ())
        memory = TrainingMemory(state_folder(state), overlap=30)
        settings = {"interval": 60.0, "delay": 0.0, "backfill": 120.0, "retrain_after": 100, **pace}
        spec = None if self.machine_spec is None else dict(self.machine_spec)
        self.rounds = Rounds(source, self.store, state, Pace(**settings), memory=memory, machine_spec=spec)

    @property
    def store(self) -> Any:
        return open_store(str(self.folder / "store"))

    def until(self, seconds: float) -> bool:
        """A round at this time of the recording; whether it succeeded."""
        self.client.time = START + seconds
        return self.rounds.guarded_round()

    @property
    def decision(self) -> dict[str, Any]:
        assert self.rounds.status.last_decision is not None
        return self.rounds.status.last_decision


def truth(content: Content, until: float) -> set[tuple[str, float]]:
    """The instants that a trainer must have remembered by then, each once."""
    spec = pipeline_from({"name": "test", **yaml.safe_load(PIPELINE)}, "test")
    asked = {selection.metric for selection in select_metrics(list(content), spec=spec)}
    part = {
        metric: [
            {"metric": s["metric"], "values": samples}
            for s in series
            if (samples := [v for v in s["values"] if v[0] <= START + until])
        ]
        for metric, series in content.items()
        if metric in asked
    }
    found = observe([read_recording(part, name="x", wanted=is_known_metric)])
    complete = instants.completeness(found)
    return {
        (found.streams[0].node, float(time))
        for time, known in zip(found.sample_time[:-1], complete[:-1], strict=True)
        if known
    }


def remembered(memory: TrainingMemory) -> list[tuple[str, float]]:
    table = memory.table()
    return list(zip(table.column("node").to_pylist(), table.column("time").to_pylist(), strict=True))


def served_version(models: ServerProcess) -> int:
    """What the model server's newest version is."""
    return int(models.get("/models?limit=1").json()["models"][0]["version"])


def served_mae(bench: Bench, content: Content, since: float, until: float) -> float:
    """Error of package power of what is served, in watts, on a part of the recording."""
    part = {
        m: [
            {"metric": s["metric"], "values": [v for v in s["values"] if since <= v[0] - START <= until]}
            for s in series
        ]
        for m, series in content.items()
    }
    found = observe([read_recording(part, name="x", wanted=is_known_metric)])
    (entry,) = read_models(bench.store.snapshot("test"))
    model = entry.load()
    X = np.column_stack([found.node_features[name] for name in model.features])
    measured = found.power["rapl-sysfs", "package"]
    known = np.isfinite(X).all(axis=1) & np.isfinite(measured)
    return float(np.abs(model.predict(X[known])["package"] - measured[known]).mean())


def test_the_whole_way(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    """First models; nothing is published that is no better; the law changes and the models follow."""
    bench = Bench(tmp_path, server.url)
    change = CHANGE * STEP
    for at in range(120, int(change) - 59, 60):
        assert bench.until(at), bench.rounds.status.problem
    assert bench.rounds.drift.version is not None
    first = bench.store.decisions("test")
    assert first[0]["trigger"] == "first models"
    assert first[0]["decision"] == "published"
    assert any(decision["decision"] == "kept aside" for decision in first)
    kept = next(decision for decision in first if decision["decision"] == "kept aside")
    assert "needed a gain" in kept["reason"] or "worse" in kept["reason"]
    assert not bench.rounds.drift.alarm
    before = served_mae(bench, content, change - 300, change)

    taken = 0
    while served_mae(bench, content, change + 240, SAMPLES * STEP) > 3 * before:
        taken += 1
        assert bench.until(int(change) + 60 * taken), bench.rounds.status.problem
        assert taken <= 14, [d["reason"] for d in bench.store.decisions("test")]
    changes = [d for d in bench.store.decisions("test") if d["law_changes"]]
    assert len(changes) == 1
    line = changes[0]["law_changes"][0]["lines"]["rapl-sysfs.package"]
    assert line["scale"] * 50 + line["offset"] == pytest.approx(1.15 * 50, rel=0.06)
    assert abs(changes[0]["law_changes"][0]["since"] - START - change) < 60
    assert bench.rounds.status.law_changes == 1

    assert sorted(remembered(bench.rounds.memory)) == sorted(truth(content, change + 60 * taken))
    text = subprocess.run(
        [sys.executable, "-m", "kepler_core", "store", "history", "test", "-s", str(tmp_path / "store")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "law change" in text
    assert kept["reason"] in text
    page = _get(bench, "/metrics")
    assert 'kepler_online_trainer_decisions_total{decision="published"}' in page
    assert "kepler_online_trainer_law_changes_total 1.0" in page
    assert json.loads(_get(bench, "/healthz"))["served_version"] == bench.store.current_version("test")
    assert "there are /healthz and /metrics" in json.loads(_get(bench, "/", "404 Not Found"))["msg"]
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "kepler_core", "memory", "show", "--state", str(tmp_path / "state"), "--json"],
            check=True, capture_output=True, text=True,
        ).stdout
    )  # fmt: skip
    assert shown["instants"] == len(truth(content, change + 60 * taken))
    assert len(shown["law_changes"]) == 1
    for name in ("m.parquet", "m.csv"):
        out = tmp_path / name
        command = [
            sys.executable,
            "-m",
            "kepler_core",
            "memory",
            "export",
            "--state",
            str(tmp_path / "state"),
            "-o",
            str(out),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rows = (tmp_path / "m.csv").read_text().splitlines()
    assert len(rows) == shown["instants"] + 1
    assert "power.rapl-sysfs.package" in rows[0]


def _get(bench: Bench, path: str, expected: str = "200 OK") -> str:
    answer: list[str] = []
    body = Exposition(bench.rounds).app(
        {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": None},
        lambda status, headers, problem=None: answer.append(status),
    )
    assert answer == [expected]
    return b"".join(body).decode()


def test_a_worse_challenger_is_not_published(server: PrometheusProcess, tmp_path: Path) -> None:
    good = PIPELINE.replace("PolynomialRegressionTrainer", "GradientBoostingRegressorTrainer")
    # the same trainer, so badly set up that it can only say one number
    worse = good.replace(
        "{name: GradientBoostingRegressorTrainer}", "{name: GradientBoostingRegressorTrainer, args: {n_estimators: 1}}"
    )
    assert worse != good
    bench = Bench(tmp_path, server.url, worse)
    for at in (120, 240, 360, 420):
        bench.until(at)
    assert bench.decision["trained_on_all"] == []  # nothing was held out
    bench.start(good, retrain_after=60)
    bench.until(540)
    assert bench.decision["decision"] == "published"
    assert "better" in bench.decision["reason"]
    # what won is trained on the newest data, too, before it is published
    (path,) = bench.decision["trained_on_all"]
    online = bench.store.snapshot("test").read_json("metadata.json")["online"]
    assert online["trained_until"][path] == bench.decision["data_until"]
    assert bench.decision["held_out"] >= 30
    version = bench.store.current_version("test")
    files = bench.store.snapshot("test").manifest
    bench.start(worse, retrain_after=60)
    bench.until(720)
    assert bench.decision["decision"] == "kept aside"
    assert "worse" in bench.decision["reason"] or "no better" in bench.decision["reason"]
    assert not any(row["better"] for row in bench.decision["models"])
    assert (
        bench.decision["models"][0]["new"]["components"]["package"]["mae"]
        > bench.decision["models"][0]["served"]["components"]["package"]["mae"]
    )
    assert bench.store.current_version("test") == version
    assert bench.store.snapshot("test").manifest == files
    # what was kept aside is there to be looked at
    aside = open_store(str(tmp_path / "state" / "challengers"))
    assert bench.decision["aside"] in aside.versions("test")


def test_trouble_is_said_counted_and_survived(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "http://127.0.0.1:1")
    assert not bench.until(120)
    assert health(bench.rounds)["status"] == "degraded"
    assert "does not answer" in health(bench.rounds)["problem"]
    assert bench.rounds.status.problems == {"unreachable": 1}
    bench.client.location = server.url
    assert bench.until(120)
    assert health(bench.rounds)["status"] == "ok"

    bench.client.time = START + 1e6  # nothing there
    assert bench.rounds.guarded_round()
    assert bench.rounds.status.rounds["empty"] == 1
    assert bench.until(90)  # a clock that goes back
    assert bench.until(180)
    assert len(remembered(bench.rounds.memory)) == len(set(remembered(bench.rounds.memory)))

    folder = state_folder(tmp_path / "state")
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"")
    assert not bench.until(240)
    assert bench.rounds.status.problems["memory"] == 1
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert bench.until(240)
    assert sorted(remembered(bench.rounds.memory)) == sorted(truth(content, 240))
    # after a restart it goes on where it was
    bench.start()
    assert bench.until(300)
    assert sorted(remembered(bench.rounds.memory)) == sorted(truth(content, 300))
    # a file that went bad while it ran: said, and what was in it is fetched again
    first = min(bench.rounds.memory.folder.glob("*.parquet"), key=lambda path: int(path.stem))
    first.write_bytes(b"no Parquet")
    with pytest.raises(TrainingMemoryError):
        bench.rounds.memory.table()
    bench.rounds.memory.look_again()
    assert bench.until(310)
    assert sorted(remembered(bench.rounds.memory)) == sorted(truth(content, 310))
    (first.parent / "9999.parquet").write_bytes(b"no Parquet")
    bench.start()
    assert health(bench.rounds)["memory"]["damaged_files"] == 1
    assert bench.rounds.status.problems["memory"] == 1
    assert bench.until(320)
    assert sorted(remembered(bench.rounds.memory)) == sorted(truth(content, 320))


def test_trainers_of_two_kinds_of_nodes_share_a_pipeline(server: PrometheusProcess, tmp_path: Path) -> None:
    mine = Bench(tmp_path, server.url)
    for at in (120, 240, 360, 420):
        assert mine.until(at)
    assert mine.rounds.drift.version == 1
    theirs = Bench(tmp_path, server.url, machine_spec={"processor": "intel_xeon", "cores": 64}, state="theirs")
    assert theirs.until(120)
    assert theirs.rounds.drift.version is None  # what is served is not for this kind
    for at in (240, 360, 420):
        assert theirs.until(at)
    assert theirs.decision["trigger"] == "first models"
    assert theirs.decision["decision"] == "published"
    assert mine.until(430)
    for bench, node_type in ((mine, 0), (theirs, 1)):
        assert bench.rounds.drift.version == 2
        assert [watched.entry.node_type for watched in bench.rounds.drift.watched] == [node_type]
        assert bench.rounds.drift.node_type == node_type
    mine.start()
    mine.rounds.drift.refresh()
    mine.rounds._learn_what_was_examined()
    assert mine.decision == mine.store.decisions("test")[0]


def observations(content: Content, since: float, until: float) -> Any:
    part = {
        m: [
            {"metric": s["metric"], "values": [v for v in s["values"] if since <= v[0] - START <= until]}
            for s in series
        ]
        for m, series in content.items()
    }
    return observe([read_recording(part, name="x", wanted=is_known_metric)])


def test_new_work_is_no_new_law() -> None:
    same = recording(Simulation(containers=6, timestamps=600, sockets=1, resets=0, workloads=3, accelerator=False))
    assert find_changes(observations(same, 0, 1800)) == []
    usual = recording(Simulation(containers=6, timestamps=600, sockets=1, accelerator=False, seed=2))
    assert find_changes(observations(usual, 0, 1800)) == []


def test_a_new_law_is_found_and_the_memory_follows() -> None:
    content = recording(Simulation(containers=6, timestamps=800, sockets=1, law_change=0.8, accelerator=False, seed=1))
    found = observations(content, 0, 2400)
    (change,) = find_changes(found)
    assert abs(change.since - START - 0.8 * 2400) <= 30
    now = changed_watts(found, [change])
    before = found.sample_time < change.since
    key = ("rapl-sysfs", "package")
    np.testing.assert_allclose(np.nanmean(now.power[key][before] / found.power[key][before]), 1.15, rtol=0.03)
    np.testing.assert_array_equal(now.power[key][~before], found.power[key][~before])
    assert find_changes(now) == []
    other = LawChange("another node", 0.0, {"rapl-sysfs.package": Line(2.0, 0.0)}, 30)
    np.testing.assert_array_equal(changed_watts(found, [other]).power[key], found.power[key])


class Trainer:
    """`kepler-model serve online-trainer` as a process."""

    def __init__(self, folder: Path, url: str, *more: str) -> None:
        self.port = free_port()
        (folder / "live.yaml").write_text(PIPELINE)
        self.log = folder / "log"
        command = [
            sys.executable, "-m", "kepler_core", "serve", "online-trainer", "--pipeline", str(folder / "live.yaml"),
            "--server", url, "--store", str(folder / "store"), "--state", str(folder / "state"), "--host", "127.0.0.1",
            "--port", str(self.port), "--config-dir", str(folder / "none"), "--delay", "1s", "--overlap", "10s", *more,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def health(self) -> dict[str, Any] | None:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=PATIENCE) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except OSError:
            return None
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def replayed(folder: Path, speed: float) -> Iterator[PrometheusProcess]:
    """A Prometheus that scrapes a replay of a simulated recording, 40 minutes at a speed."""
    from kepler_core.simulate import write

    write(
        Simulation(containers=3, timestamps=800, sockets=1, resets=1, accelerator=False, seed=4), str(folder / "r.json")
    )
    port = free_port()
    exporter = ROOT / "bench" / "replay.py"
    command = [sys.executable, str(exporter), str(folder / "r.json"), "--port", str(port), "--speed", str(speed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"replaying" in process.stdout.readline()
        with prometheus(folder / "prometheus", targets=[f"127.0.0.1:{port}"], scrape="200ms") as server:
            yield server
    finally:
        process.kill()
        process.wait()


def test_an_examination_whose_trainer_is_killed_says_so_in_a_line() -> None:
    command = [sys.executable, "-m", "kepler_servers.online_trainer.examination"]
    done = subprocess.run(command, input='{"state": "s', check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("the examination's task is not whole, who asked for it has ended")
    assert done.stderr.count("\n") == 1


def test_live_with_twenty_kills(tmp_path: Path) -> None:
    """kill -9 at random moments: nothing is counted twice, nothing is lost, the store is whole; and the
    model server serves what is published without a restart."""
    chance = random.Random(7)
    options = ("--interval", "0.5", "--backfill", "5s", "--retrain-after", "60")
    with replayed(tmp_path, speed=15) as server:
        begun = time.time()
        store = open_store(str(tmp_path / "store"))
        known: set[tuple[str, float]] = set()
        for kill in range(20):
            trainer = Trainer(tmp_path, server.url, *options)
            if kill in (0, 10):  # let it come so far as to publish
                wait_for(lambda: "live" in store.pipelines(), "nothing is published", 3 * PATIENCE)
            time.sleep(chance.uniform(0.5, 4.0))
            trainer.kill()
            memory = TrainingMemory(state_folder(tmp_path / "state"))
            have = remembered(memory)
            assert len(set(have)) == len(have)
            assert known <= set(have)
            assert memory.damaged == []
            known = set(have)
            if "live" in store.pipelines():
                assert store.snapshot("live").problems() == {}
        with serving(tmp_path / "store", tmp_path / "server.log") as models:
            trainer = Trainer(tmp_path, server.url, *options)
            try:
                wait_for(lambda: (trainer.health() or {}).get("last_success") is not None, "no round succeeds")
                # the trainer, or an examination that outlived its trainer, may publish at any moment
                wait_for(lambda: served_version(models) == store.current_version("live"), "another version is served")
                again = tmp_path / "again"
                again.mkdir()
                second = subprocess.run(
                    [sys.executable, "-m", "kepler_core", "serve", "online-trainer", "--server", server.url, "--store",
                     str(again), "--state", str(tmp_path / "state"), "--port", "0"],
                    check=False, capture_output=True, text=True,
                )  # fmt: skip
                assert second.returncode == 2
                assert "in use by another" in second.stderr
            finally:
                trainer.kill(signal.SIGTERM)
            assert trainer.process.returncode == 0, trainer.log.read_text()
            # a new version is served without a restart
            files = {n: store.snapshot("live").read(n) for n in store.snapshot("live").names if n != "manifest.json"}
            number = store.publish("live", files)
            wait_for(lambda: served_version(models) == number, "it is not served")
        assert "Traceback" not in trainer.log.read_text()
        # the truth: all that the server has between the first and the last instant, asked for in one piece
        have = remembered(TrainingMemory(state_folder(tmp_path / "state")))
        times = sorted(t for _, t in have)
        source = Source(PrometheusClient(Server(server.url)), load_pipeline(tmp_path / "live.yaml"), None, None, ())
        import threading

        whole = source.fetch(begun - 10, time.time(), threading.Event())
        assert whole is not None
        complete = instants.completeness(whole)
        expected = [
            float(t) for t, c in zip(whole.sample_time, complete, strict=True) if c and times[0] <= t <= times[-1]
        ]
        assert times == expected
        assert len(times) > 100
