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
    """One row of the table `jobs`. Times are Unix seconds."""

    number: int
    """Position in the order of arrival."""
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
    """Number of times that the training was started."""
    submitted: float
    started: float | None
    """Start of the latest attempt."""
    finished: float | None
    stage: str | None
    """The latest stage: reading, preparing, fitting, publishing or packing."""
    may_be_published: bool
    """Whether a training process got the permission to publish and its outcome is unknown."""
    expected: int | None
    """Number of models that the training fits."""
    version: int | None
    """Version of the pipeline in the store."""
    report: str | None
    """JSON of the report, as in `train --json`."""
    status: int | None
    """HTTP status of a failed job's answer."""
    error: str | None
    """JSON body of a failed job's answer."""
    has_input: bool
    """Whether the file with the request still exists."""

    @property
    def is_final(self) -> bool:
        """Whether the job is done, failed or cancelled."""
        return self.state in FINAL_STATES


@attrs.frozen
class JobHistory:
    """What a training has reported so far."""

    stages: list[tuple[str, float]]
    """Name and start of each stage."""
    models: list[dict[str, Any]]
    """The trained and failed models, as in `train --json`."""
    log: list[tuple[float, str, str]]
    """Time, level and text of each line."""


def new_id() -> str:
    """Return a random job id."""
    return uuid.uuid4().hex
