"""The good clients of a chaos run. They know the right answers, and check each answer."""

from __future__ import annotations

import http.client
import io
import json
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from load import KEPLER_READS
from support.estimator_clients import checked_reply, connect, watts_request
from support.small_pipelines import BPF

from chaos_run import publisher
from chaos_run.ledger import Ledger
from chaos_run.servers import ESTIMATOR, MODEL_SERVER, ONLINE_TRAINER, Places

TIMEOUT_SECONDS = 10.0
"""If a client receives no byte for this number of seconds, the request counts as not answered."""
_PAUSE_SECONDS = 0.02
_PUBLISHER = "publisher"


@attrs.frozen
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send one request on a new connection and return the answer. Raises `OSError` if the answer is not complete."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"no complete answer: {error!r}") from error
    finally:
        connection.close()


class Publications:
    """Start a publisher process, kill it, and start it again. Remember the versions that it has published."""

    def __init__(self, places: Places, ledger: Ledger, pauses: random.Random) -> None:
        self._places = places
        self._ledger = ledger
        self._pauses = pauses
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_PUBLISHER, daemon=True)
        self._changing = threading.Lock()
        self.attempted = 0
        """Serial number of the newest version that a publisher has tried to publish."""
        self.versions: dict[int, int] = {}
        """Serial numbers of the versions that a publisher has reported as published, by version number."""
        self.first = threading.Event()
        """An event that is set when the first version is published."""
        self.kills = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def may_be(self, serial: int | None) -> bool:
        """Return whether the store may contain a version with this serial number."""
        return serial is not None and 1 <= serial <= self.attempted

    def _run(self) -> None:
        while not self._stop.is_set():
            command = [sys.executable, "-m", "chaos_run.publisher", str(self._places.store), str(self.attempted + 1)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
            reader.start()
            if not self.first.is_set():
                self.first.wait()
            self._stop.wait(self._pauses.uniform(1.5, 8.0))
            if process.poll() is not None:
                self._ledger.fault("exits without a reason", f"{_PUBLISHER}: exit code {process.returncode}")
            process.kill()
            process.wait()
            reader.join()  # reads the remaining lines that the process wrote before the kill
            self.kills += 1

    def _read(self, lines: Any) -> None:
        for line in lines:
            if not line.endswith("\n"):
                return  # the process was killed before it wrote the whole line
            word, serial, *rest = line.split(maxsplit=2)
            if word == "attempt":
                self.attempted = int(serial)
            elif word == "published":
                self.versions[int(rest[0])] = int(serial)
                self._ledger.count(_PUBLISHER, "published")
                self.first.set()
            else:
                self._ledger.count(_PUBLISHER, "refused: full disk" if "space" in line or "large" in line else "failed")


class GoodClients:
    """Threads of good clients. Each thread sends one kind of request again and again."""

    def __init__(self, places: Places, ledger: Ledger, publications: Publications, seed: int) -> None:
        self._places = places
        self._ledger = ledger
        self._publications = publications
        self._seed = seed
        self._stop = threading.Event()
        self._newest = 0
        """Serial number of the newest version of which the model server has already sent a model."""
        steps = {ESTIMATOR: self._ask_estimator, MODEL_SERVER: self._ask_model_server}
        self._threads = [threading.Thread(target=self._run, args=item, daemon=True) for item in steps.items()]

    def start(self, online_trainer: bool) -> None:
        if online_trainer:
            step = (ONLINE_TRAINER, self._ask_online_trainer)
            self._threads.append(threading.Thread(target=self._run, args=step, daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3 * TIMEOUT_SECONDS)

    def _run(self, server: str, step: Callable[[random.Random], None]) -> None:
        choices = random.Random(f"{self._seed} {server}")
        while not self._stop.wait(_PAUSE_SECONDS):
            try:
                step(choices)
            except TimeoutError:
                self._ledger.count(server, "no answer in time")
            except OSError:
                self._ledger.count(server, "no connection")
            except Exception as error:
                self._ledger.fault("wrong answers", f"{server}: {error!r}")

    def _right(self, server: str) -> None:
        self._ledger.count(server, "right")
        self._ledger.answered(server)

    def _ask_estimator(self, choices: random.Random) -> None:
        rows = [[choices.randrange(10_000), choices.randrange(10_000)] for _ in range(choices.randint(1, 3))]
        with connect(self._places.socket) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.sendall(json.dumps(watts_request(rows)).encode())
            content = connection.recv(KEPLER_READS)
        if not content:
            self._ledger.count(ESTIMATOR, "closed without a reply")
            return
        reply = checked_reply(content)
        if not any(map(any, reply["powers"].values())):
            self._ledger.count(ESTIMATOR, "reply without watts")
            return
        serial = publisher.serial_of(reply["powers"], rows)
        if self._publications.may_be(serial):
            self._right(ESTIMATOR)
        else:
            self._ledger.fault("wrong answers", f"{ESTIMATOR}: {content[:300]!r} for {rows}")

    def _ask_model_server(self, choices: random.Random) -> None:
        as_zip = choices.random() < 0.2
        request = {"metrics": list(BPF), "output_type": "AbsPower", "source": "rapl-sysfs", "weight": not as_zip}
        body = json.dumps({**request, "pipeline_name": publisher.PIPELINE}).encode()
        since = self._newest
        answer = ask(self._places.model_server, "POST", "/model", body)
        self._ledger.status(MODEL_SERVER, "good", answer.status)
        if answer.status != 200:
            self._ledger.count(MODEL_SERVER, f"status {answer.status}")
            return
        serial = served_serial(answer.body, as_zip)
        if serial is None or not self._publications.may_be(serial):
            self._ledger.fault("wrong answers", f"{MODEL_SERVER}: {answer.body[:300]!r}")
        elif serial < since:
            self._ledger.fault("wrong answers", f"{MODEL_SERVER}: version {serial} after version {since}")
        else:
            self._newest = serial
            self._right(MODEL_SERVER)

    def _ask_online_trainer(self, choices: random.Random) -> None:
        answer = ask(self._places.online_trainer, "GET", "/healthz")
        self._ledger.status(ONLINE_TRAINER, "good", answer.status)
        health = json.loads(answer.body)
        if answer.status == 200 and health["last_success"] is not None:
            self._right(ONLINE_TRAINER)
        else:
            self._ledger.count(ONLINE_TRAINER, f"not healthy ({answer.status})")
        self._stop.wait(0.3)


def served_serial(body: bytes, as_zip: bool) -> int | None:
    """Return the serial number of the model in a model server's answer; None if the answer is wrong."""
    if not as_zip:
        return publisher.serial_of_weights(json.loads(body))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        files = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    serial = publisher.serial_of_weights(files["weight.json"])
    if serial is None or any(files[f"{name}.json"]["bias"] != bias for name, bias in publisher.biases(serial).items()):
        return None
    return serial


def served_version_is_current(places: Places, current: Path) -> bool:
    """Return whether the model server and the estimator both answer with the store's current version."""
    wanted = json.loads(next(current.rglob("weight.json")).read_bytes())["package"]["All_Weights"]["Bias_Weight"]
    request = {"metrics": list(BPF), "output_type": "AbsPower", "source": "rapl-sysfs", "weight": True}
    body = json.dumps({**request, "pipeline_name": publisher.PIPELINE}).encode()
    try:
        answer = ask(places.model_server, "POST", "/model", body)
        if answer.status != 200 or served_serial(answer.body, False) != wanted:
            return False
        with connect(places.socket) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.sendall(json.dumps(watts_request([[0, 0]])).encode())
            powers = checked_reply(connection.recv(KEPLER_READS))["powers"]
    except (OSError, ValueError):
        return False
    return bool(powers) and publisher.serial_of(powers, [[0, 0]]) == wanted
