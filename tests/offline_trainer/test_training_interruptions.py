"""Tests of trainings that are killed, cancelled, stopped, too slow or too large: no job is lost or published twice."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from support.process import PATIENCE, wait_for
from support.small_disk import fill_disk, small_disk
from support.trainer_server import (
    MODEL_PUBLISHED,
    MODEL_TRAINED,
    SEVERAL_TRAINERS,
    TRAINING_TIMEOUT_SECONDS,
    Breakpoints,
    TrainerFolder,
    request,
    start,
    training,
)

from kepler_core.simulate import Simulation, recording
from kepler_core.store.archive import read_archive
from kepler_servers.offline_trainer.channel import MAX_FIRST_LINES, MAX_LAST_LINES, Channel, ProgressReporter

MIB = 2**20

# --- processes that are killed with SIGKILL ---


def test_kill_9_of_the_server_while_it_fits(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set(MODEL_TRAINED)
    server = start(own.root, "--fits", "2", environ=breakpoints.environ)
    server.wait_ready()
    url = server.submit(request(trainer=SEVERAL_TRAINERS))
    queued = server.submit(request(name="queued"))
    breakpoints.wait(MODEL_TRAINED)
    assert own.fit_processes()
    server.kill()
    wait_for(lambda: not own.processes(), "training processes outlive the server")
    assert not (own.root / "store" / "small").exists()

    breakpoints.clear(MODEL_TRAINED)
    with training(own.root, "--fits", "2", environ=breakpoints.environ) as server:
        assert server.until(url, "done")["attempts"] == 1
        assert server.until(queued, "done")["attempts"] == 1
    assert own.versions("small") == [1]
    assert own.versions("queued") == [1]
    assert not own.processes()
    assert not list((own.state / "incoming").iterdir())


def test_kill_9_of_the_server_after_it_published(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    """A job is completed and published once, although its server is killed twice.

    The first kill comes while models are trained, the second between publishing and recording the job as done.
    """
    breakpoints.set(MODEL_TRAINED)
    server = start(own.root, "--fits", "2", environ=breakpoints.environ)
    server.wait_ready()
    url = server.submit(request(trainer=SEVERAL_TRAINERS))
    breakpoints.wait(MODEL_TRAINED)
    server.kill()

    breakpoints.clear(MODEL_TRAINED)
    breakpoints.set(MODEL_PUBLISHED)
    server = start(own.root, "--fits", "2", environ=breakpoints.environ)
    server.wait_ready()
    breakpoints.wait(MODEL_PUBLISHED)
    assert server.job(url)["stage"] == "publishing"
    assert server.ask("DELETE", url).status == 409
    server.kill()

    breakpoints.clear(MODEL_PUBLISHED)
    with training(own.root, "--fits", "2", environ=breakpoints.environ) as server:
        job = server.until(url, "done")
        assert job["attempts"] == 1
        assert job["version"] == 1
        assert len(job["models"]) == job["progress"]["models"] > 1
        assert [line["text"].partition(":")[0] for line in job["log"]] == ["attempt 1", "attempt 1"]
        read_archive(server.get(job["result"]).body, "the result")
    assert own.versions("small") == [1]
    assert not own.processes()


def test_kills_of_the_server_do_not_count_as_attempts(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    """A job is completed although its server is killed three times. Once, its training process is killed first."""
    url = None
    for kill in range(3):
        breakpoints.set(MODEL_TRAINED)
        server = start(own.root, environ=breakpoints.environ)
        server.wait_ready()
        url = url or server.submit(request())
        breakpoints.wait(MODEL_TRAINED)
        if kill % 2:
            for pid in own.training_processes():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)  # wait until the server has noticed that its training process has ended
        server.kill()
    assert url is not None

    breakpoints.clear(MODEL_TRAINED)
    with training(own.root, environ=breakpoints.environ) as server:
        job = server.until(url, "done")
        assert job["attempts"] == 1
        lines = [line["text"] for line in job["log"]]
        assert len(lines) == 3
        assert all("the server was killed" in line and "is not counted" in line for line in lines), lines
    assert own.versions("small") == [1]


def test_a_stop_signal_to_all_processes_does_not_fail_the_job(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    """A training job does not fail if all processes of the server get SIGTERM, as systemd sends it to stop a service.

    In this test, the training process gets the signal first.
    """
    breakpoints.set(MODEL_TRAINED)
    server = start(own.root, environ=breakpoints.environ)
    server.wait_ready()
    url = server.submit(request())
    breakpoints.wait(MODEL_TRAINED)
    for pid in own.training_processes():
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)  # wait until the server has noticed that its training process has ended
    assert server.stop() == 0, server.log
    server.check_log()

    breakpoints.clear(MODEL_TRAINED)
    with training(own.root, environ=breakpoints.environ) as server:
        assert server.until(url, "done")["attempts"] == 1


def test_kill_9_of_a_training_process(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    with training(own.root, "--fits", "2", environ=breakpoints.environ) as server:
        breakpoints.set(MODEL_TRAINED)
        url = server.submit(request(trainer=SEVERAL_TRAINERS))
        breakpoints.wait(MODEL_TRAINED)
        os.kill(*own.training_processes(), signal.SIGKILL)
        breakpoints.clear(MODEL_TRAINED)
        job = server.until(url, "done")
        assert job["attempts"] == 2
        assert any("was killed" in line["text"] for line in job["log"])
        assert own.versions("small") == [1]

        url = server.submit(request(name="again"))
        for attempt in (1, 2, 3):
            wait_for(
                lambda: server.job(url)["attempts"] == attempt and own.training_processes(),  # noqa: B023
                "the attempt does not start",
            )
            os.kill(*own.training_processes(), signal.SIGKILL)
        job = server.until(url, "failed")
        assert "failed after 3 attempts" in job["error"]["msg"]
    assert not own.processes()


# --- failures after the pipeline was published ---


def test_a_crash_or_a_timeout_after_the_publishing_does_not_fail_the_job(
    own: TrainerFolder, breakpoints: Breakpoints
) -> None:
    with training(own.root, "--time-limit", "40", environ=breakpoints.environ) as server:
        breakpoints.set(MODEL_PUBLISHED)
        url = server.submit(request(name="crash"))
        breakpoints.wait(MODEL_PUBLISHED)
        os.kill(*own.training_processes(), signal.SIGSEGV)
        job = server.until(url, "done")
        assert any("SIGSEGV" in line["text"] for line in job["log"])
        read_archive(server.get(job["result"]).body, "the result")

        job = server.until(server.submit(request(name="late")), "done")
        assert any("longer than" in line["text"] for line in job["log"])
    assert own.versions("crash") == own.versions("late") == [1]
    assert not own.processes()


def test_a_failing_listener_and_a_missing_zip_do_not_fail_the_job(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    with training(own.root, environ=breakpoints.environ) as server:
        breakpoints.set(MODEL_PUBLISHED)
        breakpoints.raise_at(MODEL_PUBLISHED)
        url = server.submit(request(name="disliked"))
        breakpoints.wait(MODEL_PUBLISHED)
        own.results.rename(own.root / "away")
        breakpoints.clear(MODEL_PUBLISHED)
        job = server.until(url, "done")
        assert "the pipeline is published, but: " in job["report"]["notes"][-1]
        assert "I do not like it" in job["report"]["notes"][-1]
        assert any(line["text"].startswith("root: no zip can be written") for line in job["log"])
        assert server.get(f"{url}/result").status == 410
        (own.root / "away").rename(own.results)
    assert own.versions("disliked") == [1]
    assert not own.processes()


# --- cancelling jobs and stopping the server ---


def test_queued_and_running_jobs_can_be_cancelled(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set(MODEL_TRAINED)
    with training(own.root, "--fits", "2", "--max-queue", "1", environ=breakpoints.environ) as server:
        running = server.submit(request(name="running", trainer=SEVERAL_TRAINERS))
        breakpoints.wait(MODEL_TRAINED)
        waiting = server.submit(request(name="waiting"))
        assert "jobs are queued already" in server.rejected(request(name="more"), 503)
        assert server.ask("DELETE", waiting).json()["state"] == "cancelled"
        assert server.ask("DELETE", running).json()["state"] == "cancelled"
        assert server.ask("DELETE", running).status == 200
        assert server.get(f"{running}/result").status == 410
        wait_for(lambda: not own.fit_processes(), "the fits of a cancelled job go on")


def test_a_stopped_server_queues_its_jobs_again(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set(MODEL_TRAINED)
    server = start(own.root, "--fits", "2", environ=breakpoints.environ)
    server.wait_ready()
    with ThreadPoolExecutor(1) as client:
        stopped = client.submit(server.train, request(name="stopped"))
        breakpoints.wait(MODEL_TRAINED)
        assert server.stop() == 0, server.log
        answer = stopped.result(PATIENCE)
    assert answer.status == 503
    server.check_log()
    assert not own.processes()

    breakpoints.clear(MODEL_TRAINED)
    keep_nothing = ("--keep-inputs", "0", "--keep-results", "0")
    with training(own.root, *keep_nothing, environ=breakpoints.environ) as server:
        wait_for(
            lambda: not server.get("/jobs").json()["total"], "finished jobs are not removed", TRAINING_TIMEOUT_SECONDS
        )
        assert server.get(f"/jobs/{answer.json()['job']}").status == 404
        assert not own.inputs()
        assert not list(own.results.iterdir())
    assert own.pipelines() == ["stopped"]


# --- limits ---


def test_first_and_last_log_lines_are_sent() -> None:
    commands, messages = os.pipe()[0], io.BytesIO()
    progress = ProgressReporter(Channel(os.fdopen(commands, "rb"), messages))
    total = MAX_FIRST_LINES + MAX_LAST_LINES + 1000
    for number in range(total):
        progress.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, f"line {number}", None, None))
    progress.send_last_lines()
    texts = [json.loads(line)["text"] for line in messages.getvalue().splitlines()]
    assert texts[:MAX_FIRST_LINES] == [f"x: line {number}" for number in range(MAX_FIRST_LINES)]
    assert texts[MAX_FIRST_LINES] == "1000 log lines are left out here"
    assert texts[MAX_FIRST_LINES + 1 :] == [f"x: line {number}" for number in range(total - MAX_LAST_LINES, total)]


def test_limits_of_time_and_memory(own: TrainerFolder, breakpoints: Breakpoints) -> None:
    breakpoints.set(MODEL_TRAINED)
    limits = ("--fits", "2", "--time-limit", "5", "--memory-limit", "1GiB")
    with training(own.root, *limits, environ=breakpoints.environ) as server:
        answer = server.train(request(name="slow", trainer=SEVERAL_TRAINERS))
        assert answer.status == 422, answer.body
        assert "longer than" in answer.json()["msg"]
        wait_for(lambda: not own.fit_processes(), "the fits go on after the time limit")
        large = recording(Simulation(containers=1, timestamps=2, accelerator=False))
        series = next(series for name, series in large.items() if "bpf_cpu_time" in name)[0]
        # a recording that is small in gzipped JSON, but takes much memory after it is read
        series["values"] = [[1700000000 + at, "1"] for at in range(4_000_000)]
        answer = server.train(gzip.compress(json.dumps(request(name="large", prome_response=large)).encode(), 1))
        assert answer.status == 422, answer.body
        assert "needs more memory than the 1024 MiB" in answer.json()["msg"]
        assert server.get("/healthz").json()["status"] == "ok"
    assert not own.pipelines()


def test_a_full_disk(own: TrainerFolder) -> None:
    disk = TrainerFolder(own.root / "disk")
    with small_disk(disk.root), training(own.root, "--state", str(disk.state), "--fits", "1") as server:
        url = server.submit(request(name="before"))
        server.until(url, "done")
        large = json.dumps(request(description=" " * (6 * MIB))).encode()
        assert "disk is full" in server.rejected(large, 507)
        assert not list((disk.state / "incoming").iterdir())
        assert server.job(url)["state"] == "done"
        server.until(server.submit(request(name="after")), "done")


def test_a_job_is_queued_again_if_its_pipeline_does_not_fit_on_the_disk(own: TrainerFolder) -> None:
    with small_disk(own.root / "store"), training(own.root, "--fits", "1") as server:
        filler = own.root / "store" / "filler"
        fill_disk(filler)
        url = server.submit(request(name="small"))
        wait_for(lambda: server.job(url)["attempts"] == 2, "the job is not tried again", TRAINING_TIMEOUT_SECONDS)
        filler.unlink()
        job = server.until(url, "done")
        assert any("the disk was full; it is queued again" in line["text"] for line in job["log"])
        assert own.versions("small") == [1]
