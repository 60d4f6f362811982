"""Test that the online trainer loses nothing when its process is killed at random moments.

A Prometheus server continues to scrape while trainers are killed.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.command import kepler
from support.online_trainer import PIPELINE, stored_samples
from support.process import PATIENCE, wait_for
from support.prometheus_process import PrometheusProcess, prometheus
from support.server_process import ServerProcess, free_port, serving

from kepler_core.pipeline.load import load_pipeline
from kepler_core.prometheus import PrometheusClient, Server
from kepler_core.simulate import Simulation, write
from kepler_core.store import Store, open_store
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.fetching import Fetcher
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.state_folder import StateFolder

KILLS = 10
SPEED = 15


class OnlineTrainerProcess(ServerProcess):
    """A process of `kepler-model serve online-trainer` with short intervals between its rounds."""

    SERVER = "online-trainer"

    def __init__(self, folder: Path, url: str, number: int) -> None:
        super().__init__(
            folder / "store", folder / f"trainer-{number}.log", "--pipeline", str(folder / "live.yaml"), "--server",
            url, "--state", str(folder / "state"), "--delay", "1s", "--overlap", "10s", "--interval", "0.5",
            "--backfill", "5s", "--retrain-after", "60",
        )  # fmt: skip

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self.process.poll() is None, self.log
        self.process.kill()
        self.process.wait(PATIENCE)

    def has_succeeded(self) -> bool:
        """Return whether the process has completed a round without an error."""
        try:
            return self.get("/healthz").json()["last_success"] is not None
        except OSError:
            assert self.process.poll() is None, self.log
            return False


@contextlib.contextmanager
def replayed(folder: Path) -> Iterator[PrometheusProcess]:
    """Run a Prometheus server that scrapes a simulated recording of 40 minutes, replayed at `SPEED` times real time."""
    simulation = Simulation(containers=3, timestamps=800, sockets=1, resets=1, accelerator=False, seed=4)
    write(simulation, str(folder / "recording.json"))
    port = free_port()
    command = [sys.executable, "-m", "kepler_core", "replay", str(folder / "recording.json")]
    process = subprocess.Popen([*command, "--port", str(port), "--speed", str(SPEED)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"replaying" in process.stdout.readline()
        with prometheus(folder / "prometheus", targets=[f"127.0.0.1:{port}"], scrape="200ms") as server:
            yield server
    finally:
        process.kill()
        process.wait()


@attrs.frozen
class Survivor:
    """The files of online trainers that were killed, and a Prometheus server that still scrapes."""

    folder: Path
    url: str
    started: float
    """Time just before the first online trainer was started, in Unix seconds."""

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "store"))

    @property
    def samples(self) -> list[tuple[str, float]]:
        return stored_samples(SampleStore(StateFolder(self.folder / "state").samples, read_only=True))


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survivor]:
    """Start an online trainer again and again, and kill it at random moments.

    Checks after each kill that no sample is stored twice, no sample is lost and no file is damaged.
    """
    moments = random.Random(7)
    folder = tmp_path_factory.mktemp("kills")
    (folder / "live.yaml").write_text(PIPELINE)
    with replayed(folder) as server:
        survivor = Survivor(folder, server.url, time.time())
        before: set[tuple[str, float]] = set()
        for kill in range(KILLS):
            trainer = OnlineTrainerProcess(folder, server.url, kill)
            if kill in (0, KILLS // 2):  # before the first and the middle kill, wait until models are published
                wait_for(lambda: "live" in survivor.store.pipelines(), "nothing is published", 3 * PATIENCE)
            time.sleep(moments.uniform(0.5, 4.0))
            trainer.kill()
            store = SampleStore(StateFolder(folder / "state").samples)
            after = stored_samples(store)
            assert len(set(after)) == len(after)
            assert before <= set(after)
            assert store.damaged == []
            before = set(after)
            if "live" in survivor.store.pipelines():
                assert survivor.store.snapshot("live").problems() == {}
        yield survivor


def served_version(models: ServerProcess) -> int:
    """Return the pipeline version of the first model that a model server lists."""
    return int(models.get("/models?limit=1").json()["models"][0]["version"])


def test_a_model_server_serves_what_a_restarted_trainer_publishes(survivor: Survivor, tmp_path: Path) -> None:
    store = survivor.store
    with serving(survivor.folder / "store", survivor.folder / "server.log") as models:
        trainer = OnlineTrainerProcess(survivor.folder, survivor.url, KILLS)
        try:
            wait_for(trainer.has_succeeded, "no round succeeds")
            # Two processes may publish a version at any moment: the running trainer, and a process that a killed
            # trainer has started. So wait until the model server serves the newest version.
            wait_for(lambda: served_version(models) == store.current_version("live"), "another version is served")
            (tmp_path / "store").mkdir()
            second = kepler(
                "serve", "online-trainer", "--server", survivor.url, "--store", tmp_path / "store", "--state",
                survivor.folder / "state", "--port", "0",
            )  # fmt: skip
            assert second.returncode == 2
            assert "in use by another" in second.stderr
        finally:
            code = trainer.stop()
        assert code == 0, trainer.log
        snapshot = store.snapshot("live")
        files = {name: snapshot.read(name) for name in snapshot.names if name != "manifest.json"}
        version = store.publish("live", files)
        wait_for(lambda: served_version(models) == version, "the new version is not served")


def test_the_logs_report_no_defect(survivor: Survivor) -> None:
    logs = list(survivor.folder.glob("trainer-*.log"))
    assert len(logs) >= KILLS
    for log in logs:
        assert "Traceback" not in log.read_text()


def test_the_stored_samples_are_those_of_the_server(survivor: Survivor) -> None:
    """The stored samples are equal to the samples that one fetch of the whole time range returns."""
    stored = sorted(time for _, time in survivor.samples)
    spec = load_pipeline(survivor.folder / "live.yaml")
    fetcher = Fetcher(PrometheusClient(Server(survivor.url)), spec, None, None, ())
    (observations,) = fetcher.fetch_groups(survivor.started - 10, time.time(), threading.Event())
    complete = sample_table.completeness(observations)
    fetched = [
        float(at)
        for at, values in zip(observations.sample_time, complete, strict=True)
        if values and stored[0] <= at <= stored[-1]
    ]
    assert stored == fetched
    assert len(stored) > 100
