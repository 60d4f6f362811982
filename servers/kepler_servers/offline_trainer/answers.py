"""Types of the JSON in the offline trainer's answers."""

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
"""Time as RFC 3339 text, in UTC, with milliseconds."""


class Progress(msgspec.Struct):
    """Numbers of models that a job plans to train, has trained and failed to train."""

    models: int | None
    """Number of models that the training will fit; null before the training has determined it."""
    trained: int
    failed: int
    """Number of models whose training failed. For a job that is done, data sets whose preparation failed are counted,
    too."""


class _ReportedFailures(msgspec.Struct):
    """The part of a job's report that lists the failures. It is decoded to count the failures."""

    failed: list[msgspec.Raw]


class JobSummary(msgspec.Struct):
    """A training request in the queue, and the state of its training."""

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
    """Number of the pipeline version that the job published in the store; null before the publishing."""
    result: str | None
    """URL of the zip with the trained pipeline; null if the job is not done."""
    error: dict[str, Any] | None
    """HTTP status and body of the error with which the job failed; null if it did not fail."""


class JobPage(msgspec.Struct):
    """A page of the list of jobs, the newest job first."""

    total: int
    jobs: list[JobSummary]


class StageEntry(msgspec.Struct):
    """A stage that a training entered, and the time when it entered the stage."""

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
    """Trained and failed models, in the format of `kepler-model train --json`."""
    log: list[LogEntry]
    report: dict[str, Any] | None
    """Report of the training, in the format of `kepler-model train --json`; null if the job is not done."""


class Health(msgspec.Struct):
    """State of the offline trainer."""

    status: Literal["ok", "stopping"]
    version: str
    store: str
    jobs: dict[str, int]
    """Number of jobs in each state."""


class JobError(Error):
    """Body of an answer whose HTTP status is not 2xx."""

    job: str | msgspec.UnsetType = msgspec.UNSET
    """Id of the job that the error is about."""
    findings: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    """The report of `kepler-model validate --json` about a recording from which no model can be trained."""


def summary_of(job: Job, models: tuple[int, int]) -> JobSummary:
    """Return a job's summary. `models` is the result of `Jobs.count_models` for the job."""
    return JobSummary(**_summary_fields(job, models))


def details_of(job: Job, models: tuple[int, int], history: JobHistory) -> JobDetails:
    """Return a job's summary and history. `models` is the result of `Jobs.count_models` for the job."""
    return JobDetails(
        **_summary_fields(job, models),
        stages=[StageEntry(name, rfc3339(started)) for name, started in history.stages],
        models=history.models,
        log=[LogEntry(rfc3339(time), level, text) for time, level, text in history.log],
        report=None if job.report is None else msgspec.json.decode(job.report),
    )


def _summary_fields(job: Job, models: tuple[int, int]) -> dict[str, Any]:
    total, failed = models
    trained = total - failed
    if job.report is not None:
        # No model is recorded for a data set whose preparation failed; only the report has this failure.
        failed = len(msgspec.json.decode(job.report, type=_ReportedFailures).failed)
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
        "progress": Progress(job.expected, trained, failed),
        "version": job.version,
        "result": f"/jobs/{job.id}/result" if job.state == DONE else None,
        "error": None if job.error is None else {"status": job.status, **msgspec.json.decode(job.error)},
    }


def http_error(
    status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None, **fields: Any
) -> HttpError:
    """Return the HTTP error for the `status` and `content` of a message `Rejected` from a training process."""
    further = {key: value for key, value in content.items() if key != "msg"}
    return HttpError(status, content["msg"], headers, **further, **fields)


def rfc3339(seconds: float) -> str:
    """Return a time (Unix seconds) as RFC 3339 text in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
