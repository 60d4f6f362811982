"""The four servers of a chaos run, and the addresses that their clients need."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
from support.linear_models import MACHINE
from support.process import ProcessUnderTest
from support.server_process import free_port

from chaos_run.processes import START_TIMEOUT_SECONDS

MODEL_SERVER, ESTIMATOR = "model server", "estimator"
OFFLINE_TRAINER, ONLINE_TRAINER = "offline trainer", "online trainer"

LIVE_PIPELINE = "live"
"""Name of the pipeline that the online trainer publishes."""
_LIVE_PIPELINE_YAML = """\
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [PolynomialRegressionTrainer]
dyn_trainers: []
"""
_REPLAY_SPEED = 15
_READY_TIMEOUT_SECONDS = 5.0


@attrs.frozen
class Places:
    """The folders, ports and sockets of a chaos run."""

    disk: Path
    """Folder on the small disk, with the store and the state folders of the servers."""
    folder: Path
    """Folder for logs, sockets and inputs, on a disk that is never full."""
    model_server: int = attrs.field(factory=free_port)
    offline_trainer: int = attrs.field(factory=free_port)
    online_trainer: int = attrs.field(factory=free_port)
    estimator_metrics: int = attrs.field(factory=free_port)

    @property
    def store(self) -> Path:
        return self.disk / "store"

    @property
    def online_state(self) -> Path:
        return self.disk / "online"

    @property
    def socket(self) -> Path:
        return self.folder / "e.sock"

    def log(self, server: str, number: int) -> Path:
        return self.folder / "logs" / f"{server.replace(' ', '-')}-{number}.log"

    def ports(self) -> dict[str, int]:
        """Return the TCP port of each server, by the server's name."""
        return {
            MODEL_SERVER: self.model_server,
            OFFLINE_TRAINER: self.offline_trainer,
            ONLINE_TRAINER: self.online_trainer,
            ESTIMATOR: self.estimator_metrics,
        }


def _serve(server: str, command: str, places: Places, *options: str) -> Callable[[int], ProcessUnderTest]:
    def make(number: int) -> ProcessUnderTest:
        arguments = ["serve", command, "--store", str(places.store), *options]
        return ProcessUnderTest(arguments, places.log(server, number))

    return make


def starters(places: Places, prometheus: str | None) -> dict[str, Callable[[int], ProcessUnderTest]]:
    """Return the functions that start the processes of the servers, by the server's name.

    `prometheus` is the URL of a Prometheus server. If it is None, the run has no online trainer.
    """
    spec = places.folder / "machine.json"
    spec.write_text(json.dumps(MACHINE))
    (places.folder / f"{LIVE_PIPELINE}.yaml").write_text(_LIVE_PIPELINE_YAML)
    local = ("--host", "127.0.0.1", "--port")
    commands = {
        MODEL_SERVER: _serve(MODEL_SERVER, "model-server", places, *local, str(places.model_server)),
        OFFLINE_TRAINER: _serve(
            OFFLINE_TRAINER, "offline-trainer", places, *local, str(places.offline_trainer),
            "--state", str(places.disk / "offline"), "--fits", "1",
        ),
        ESTIMATOR: _serve(
            ESTIMATOR, "estimator", places, "--socket", str(places.socket), "--refresh", "2",
            "--model-server", f"http://127.0.0.1:{places.model_server}", "--machine-spec", str(spec),
            "--metrics-port", str(places.estimator_metrics),
        ),
    }  # fmt: skip
    if prometheus is not None:
        commands[ONLINE_TRAINER] = _serve(
            ONLINE_TRAINER, "online-trainer", places, *local, str(places.online_trainer),
            "--pipeline", str(places.folder / f"{LIVE_PIPELINE}.yaml"), "--server", prometheus,
            "--state", str(places.online_state), "--delay", "1s", "--overlap", "10s", "--interval", "1",
            "--backfill", "5s", "--retrain-after", "100",
        )  # fmt: skip
    return commands


def readiness(server: str, places: Places) -> Callable[[ProcessUnderTest], bool]:
    """Return the function that tells whether a server's process is ready to answer."""
    if server == ESTIMATOR:
        return lambda process: "listening on" in process.log
    path = "healthz" if server == ONLINE_TRAINER else "readyz"
    url = f"http://127.0.0.1:{places.ports()[server]}/{path}"

    def ready(_: ProcessUnderTest) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=_READY_TIMEOUT_SECONDS):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            # an error status means that the trainer runs, but no round has succeeded yet
            return server == ONLINE_TRAINER
        except (OSError, ValueError):
            return False

    return ready


@contextlib.contextmanager
def replayed_prometheus(folder: Path) -> Iterator[str]:
    """Run a Prometheus server and yield its URL.

    The Prometheus server scrapes a simulated recording, which is replayed again and again.
    """
    from support.prometheus_process import prometheus  # this module imports pytest

    from kepler_core.simulate import Simulation, write

    recording = folder / "recording.json"
    write(Simulation(containers=3, timestamps=800, sockets=1, resets=1, accelerator=False, seed=4), str(recording))
    port = free_port()
    options = ["--port", str(port), "--speed", str(_REPLAY_SPEED), "--loop"]
    replay = subprocess.Popen(
        [sys.executable, "-m", "kepler_core", "replay", str(recording), *options], stdout=subprocess.PIPE
    )
    try:
        assert replay.stdout is not None
        assert b"replaying" in replay.stdout.readline(), f"no replay within {START_TIMEOUT_SECONDS} seconds"
        with prometheus(folder / "prometheus", targets=[f"127.0.0.1:{port}"], scrape="200ms") as server:
            yield server.url
    finally:
        replay.kill()
        replay.wait()
