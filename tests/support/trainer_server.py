"""An offline trainer as a real process, and requests for it."""

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
from support.server_process import PATIENCE, Answer, ServerProcess, wait_for

TRAINING_PATIENCE = 180.0
"""Seconds until a test gives up on a training."""

OVER = ("done", "failed", "cancelled")


def request(**changes: Any) -> dict[str, Any]:
    """A request as old clients send it, for one small model; keys that are None are left out."""
    data = {
        name: series
        for name, series in recording(Simulation(containers=3, timestamps=60, accelerator=False)).items()
        if any(word in name for word in ("bpf_cpu_time", "page_cache", "platform"))
    }
    whole = {
        "name": "made",
        "energy_source": "acpi",
        "trainer": {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": [], "isolator": "min"},
        "prome_response": data,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


class Pauses:
    """A listener, installed for a server, at which trainings stop and wait: moments that are too short to
    be disturbed reliably are made as long as a test needs."""

    EVENTS = ("kepler_model_trained", "kepler_model_published")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        info = folder / "pauses-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pauses\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[kepler.hooks]\npauses = pauses\n")
        functions = "".join(f"@hookimpl(strict=True)\ndef {event}():\n    pause({event!r})\n" for event in self.EVENTS)
        (folder / "pauses.py").write_text(
            "import pathlib, time\nfrom kepler_core.plugins.hooks import hookimpl\n"
            f"folder = pathlib.Path({str(folder)!r})\n"
            "def pause(event):\n"
            "    (folder / f'at-{event}').touch()\n"
            "    while (folder / f'pause-{event}').exists():\n"
            "        time.sleep(0.02)\n"
            "    if (folder / f'fail-{event}').exists():\n"
            "        raise ValueError('I do not like it')\n"
            f"{functions}"
        )
        self.environ = {"PYTHONPATH": str(folder)}

    def at(self, event: str) -> None:
        """Let trainings wait there from now on."""
        (self._folder / f"at-{event}").unlink(missing_ok=True)
        (self._folder / f"pause-{event}").touch()

    def fail(self, event: str) -> None:
        """Let the listener, which is strict, fail there from now on."""
        (self._folder / f"fail-{event}").touch()

    def wait(self, event: str) -> None:
        """Until a training has come there."""
        wait_for((self._folder / f"at-{event}").exists, f"no training came to {event}", TRAINING_PATIENCE)

    def end(self, event: str) -> None:
        """Let them go on."""
        (self._folder / f"pause-{event}").unlink()


class TrainerServer(ServerProcess):
    """`kepler-model serve offline-trainer …`; the state is kept from one start to the next."""

    SERVER = "offline-trainer"

    def train(self, body: Any, path: str = "/train", **headers: str) -> Answer:
        """POST /train, and wait for its answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TRAINING_PATIENCE)
        try:
            connection.request(
                "POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def submit(self, body: Any, path: str = "/train", **headers: str) -> str:
        """Queue a job; its URL."""
        answer = self.train(body, path, **({"Prefer": "respond-async"} if path == "/train" else {}), **headers)
        assert answer.status == 202, answer.body
        assert answer.headers["location"] == answer.json()["url"]
        return answer.headers["location"]

    def job(self, url: str) -> dict[str, Any]:
        answer = self.get(url)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    def until(self, url: str, *states: str, stage: str | None = None) -> dict[str, Any]:
        """The job when it is in one of the states (and at the stage)."""
        end = time.monotonic() + TRAINING_PATIENCE
        while True:
            found = self.job(url)
            if found["state"] in states and stage in (None, found["stage"]):
                return found
            assert found["state"] not in OVER, found
            assert time.monotonic() < end, found
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 of the server: of its main process and the one that answers."""
        children = children_of(self.process.pid)
        for pid in (self.process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def trainers(self, state: Path) -> list[int]:
        """All processes that train for the state folder, and what they started."""
        return marked(state)


def children_of(pid: int) -> list[int]:
    """Processes that a process has forked itself (not those of another session)."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(name))
    return found


def marked(state: Path) -> list[int]:
    """Processes with the state folder's mark in their environment, zombies left out."""
    wanted = f"KEPLER_OFFLINE_TRAINER_OF={state.resolve()}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except OSError:
                continue
    return found


@contextmanager
def training(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[TrainerServer]:
    """A server with its store and state below the folder, stopped and its log checked at the end."""
    server = start(folder, *arguments, environ=environ)
    try:
        server.wait_ready()
        yield server
    finally:
        code = server.stop()
    server.check_log()
    assert code == 0, server.log


def start(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> TrainerServer:
    """A server that is not waited for."""
    number = len(list(folder.glob("server-*.log")))
    state = ("--state", str(folder / "state")) if "--state" not in arguments else ()
    return TrainerServer(folder / "store", folder / f"server-{number}.log", *state, *arguments, environ=environ)
