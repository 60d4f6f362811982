"""The offline trainer as clients meet it: a real process, real sockets, real trainings, kill -9."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.server_process import PATIENCE, wait_for
from support.trainer_server import (
    TRAINING_PATIENCE,
    Pauses,
    TrainerServer,
    children_of,
    marked,
    request,
    start,
    training,
)

from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.simulate import Simulation, recording, write
from kepler_core.store import open_store
from kepler_core.store.archive import read_archive
from kepler_servers.offline_trainer.trainer_process import MAX_LINES, Progress, Wire

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainer")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TrainerServer]:
    """One server for all tests that do not disturb it."""
    with training(folder, "--max-body", "4MiB", "--fits", "1", "--jobs", "2") as started:
        yield started


@pytest.fixture(scope="module")
def trained(server: TrainerServer) -> str:
    """The URL of a job that is done."""
    url = server.submit(request(name="trained"), Idempotency_Key="trained")
    server.until(url, "done")
    return url


def nothing_left(folder: Path, before: set[str]) -> None:
    """Nothing of a refused request is on the disk."""
    wait_for(lambda: not list((folder / "state" / "incoming").iterdir()), "an incoming body stays")
    assert {path.name for path in (folder / "state" / "spool").iterdir()} == before


def spooled(folder: Path) -> set[str]:
    return {path.name for path in (folder / "state" / "spool").iterdir()}


def refused(server: TrainerServer, body: Any, status: int, key: str | None = None, **headers: str) -> str:
    """The message of an answer with this status."""
    answer = server.train(body, Prefer="respond-async", **headers)
    assert answer.status == status, answer.body
    content = answer.json()
    assert "\n" not in content["msg"]
    if key is not None:
        assert content["key"] == key, content
    message: str = content["msg"]
    return message


# --- trainings ---


def test_the_answer_is_the_pipeline(server: TrainerServer, folder: Path) -> None:
    answer = server.train(request(name="direct"))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["x-kepler-pipeline"] == "direct; version=1"
    files = read_archive(answer.body, "the answer")
    assert any(name.endswith("LinearRegressionTrainer_0.zip") for name in files)
    assert open_store(str(folder / "store")).versions("direct") == [1]
    metadata = json.loads(files["metadata.json"])
    assert metadata["isolator"] == "MinIdleIsolator"
    assert metadata["pipeline"]["energy_sources"] == ["acpi"]


def test_a_job_tells_what_happens(server: TrainerServer, trained: str) -> None:
    job = server.job(trained)
    assert [stage["stage"] for stage in job["stages"]] == ["reading", "preparing", "fitting", "publishing", "packing"]
    assert job["progress"] == {"models": len(job["models"]), "trained": len(job["models"]), "failed": 0}
    assert job["models"]
    assert all(model["mae"] >= 0 for model in job["models"])
    assert job["version"] == 1
    assert job["report"]["version"] == 1
    assert job["submitted"] <= job["started"] <= job["finished"]
    result = server.get(job["result"])
    assert result.status == 200
    assert zipfile.ZipFile(io.BytesIO(result.body)).testzip() is None
    listed = server.get("/jobs?state=done&limit=1000").json()
    assert job["id"] in [found["id"] for found in listed["jobs"]]


def test_a_key_makes_a_repeated_request_the_same_job(server: TrainerServer, folder: Path, trained: str) -> None:
    before = spooled(folder)
    assert server.submit(request(name="trained"), Idempotency_Key="trained") == trained
    again = server.train(request(name="trained"), Idempotency_Key="trained")
    assert again.status == 200
    assert again.headers["x-kepler-job"] == trained.rpartition("/")[2]
    message = refused(server, request(name="other"), 422, "Idempotency-Key", Idempotency_Key="trained")
    assert "whose request was another" in message
    nothing_left(folder, before)


def test_a_key_that_comes_twice_at_once(server: TrainerServer) -> None:
    with ThreadPoolExecutor(4) as clients:
        sent = [clients.submit(server.submit, request(name="twice"), Idempotency_Key="twice") for _ in range(4)]
        (url,) = {one.result() for one in sent}
    assert server.until(url, "done")["version"] == 1


def test_plain_and_packed_are_the_same_request(server: TrainerServer, trained: str) -> None:
    body = json.dumps(request(name="trained")).encode()
    packed = gzip.compress(body)
    several = gzip.compress(body[:5000]) + gzip.compress(body[5000:])  # a gzip file may be several
    for sent, headers in (
        (body, {}), (packed, {}), (several, {}), (packed, {"Content_Encoding": "gzip"}),
        (packed, {"Content_Encoding": "x-gzip"}),
    ):  # fmt: skip
        assert server.submit(sent, Idempotency_Key="trained", **headers) == trained
    assert server.submit(packed, "/train?async=1", Idempotency_Key="trained") == trained


def test_a_whole_pipeline(server: TrainerServer) -> None:
    machine = {"processor": "intel_xeon_e5_2630v3", "cores": 32}
    body = {
        "pipeline": {
            "name": "whole", "energy_sources": ["acpi"], "feature_groups": ["BPFOnly"],
            "abs_trainers": ["SGDRegressorTrainer"], "validation": {"scheme": "last"},
        },
        "prom_response": request()["prome_response"],
        "idle_prom_response": request()["prome_response"],
        "machine_spec": machine,
    }  # fmt: skip
    answer = server.train(body)
    assert answer.status == 200, answer.body
    files = read_archive(answer.body, "the answer")
    metadata = json.loads(files["metadata.json"])
    assert metadata["pipeline"]["validation"]["scheme"] == "last"
    assert metadata["idle_recordings"]
    (model,) = [
        json.loads(data) for name, data in files.items() if name.endswith("SGDRegressorTrainer_0/metadata.json")
    ]
    assert model["machine_spec"]["cores"] == 32


def test_a_client_that_hangs_up_does_not_lose_the_job(server: TrainerServer) -> None:
    body = json.dumps(request(name="left")).encode()
    with server.raw() as connection:
        head = f"POST /train HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        wait_for(lambda: any(j["pipeline"] == "left" for j in server.get("/jobs").json()["jobs"]), "no job")
    (job,) = [found for found in server.get("/jobs").json()["jobs"] if found["pipeline"] == "left"]
    server.until(job["url"], "done")


def test_submit(server: TrainerServer, tmp_path: Path) -> None:
    write(Simulation(containers=3, timestamps=60, accelerator=False), str(tmp_path / "r.json.gz"))
    command = [
        sys.executable, "-m", "kepler_core", "submit", "quickstart", "--input", str(tmp_path / "r.json.gz"), "--server",
        f"http://127.0.0.1:{server.port}", "--name", "submitted", "--set", "energy_sources=[acpi]", "--set",
        "dyn_trainers=[]", "--set", "feature_groups=[BPFOnly]",
    ]  # fmt: skip
    queued = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    assert json.loads(queued.stdout)["state"] == "queued"
    waited = subprocess.run(
        [*command, "--wait", "-o", str(tmp_path / "out.zip")], check=False, capture_output=True, text=True
    )
    assert waited.returncode == 0, waited.stderr
    assert "version 2" in waited.stdout
    read_archive((tmp_path / "out.zip").read_bytes(), "out.zip")
    wrong = subprocess.run([*command, "--set", "isolator=mim"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "did you mean min" in wrong.stderr
    nobody = subprocess.run(
        [*command[:-6], "--server", "http://127.0.0.1:1/", "--wait"], check=False, capture_output=True, text=True
    )
    assert nobody.returncode == 1
    assert "Connection refused" in nobody.stderr


# --- what is wrong with a request ---

BAD_NAMES = ["../../x", "/etc/x", "", "n" * 300, "a\0b", "ä", "a/b", ".hidden", "a\nb", "a b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_not_path_safe(server: TrainerServer, folder: Path, trained: str, name: str) -> None:
    before, files = spooled(folder), set(folder.rglob("*"))
    assert "is not a name" in refused(server, request(name=name), 400, "name")
    nothing_left(folder, before)
    assert {path for path in folder.rglob("*") if "sqlite" not in path.name} == {
        path for path in files if "sqlite" not in path.name
    }


TRAINER = {"abs_trainers": ["LinearRegressionTrainer"], "dyn_trainers": []}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"name": None}, "name", "missing"),
    ({"name": 5}, "name", "5 is not text"),
    ({"energy_source": None}, "energy_source", "missing"),
    ({"energy_source": ["rapl"]}, "energy_source", "not text"),
    ({"energy_source": "rappl"}, "energy_source", "did you mean rapl"),
    ({"energy_source": "../x"}, "energy_source", "unknown"),
    ({"trainer": None}, "trainer", "missing"),
    ({"trainer": []}, "trainer", "not a JSON object"),
    ({"trainer": "LinearRegressionTrainer"}, "trainer", "not a JSON object"),
    ({"trainer": {}}, "trainer", "names no trainer"),
    ({"trainer": {"abs_trainers": "LinearRegressionTrainer"}}, "trainer.abs_trainers", "not a list"),
    ({"trainer": {"abs_trainers": [5]}}, "trainer.abs_trainers[0]", "neither a plugin's name"),
    ({"trainer": {"abs_trainers": ["LinearRegresionTrainer"]}}, "trainer.abs_trainers[0]", "LinearRegressionTrainer"),
    ({"trainer": {"dyn_trainers": ["os.system"]}}, "trainer.dyn_trainers[0]", "unknown"),
    ({"trainer": {"abs_trainer": []}}, "trainer.abs_trainer", "did you mean abs_trainers"),
    ({"trainer": {**TRAINER, "isolator": "MinIdelIsolator"}}, "trainer.isolator", "did you mean MinIdleIsolator"),
    ({"trainer": {**TRAINER, "isolator": "kepler_plugins.isolators.min_idle:MinIdleIsolator"}}, "trainer.isolator", ""),
    ({"trainer": {**TRAINER, "isolator": 5}}, "trainer.isolator", "neither"),
    ({"trainer": {**TRAINER, "isolator_args": []}}, "trainer.isolator_args", "expected a mapping"),
    ({"trainer": {**TRAINER, "isolator_args": {"a": 1}}}, "trainer.isolator", "'a'"),
    ({"trainer": {**TRAINER, "idle_prom_response": []}}, "idle_prom_response", "not a recording"),
    ({"trainer": {**TRAINER, "idle_prom_response": {}}, "idle_prom_response": {}}, "trainer.idle_prom_response", ""),
    ({"prome_response": None}, "prom_response", "missing"),
    ({"prome_response": []}, "prome_response", "not a recording"),
    ({"prome_response": "x"}, "prome_response", "not a recording"),
    ({"prome_response": {"m": 5}}, "prome_response", "m: "),
    ({"prome_response": {"m": [{"metric": {}}]}}, "prome_response", "values"),
    ({"prom_response": {}}, "prom_response", "one of them is enough"),
    ({"use_vm_metrics": "yes"}, "use_vm_metrics", "not true or false"),
    ({"use_vm_metric": True}, "use_vm_metric", "did you mean use_vm_metrics"),
    ({"machine_spec": {"core": 5}}, "machine_spec", "did you mean cores"),
    ({"pipeline": {"name": "x"}}, "name", "a key of the pipeline"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "message"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)])
def test_what_is_missing_wrong_or_unknown(
    server: TrainerServer, folder: Path, trained: str, changes: dict[str, Any], key: str, message: str
) -> None:
    before = spooled(folder)
    found = refused(server, request(**changes), 400, key)
    assert message in found
    nothing_left(folder, before)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"{} {}", b"[" * 100_000, b'{"name":' * 5000,
        b'{"pipeline": 5, "prom_response": {}}', b'{"pipeline": {"name": "x"}, "prom_response": {}}',
        b'{"pipeline": {"name": "x", "validaton": {}}, "prom_response": {}}',
        b'{"name": "x", "trainer": {"abs_trainers": [' + b"[" * 5000 + b'', b'{"name": "\xff"}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(server: TrainerServer, folder: Path, trained: str, body: bytes) -> None:
    before = spooled(folder)
    refused(server, body, 400)
    nothing_left(folder, before)


def whole_bytes() -> bytes:
    return gzip.compress(json.dumps(request()).encode())


def test_damaged_gzip_and_bombs(server: TrainerServer, folder: Path, trained: str) -> None:
    before = spooled(folder)
    packed = whole_bytes()
    assert "ends too early" in refused(server, packed[:-20], 400)
    lying = bytearray(packed)
    lying[-1] ^= 1  # the size
    assert "damaged" in refused(server, bytes(lying), 400)
    lying = bytearray(packed)
    lying[-6] ^= 1  # the checksum
    assert "damaged" in refused(server, bytes(lying), 400)
    assert "damaged" in refused(server, packed[:2000] + b"x" * 100 + packed[2100:], 400)
    assert "damaged" in refused(server, packed + b"more", 400)
    assert "not gzip" in refused(server, json.dumps(request()).encode(), 400, Content_Encoding="gzip")
    assert "not known" in refused(server, packed, 415, Content_Encoding="br")
    bomb = gzip.compress(b" " * (64 * MIB), 9)
    assert "more than" in refused(server, bomb, 413)
    assert "more than" in refused(server, b" " * (5 * MIB), 413)
    nothing_left(folder, before)


def test_bodies_that_stop_half_way(server: TrainerServer, folder: Path, trained: str) -> None:
    before, jobs = spooled(folder), server.get("/jobs").json()["total"]
    body = json.dumps(request(name="half")).encode()
    for head in (f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"):
        for wait in (False, True):
            with server.raw() as connection:
                connection.sendall(f"POST /train HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
                connection.sendall(body[:3000] if "Length" in head else b"800\r\n" + body[:2048] + b"\r\n")
                if wait:
                    time.sleep(0.3)
                    connection.shutdown(socket.SHUT_WR)
                    try:
                        answer = connection.recv(4096)
                    except OSError:
                        answer = b""
                    assert not answer or answer.split()[1] in (b"400", b"408"), answer
    nothing_left(folder, before)
    assert server.get("/jobs").json()["total"] == jobs


def test_data_that_nothing_can_be_trained_from(server: TrainerServer) -> None:
    short = recording(Simulation(containers=3, timestamps=8, accelerator=False))
    no_power = {name: series for name, series in request()["prome_response"].items() if "joules" not in name}
    empty = {name: [{**one, "values": []} for one in series] for name, series in request()["prome_response"].items()}
    for data in ({}, {"some_metric": []}, empty, no_power, short):
        answer = server.train(request(name="nothing", prome_response=data))
        assert answer.status == 422, answer.body
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["findings"]["trainable"] is False
        assert answer.json()["msg"]
    url = server.submit(request(name="nothing", prome_response=short))
    job = server.until(url, "failed")
    assert job["error"]["status"] == 422
    assert "usable timestamps" in json.dumps(job["error"]["findings"])
    assert server.get(f"{url}/result").status == 422


def test_samples_that_are_wrong(server: TrainerServer) -> None:
    data = request()["prome_response"]
    next(iter(data.values()))[0]["values"][0] = [1700000000, "x"]
    answer = server.train(request(name="wrong", prome_response=data))
    assert answer.status == 400
    assert "'x' is not a number" in answer.json()["msg"]


def test_jobs_that_are_not_there(server: TrainerServer, trained: str) -> None:
    for method, path in (("GET", "/jobs/x"), ("DELETE", "/jobs/x"), ("GET", "/jobs/x/result"), ("GET", "/jobs/%2e%2e")):
        assert server.ask(method, path).status == 404
    assert server.ask("DELETE", trained).status == 409
    for query in ("state=dne", "limit=0", "limit=x", "offset=-1", "x=1", "state=done&state=done"):
        assert server.get(f"/jobs?{query}").status == 400
    assert "did you mean done" in server.get("/jobs?state=dne").json()["msg"]
    assert server.train(request(), "/train?async=maybe").status == 400
    assert refused(server, request(), 400, "Idempotency-Key", Idempotency_Key="a b")


def test_the_http_process_stays_small(server: TrainerServer, trained: str) -> None:
    processes = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(server.process.pid)}
    (worker,) = [pid for pid, command in processes.items() if b"resource_tracker" not in command]
    mapped = Path(f"/proc/{worker}/maps").read_text()
    for module in ("pandas", "sklearn", "scipy", "onnxruntime"):
        assert f"/{module}/" not in mapped
    metrics = server.metrics()
    assert metrics[("kepler_offline_trainer_jobs", frozenset({("state", "done")}))] >= 1
    assert metrics[("kepler_offline_trainer_received_bytes_total", frozenset())] > 1000


# --- what disturbs it ---


def versions(folder: Path, pipeline: str) -> list[int]:
    return open_store(str(folder / "store")).versions(pipeline)


def orphans(folder: Path) -> list[int]:
    return marked(folder / "state")


def leaders(folder: Path) -> list[int]:
    """Training processes, without those that they have started."""
    return [pid for pid in orphans(folder) if os.getpgid(pid) == pid]


@pytest.fixture
def pauses(tmp_path: Path) -> Pauses:
    return Pauses(tmp_path / "pauses")


TRAINED, PUBLISHED = Pauses.EVENTS
TWO = {"abs_trainers": ["LinearRegressionTrainer", "SGDRegressorTrainer"], "dyn_trainers": ["LinearRegressionTrainer"]}


def fitting(folder: Path) -> list[int]:
    """Processes that training processes have started."""
    return [pid for pid in orphans(folder) if os.getpgid(pid) != pid]


def test_kill_9_of_the_server(tmp_path: Path, pauses: Pauses) -> None:
    """…while it fits in several processes, then after it has published and before that is written down."""
    pauses.at(TRAINED)
    server = start(tmp_path, "--fits", "2", environ=pauses.environ)
    server.wait_ready()
    url = server.submit(request(trainer=TWO))
    queued = server.submit(request(name="queued"))
    pauses.wait(TRAINED)
    assert fitting(tmp_path)
    server.kill()
    wait_for(lambda: not orphans(tmp_path), "training processes outlive the server")
    assert not (tmp_path / "store" / "made").exists()

    pauses.end(TRAINED)
    pauses.at(PUBLISHED)
    server = start(tmp_path, "--fits", "2", environ=pauses.environ)
    server.wait_ready()
    pauses.wait(PUBLISHED)
    assert server.job(url)["stage"] == "publishing"
    assert server.ask("DELETE", url).status == 409
    server.kill()

    pauses.end(PUBLISHED)
    with training(tmp_path, "--fits", "2", environ=pauses.environ) as server:
        job = server.until(url, "done")
        assert job["attempts"] == 3
        assert job["version"] == 1
        assert len(job["models"]) == job["progress"]["models"] > 1
        assert [line["text"].partition(":")[0] for line in job["log"]] == ["attempt 1", "attempt 2"]
        read_archive(server.get(job["result"]).body, "the result")
        assert server.until(queued, "done")["attempts"] == 1
    assert versions(tmp_path, "made") == [1]
    assert versions(tmp_path, "queued") == [1]
    assert not orphans(tmp_path)
    assert not list((tmp_path / "state" / "incoming").iterdir())


def test_kill_9_of_a_training_process(tmp_path: Path, pauses: Pauses) -> None:
    with training(tmp_path, "--fits", "2", environ=pauses.environ) as server:
        pauses.at(TRAINED)
        url = server.submit(request(trainer=TWO))
        pauses.wait(TRAINED)
        os.kill(*leaders(tmp_path), signal.SIGKILL)
        pauses.end(TRAINED)
        job = server.until(url, "done")
        assert job["attempts"] == 2
        assert any("was killed" in line["text"] for line in job["log"])
        assert versions(tmp_path, "made") == [1]

        url = server.submit(request(name="again"))
        for attempt in (1, 2, 3):
            wait_for(lambda: server.job(url)["attempts"] == attempt and leaders(tmp_path), "it does not begin")  # noqa: B023
            os.kill(*leaders(tmp_path), signal.SIGKILL)
        job = server.until(url, "failed")
        assert "given up after 3 attempts" in job["error"]["msg"]
    assert not orphans(tmp_path)


def test_what_was_published_is_not_said_to_have_failed(tmp_path: Path, pauses: Pauses) -> None:
    """…although the process crashes after it, or is late, or a listener fails, or there is no place for the zip."""
    with training(tmp_path, "--time-limit", "15", environ=pauses.environ) as server:
        pauses.at(PUBLISHED)
        url = server.submit(request(name="crash"))
        pauses.wait(PUBLISHED)
        os.kill(*leaders(tmp_path), signal.SIGSEGV)
        job = server.until(url, "done")
        assert any("SIGSEGV" in line["text"] for line in job["log"])
        read_archive(server.get(job["result"]).body, "the result")

        job = server.until(server.submit(request(name="late")), "done")
        assert any("longer than" in line["text"] for line in job["log"])

        pauses.at(PUBLISHED)
        pauses.fail(PUBLISHED)
        url = server.submit(request(name="disliked"))
        pauses.wait(PUBLISHED)
        results = tmp_path / "state" / "results"
        results.rename(tmp_path / "away")
        pauses.end(PUBLISHED)
        job = server.until(url, "done")
        assert "it is published, but: " in job["report"]["notes"][-1]
        assert "I do not like it" in job["report"]["notes"][-1]
        assert any(line["text"].startswith("root: no zip can be written") for line in job["log"])
        assert server.get(f"{url}/result").status == 410
        (tmp_path / "away").rename(results)
    for name in ("crash", "late", "disliked"):
        assert versions(tmp_path, name) == [1]
    assert not orphans(tmp_path)


def test_cancelling_stopping_and_a_full_queue(tmp_path: Path, pauses: Pauses) -> None:
    pauses.at(TRAINED)
    limits = ("--fits", "2", "--max-queue", "1")
    server = start(tmp_path, *limits, environ=pauses.environ)
    server.wait_ready()
    running = server.submit(request(name="running", trainer=TWO))
    pauses.wait(TRAINED)
    waiting = server.submit(request(name="waiting"))
    assert "wait already" in refused(server, request(name="more"), 503)
    assert server.ask("DELETE", waiting).json()["state"] == "cancelled"
    assert server.ask("DELETE", running).json()["state"] == "cancelled"
    assert server.ask("DELETE", running).status == 200
    assert server.get(f"{running}/result").status == 410
    wait_for(lambda: not fitting(tmp_path), "it is still fitted")

    pauses.at(TRAINED)
    with ThreadPoolExecutor(1) as client:
        stopped = client.submit(server.train, request(name="stopped"))
        pauses.wait(TRAINED)
        assert server.stop() == 0, server.log
        answer = stopped.result(PATIENCE)
    assert answer.status == 503
    server.check_log()
    assert not orphans(tmp_path)

    pauses.end(TRAINED)
    with training(tmp_path, *limits, "--keep-inputs", "0", "--keep-results", "0", environ=pauses.environ) as server:
        wait_for(lambda: not server.get("/jobs").json()["total"], "finished jobs stay", TRAINING_PATIENCE)
        assert server.get(f"/jobs/{answer.json()['job']}").status == 404
        assert not spooled(tmp_path)
        assert not list((tmp_path / "state" / "results").iterdir())
    assert open_store(str(tmp_path / "store")).pipelines() == ["stopped"]


def test_the_last_lines_of_a_training_that_logs_much_are_heard() -> None:
    commands, messages = os.pipe()[0], io.BytesIO()
    progress = Progress(Wire(os.fdopen(commands, "rb"), messages))
    lines = 3 * MAX_LINES
    for number in range(lines):
        progress.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, f"line {number}", None, None))
    progress.say_the_rest()
    heard = [json.loads(line)["text"] for line in messages.getvalue().splitlines()]
    assert heard[:MAX_LINES] == [f"x: line {number}" for number in range(MAX_LINES)]
    assert heard[MAX_LINES] == f"{MAX_LINES} lines are left out here"
    assert heard[MAX_LINES + 1 :] == [f"x: line {number}" for number in range(lines - MAX_LINES, lines)]


def test_limits_of_time_and_memory(tmp_path: Path, pauses: Pauses) -> None:
    pauses.at(TRAINED)
    limits = ("--fits", "2", "--time-limit", "5", "--memory-limit", "1GiB")
    with training(tmp_path, *limits, environ=pauses.environ) as server:
        answer = server.train(request(name="slow", trainer=TWO))
        assert answer.status == 422, answer.body
        assert "longer than" in answer.json()["msg"]
        wait_for(lambda: not fitting(tmp_path), "it is still fitted")
        large = recording(Simulation(containers=1, timestamps=2, accelerator=False))
        series = next(one for name, one in large.items() if "bpf_cpu_time" in name)[0]
        # short as JSON, and long in memory
        series["values"] = [[1700000000 + at, "1"] for at in range(4_000_000)]
        answer = server.train(gzip.compress(json.dumps(request(name="large", prome_response=large)).encode(), 1))
        assert answer.status == 422, answer.body
        assert "needs more memory than the 1024 MiB" in answer.json()["msg"]
        assert server.get("/healthz").json()["status"] == "ok"
    assert not open_store(str(tmp_path / "store")).pipelines()


def test_a_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-secret\n")
    with training(tmp_path, "--token-file", str(token)) as server:
        for given in ("", "Bearer", "Bearer wrong", "Basic the-secret", "Bearer the-secre\xe4"):
            headers = {"Authorization": given} if given else {}
            for method, path in (("GET", "/jobs"), ("GET", "/metrics"), ("DELETE", "/jobs/x"), ("POST", "/train")):
                answer = server.ask(method, path, b"{" if method == "POST" else None, headers)
                assert answer.status == 401, (path, answer.body)
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer the-secret"}
        assert server.ask("GET", "/jobs", headers=right).json()["total"] == 0
        assert server.ask("POST", "/train", b"{", right).status == 400
        assert server.get("/healthz").status == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--token-file, or say --insecure"),
        (["--host", "::"], "--token-file, or say --insecure"),
        (["--token-file", "/no/such"], "No such file"),
        (["--scheduler", "tcp://x:1"], "goes with --backend dask"),
        (["--max-body", "5 apples"], "not a size"),
        (["--state", "/dev/null/x"], "--state /dev/null/x"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, arguments: list[str], message: str) -> None:
    server = start(tmp_path, *arguments)
    assert server.process.wait(PATIENCE) == 2
    assert message in server.log


def test_a_state_folder_that_is_in_use(server: TrainerServer, folder: Path, tmp_path: Path) -> None:
    second = start(tmp_path, "--state", str(folder / "state"))
    assert second.process.wait(PATIENCE) == 2
    assert "used by another offline trainer" in second.log


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        with training(tmp_path, "--state", str(disk / "state"), "--fits", "1") as server:
            url = server.submit(request(name="before"))
            server.until(url, "done")
            large = json.dumps(request(description=" " * (6 * MIB))).encode()
            assert "disk is full" in refused(server, large, 507)
            assert not list((disk / "state" / "incoming").iterdir())
            assert server.job(url)["state"] == "done"
            server.until(server.submit(request(name="after")), "done")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# --- the document ---


def test_every_endpoint_is_in_the_document(server: TrainerServer) -> None:
    document = server.get("/openapi.json").json()
    methods = ("get", "post", "delete")
    found = {(method, path) for path, item in document["paths"].items() for method in item if method in methods}
    assert found == {
        ("post", "/train"), ("delete", "/jobs/{job}"),
        *(("get", path) for path in (
            "/jobs", "/jobs/{job}", "/jobs/{job}/result", "/metrics", "/healthz", "/readyz", "/openapi.json"
        )),
    }  # fmt: skip
    schemas = document["components"]["schemas"]
    assert set(schemas["SimpleRequest"]["properties"]) >= {
        "name", "energy_source", "trainer", "prome_response", "prom_response", "use_vm_metrics",
    }  # fmt: skip
    assert set(schemas["SimpleRequest"]["required"]) == {"name", "energy_source", "trainer"}
    assert set(schemas["TrainerSection"]["properties"]) == {
        "abs_trainers", "dyn_trainers", "isolator", "isolator_args", "idle_prom_response",
    }  # fmt: skip
    import attrs

    assert set(schemas["PipelineSpec"]["properties"]) == {field.name for field in attrs.fields(PipelineSpec)}


def test_schemathesis(server: TrainerServer, tmp_path: Path) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    if not schemathesis.exists():
        pytest.fail("schemathesis is not installed: pip install schemathesis")
    # positive data need not be accepted: which plugins there are is not in the document
    options = [
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "15",
        "--generation-deterministic", "--mode", "all", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(
        [str(schemathesis), "run", f"http://127.0.0.1:{server.port}/openapi.json", *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
