"""The JSON of the offline trainer's answers, as types."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kepler_servers.http.answer import HttpError
from kepler_servers.http.app import Error
from kepler_servers.offline_trainer.job import DONE, Job, JobHistory

State = Literal["queued", "running", "done", "failed", "cancelled"]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339, in UTC, with milliseconds."""


class Progress(msgspec.Struct):
    """The number of models of a job."""

    models: int | None
    """Models that the training fits; null until it knows."""
    trained: int
    failed: int


class JobSummary(msgspec.Struct):
    """A job."""

    id: str
    url: str
    pipeline: str
    state: State
    stage: str | None
    submitted: Time
    started: Time | None
    finished: Time | None
    attempts: int
    progress: Progress
    version: int | None
    """Version of the pipeline in the store."""
    result: str | None
    """URL of the zip."""
    error: dict[str, Any] | None
    """Status and body of the answer that waiting clients got."""


class JobPage(msgspec.Struct):
    """Some of the jobs, the newest first."""

    total: int
    jobs: list[JobSummary]


class StageEntry(msgspec.Struct):
    """A stage that a training entered."""

    stage: str
    started: Time


class LogEntry(msgspec.Struct):
    """A line that a training logged."""

    time: Time
    level: str
    text: str


class JobDetails(JobSummary):
    """A job with the history of its training."""

    stages: list[StageEntry]
    models: list[dict[str, Any]]
    """Trained and failed models, as in `train --json`."""
    log: list[LogEntry]
    report: dict[str, Any] | None
    """The report, as in `train --json`."""


class Health(msgspec.Struct):
    """The state of the server."""

    status: Literal["ok", "stopping"]
    version: str
    store: str
    jobs: dict[str, int]
    """Number of jobs by state."""


class JobError(Error):
    """The body of an answer that is not 2xx."""

    job: str | msgspec.UnsetType = msgspec.UNSET
    """The job's id."""
    findings: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    """What `kepler-model validate --json` reports about the recording."""


def summary_of(job: Job, models: tuple[int, int]) -> JobSummary:
    """Return a job's summary. `models` is what `Jobs.count_models` returns."""
    return JobSummary(**_summary_fields(job, models))


def details_of(job: Job, models: tuple[int, int], history: JobHistory) -> JobDetails:
    """Return a job's summary and history."""
    return JobDetails(
        **_summary_fields(job, models),
        stages=[StageEntry(name, rfc3339(started)) for name, started in history.stages],
        models=history.models,
        log=[LogEntry(rfc3339(time), level, text) for time, level, text in history.log],
        report=None if job.report is None else msgspec.json.decode(job.report),
    )


def _summary_fields(job: Job, models: tuple[int, int]) -> dict[str, Any]:
    total, failed = models
    return {
        "id": job.id,
        "url": f"/jobs/{job.id}",
        "pipeline": job.pipeline,
        "state": job.state,
        "stage": job.stage,
        "submitted": rfc3339(job.submitted),
        "started": None if job.started is None else rfc3339(job.started),
        "finished": None if job.finished is None else rfc3339(job.finished),
        "attempts": job.attempts,
        "progress": Progress(job.expected, total - failed, failed),
        "version": job.version,
        "result": f"/jobs/{job.id}/result" if job.state == DONE else None,
        "error": None if job.error is None else {"status": job.status, **msgspec.json.decode(job.error)},
    }


def http_error(
    status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None, **fields: Any
) -> HttpError:
    """Return the HTTP error with a training process' status and content."""
    further = {key: value for key, value in content.items() if key != "msg"}
    return HttpError(status, content["msg"], headers, **further, **fields)


def rfc3339(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 text in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
