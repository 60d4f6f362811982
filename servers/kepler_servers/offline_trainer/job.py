"""A job: one training request and the state of its training."""

from __future__ import annotations

import uuid
from typing import Any

import attrs

QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = ("queued", "running", "done", "failed", "cancelled")
FINAL_STATES = (DONE, FAILED, CANCELLED)

PREPARING = "preparing"
PUBLISHING = "publishing"


@attrs.frozen
class Job:
    """A job, as stored in a row of the database table `jobs`. Times are in Unix seconds."""

    number: int
    """Number of the job in the order in which the jobs were submitted."""
    id: str
    key: str | None
    """The client's Idempotency-Key."""
    digest: str
    """SHA-256 of the request's JSON."""
    size: int
    """Size of the request's JSON in bytes."""
    pipeline: str
    """Name of the pipeline that the request trains."""
    state: str
    attempts: int
    """Number of times that the training was started. Trainings that the end of the server interrupted are not
    counted."""
    submitted: float
    started: float | None
    """Time when the latest attempt to train started; None before the first attempt."""
    finished: float | None
    stage: str | None
    """The stage that the training entered last: reading, preparing, fitting, publishing or packing."""
    may_be_published: bool
    """Whether an attempt was permitted to publish. Such an attempt may have published a version without reporting
    it."""
    expected: int | None
    """Number of models that the training will fit; None before the training has determined it."""
    version: int | None
    """Number of the pipeline version that the job published in the store; None before the publishing."""
    report: str | None
    """JSON text of the training's report, as `kepler-model train --json` prints it; None if the job is not done."""
    status: int | None
    """HTTP status of the answer to the client if the job failed, else None."""
    error: str | None
    """JSON text of the answer to the client if the job failed, else None."""
    has_input: bool
    """Whether the file with the training request still exists."""

    @property
    def is_final(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in FINAL_STATES


@attrs.frozen
class JobHistory:
    """Stages, models and log lines that a job's training has reported so far."""

    stages: list[tuple[str, float]]
    """Name and start time of each stage that the training entered."""
    models: list[dict[str, Any]]
    """The trained and failed models, in the format of `kepler-model train --json`."""
    log: list[tuple[float, str, str]]
    """Time, level and text of each log line."""


def new_id() -> str:
    """Return a random job id."""
    return uuid.uuid4().hex
