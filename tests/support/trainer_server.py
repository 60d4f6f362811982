"""Runs an offline trainer as a real process, sends requests to it, and stops its trainings at breakpoints."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kepler_core.simulate import Simulation, recording
from kepler_core.store import open_store
from support.process import PATIENCE, wait_for
from support.server_process import Answer, ServerProcess

TRAINING_TIMEOUT_SECONDS = 180.0
"""Seconds after which a test fails because a training has not ended."""

FINAL_STATES = ("done", "failed", "cancelled")

SEVERAL_TRAINERS = {
    "abs_trainers": ["LinearRegressionTrainer", "SGDRegressorTrainer"],
    "dyn_trainers": ["LinearRegressionTrainer"],
}
"""Value of the key `trainer` in a request. It makes a training start several fits."""

MODEL_TRAINED = "kepler_model_trained"
MODEL_PUBLISHED = "kepler_model_published"


def request(**changes: Any) -> dict[str, Any]:
    """Return a training request for one small model, in the format of earlier clients.

    `changes` add or replace keys of the request. A key whose value is None is removed.
    """
    data = {
        name: series
        for name, series in recording(Simulation(containers=3, timestamps=60, accelerator=False)).items()
        if any(word in name for word in ("bpf_cpu_time", "page_cache", "platform"))
    }
    members = {
        "name": "small",
        "energy_source": "acpi",
        "trainer": {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": [], "isolator": "min"},
        "prome_response": data,
        **changes,
    }
    return {key: value for key, value in members.items() if value is not None}


class Breakpoints:
    """A third-party listener that can stop trainings at hooks: after a model is trained, or after publication.

    While a training is stopped there, a test can interrupt it. Without the stop, these moments are too short.
    """

    HOOKS = (MODEL_TRAINED, MODEL_PUBLISHED)

    def __init__(self, folder: Path) -> None:
        """Write the listener's distribution to a folder.

        A server loads the listener if it is started with the environment variables `self.environ`.
        """
        self._folder = folder
        info = folder / "breakpoints-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: breakpoints\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[kepler.hooks]\nbreakpoints = breakpoints\n")
        functions = "".join(f"@hookimpl(strict=True)\ndef {hook}():\n    stop({hook!r})\n" for hook in self.HOOKS)
        (folder / "breakpoints.py").write_text(
            "import pathlib, time\nfrom kepler_core.plugins.hooks import hookimpl\n"
            f"folder = pathlib.Path({str(folder)!r})\n"
            "def stop(hook):\n"
            "    (folder / f'reached-{hook}').touch()\n"
            "    while (folder / f'stop-{hook}').exists():\n"
            "        time.sleep(0.02)\n"
            "    if (folder / f'raise-{hook}').exists():\n"
            "        raise ValueError('I do not like it')\n"
            f"{functions}"
        )
        self.environ = {"PYTHONPATH": str(folder)}

    def set(self, hook: str) -> None:
        """Make trainings wait when they call the hook."""
        (self._folder / f"reached-{hook}").unlink(missing_ok=True)
        (self._folder / f"stop-{hook}").touch()

    def raise_at(self, hook: str) -> None:
        """Make the listener raise an error in trainings that call the hook.

        The listener is strict, so the error is passed on to the training.
        """
        (self._folder / f"raise-{hook}").touch()

    def wait(self, hook: str) -> None:
        """Wait until a training has called the hook."""
        reached = (self._folder / f"reached-{hook}").exists
        wait_for(reached, f"no training reached {hook}", TRAINING_TIMEOUT_SECONDS)

    def clear(self, hook: str) -> None:
        """Let trainings that wait in a call of the hook continue. Later trainings do not wait."""
        (self._folder / f"stop-{hook}").unlink()


class TrainerServer(ServerProcess):
    """A process of `kepler-model serve offline-trainer` on a free port."""

    SERVER = "offline-trainer"

    def train(self, body: Any, path: str = "/train", **headers: str) -> Answer:
        """Send `POST /train` and return the answer. Underscores in the names of `headers` become hyphens."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TRAINING_TIMEOUT_SECONDS)
        try:
            connection.request(
                "POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def submit(self, body: Any, path: str = "/train", **headers: str) -> str:
        """Send a request that queues a job, and return the URL of the job."""
        answer = self.train(body, path, **({"Prefer": "respond-async"} if path == "/train" else {}), **headers)
        assert answer.status == 202, answer.body
        assert answer.headers["location"] == answer.json()["url"]
        return answer.headers["location"]

    def rejected(self, body: Any, status: int, key: str | None = None, **headers: str) -> str:
        """Send a training request. Check that it is rejected with `status` and `key`, and return the message."""
        answer = self.train(body, Prefer="respond-async", **headers)
        assert answer.status == status, answer.body
        content = answer.json()
        assert "\n" not in content["msg"]
        if key is not None:
            assert content["key"] == key, content
        message: str = content["msg"]
        return message

    def job(self, url: str) -> dict[str, Any]:
        """Return the description of the job at a URL."""
        answer = self.get(url)
        assert answer.status == 200, answer.body
        job: dict[str, Any] = answer.json()
        return job

    def until(self, url: str, *states: str) -> dict[str, Any]:
        """Wait until the job at a URL is in one of the states, and return the job's description."""
        deadline = time.monotonic() + TRAINING_TIMEOUT_SECONDS
        while True:
            job = self.job(url)
            if job["state"] in states:
                return job
            assert job["state"] not in FINAL_STATES, job
            assert time.monotonic() < deadline, job
            time.sleep(0.05)

    def kill(self) -> None:
        """Send SIGKILL to the server's main process and to its HTTP process."""
        children = children_of(self.process.pid)
        for pid in (self.process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


class TrainerFolder:
    """The store and the state folder of an offline trainer, and the trainer's training processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.results = self.state / "results"

    def versions(self, pipeline: str) -> list[int]:
        """Return the versions of a pipeline in the store."""
        return open_store(str(self.root / "store")).versions(pipeline)

    def pipelines(self) -> list[str]:
        """Return the names of the pipelines in the store."""
        return open_store(str(self.root / "store")).pipelines()

    def inputs(self) -> set[str]:
        """Return the names of the files in which the requests of jobs are stored."""
        return {path.name for path in (self.state / "spool").iterdir()}

    def check_nothing_stored(self, inputs: set[str]) -> None:
        """Check that the stored requests in the state folder are exactly the files `inputs`.

        Also checks that partly received requests are removed.
        """
        wait_for(lambda: not list((self.state / "incoming").iterdir()), "a received body was not removed")
        assert self.inputs() == inputs

    def processes(self) -> list[int]:
        """Return the ids of all training processes and of all processes that the training processes started."""
        variable = f"KEPLER_OFFLINE_TRAINER_OF={self.state.resolve()}".encode()
        pids = []
        for pid in _pids():
            try:
                if variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    pids.append(pid)
            except OSError:  # the process has ended or is a zombie
                continue
        return pids

    def training_processes(self) -> list[int]:
        """Return the ids of the training processes."""
        return [pid for pid in self.processes() if os.getpgid(pid) == pid]

    def fit_processes(self) -> list[int]:
        """Return the ids of the processes that the training processes have started."""
        return [pid for pid in self.processes() if os.getpgid(pid) != pid]


def children_of(pid: int) -> list[int]:
    """Return the ids of the child processes of a process."""
    children = []
    for candidate in _pids():
        try:
            fields = Path(f"/proc/{candidate}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            children.append(candidate)
    return children


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


@contextmanager
def training(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[TrainerServer]:
    """Run an offline trainer whose store and state are below a folder.

    At the end, stop it and check its log and exit code.
    """
    server = start(folder, *arguments, environ=environ)
    try:
        server.wait_ready()
        yield server
    finally:
        code = server.stop()
    server.check_log()
    assert code == 0, server.log


def start(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> TrainerServer:
    """Start an offline trainer whose store and state are below a folder, without waiting until it is ready."""
    number = len(list(folder.glob("server-*.log")))
    state = ("--state", str(folder / "state")) if "--state" not in arguments else ()
    return TrainerServer(folder / "store", folder / f"server-{number}.log", *state, *arguments, environ=environ)
