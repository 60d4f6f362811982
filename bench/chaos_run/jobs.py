"""Clients of the offline trainer, which submit jobs, wait for their end, and remember the acknowledged jobs."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from typing import Any

import attrs
from support.trainer_server import request

from chaos_run.good_clients import ask
from chaos_run.ledger import Ledger
from chaos_run.servers import OFFLINE_TRAINER, Places
from kepler_core.errors import KeplerError
from kepler_core.store.archive import read_archive
from kepler_core.store.local import LocalStore

PIPELINES = 4
"""Number of pipelines to which all jobs publish. It is fixed, so that the model server's catalogue does not grow."""
DRAIN_SECONDS = 120.0
"""Maximum time in which all acknowledged jobs must end after the attacks of a run.

The attacks are over when no hostile client runs, and no more processes are killed.
"""
MARKER_FILE = "training_job.json"


@attrs.define
class Job:
    """A job that the offline trainer has acknowledged."""

    id: str
    pipeline: str
    description: dict[str, Any] | None = None
    """The offline trainer's description of the ended job; None if no client has seen the job's end."""


class TrainingClient:
    """A client that submits one job after another, each with an idempotency key, as `kepler-model submit` does."""

    def __init__(self, places: Places, ledger: Ledger, number: int) -> None:
        self._port = places.offline_trainer
        self._ledger = ledger
        self._number = number
        self._stop = threading.Event()
        self._drained_by = float("inf")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.jobs: list[Job] = []
        self.running: Job | None = None

    def start(self) -> None:
        self._thread.start()

    def stop_submitting(self) -> None:
        self._drained_by = time.monotonic() + DRAIN_SECONDS
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        turns = random.Random(self._number)
        while not self._stop.is_set():
            pipeline = f"job-{turns.randrange(PIPELINES)}"
            job = self._submit(pipeline)
            if job is not None:
                self.jobs.append(job)
                self.running = job
                self._wait(job)
                self.running = None

    def _submit(self, pipeline: str) -> Job | None:
        """Repeat a training request until the offline trainer acknowledges it, and return the job."""
        body = json.dumps(request(name=pipeline)).encode()
        headers = {"Prefer": "respond-async", "Idempotency-Key": uuid.uuid4().hex}
        while not self._stop.is_set():
            try:
                answer = ask(self._port, "POST", "/train", body, headers)
            except OSError as error:
                self._no_answer(error)
                continue
            self._ledger.status(OFFLINE_TRAINER, "good", answer.status)
            if answer.status in (200, 202):
                self._ledger.count(OFFLINE_TRAINER, "job acknowledged")
                self._ledger.answered(OFFLINE_TRAINER)
                return Job(json.loads(answer.body)["id"], pipeline)
            if answer.status >= 500:  # `check_statuses` reports unexpected statuses as faults
                self._ledger.count(OFFLINE_TRAINER, f"status {answer.status}")
            else:
                self._ledger.fault("wrong answers", f"POST /train: {answer.status} {answer.body[:300]!r}")
            self._stop.wait(0.5)
        return None

    def _wait(self, job: Job) -> None:
        """Poll a job until it has ended, and check its result if it is done."""
        while time.monotonic() < self._drained_by:
            time.sleep(0.2)
            try:
                answer = ask(self._port, "GET", f"/jobs/{job.id}")
                self._ledger.status(OFFLINE_TRAINER, "good", answer.status)
                if answer.status != 200:
                    self._ledger.fault("wrong answers", f"GET /jobs/{job.id}: {answer.status} {answer.body[:300]!r}")
                    continue
                description = json.loads(answer.body)
                self._ledger.count(OFFLINE_TRAINER, "job described")
                self._ledger.answered(OFFLINE_TRAINER)
                if description["state"] not in ("done", "failed", "cancelled"):
                    continue
                if description["state"] == "done":
                    self._check_result(job)
            except OSError as error:
                self._no_answer(error)
                continue
            job.description = description
            return

    def _check_result(self, job: Job) -> None:
        answer = ask(self._port, "GET", f"/jobs/{job.id}/result")
        self._ledger.status(OFFLINE_TRAINER, "good", answer.status)
        if answer.status == 410:
            self._ledger.count(OFFLINE_TRAINER, "no zip (full disk)")
            return
        try:
            read_archive(answer.body, "the result")
            right = answer.status == 200
        except KeplerError:
            right = False
        if right:
            self._ledger.count(OFFLINE_TRAINER, "result right")
        else:
            self._ledger.fault("wrong answers", f"the result of {job.id}: {answer.status} {answer.body[:200]!r}")

    def _no_answer(self, error: OSError) -> None:
        late = isinstance(error, TimeoutError)
        self._ledger.count(OFFLINE_TRAINER, "no answer in time" if late else "no connection")
        time.sleep(0.2)


def lost_jobs(jobs: list[Job], store: LocalStore, ledger: Ledger) -> int:
    """Check that each acknowledged job has published exactly one version; return the number of lost jobs."""
    publications: dict[str, list[tuple[str, int]]] = {}
    for pipeline in {job.pipeline for job in jobs} & set(store.pipelines()):
        for version in store.versions(pipeline):
            try:
                snapshot = store.snapshot(pipeline, version)
                marker = json.loads(snapshot.read(MARKER_FILE))
            except (KeplerError, ValueError) as error:
                ledger.fault("damaged versions", f"{pipeline} {version}: {error}")
                continue
            publications.setdefault(marker["job"], []).append((pipeline, version))
    lost = 0
    for job in jobs:
        described = job.description
        published = publications.get(job.id, [])
        if len(published) > 1:
            ledger.fault("jobs that published twice", f"{job.id}: {published}")
        expected = None if described is None else (job.pipeline, described["version"])
        if described is None or described["state"] != "done" or published != [expected]:
            lost += 1
            state = "not ended" if described is None else f"{described['state']}, error {described.get('error')}"
            ledger.fault("acknowledged jobs lost", f"{job.id}: {state}; published: {published}")
    return lost
