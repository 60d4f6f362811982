"""The endpoints of the offline trainer."""

from __future__ import annotations

import hmac
import re
import sqlite3
import threading
from typing import Annotated, NoReturn

import bottle
import msgspec
from msgspec import Meta

from kepler_core import __version__
from kepler_core.errors import RequestError
from kepler_core.messages import quoted
from kepler_core.urls import shown_location
from kepler_servers.http.answer import RETRY_LATER, Answer, Deferred, HttpError, attachment, json_answer
from kepler_servers.http.app import App, Environ
from kepler_servers.http.hosts import check_host
from kepler_servers.http.metrics import CONTENT_TYPE
from kepler_servers.http.params import read_headers, read_query
from kepler_servers.http.route import Returns, Route
from kepler_servers.offline_trainer.answers import (
    Health,
    JobDetails,
    JobError,
    JobPage,
    JobSummary,
    State,
    details_of,
    http_error,
    summary_of,
)
from kepler_servers.offline_trainer.disk_full import is_disk_full
from kepler_servers.offline_trainer.job import CANCELLED, DONE, FAILED, Job, new_id
from kepler_servers.offline_trainer.job_pages import JobPages
from kepler_servers.offline_trainer.jobs import Jobs, QueueFullError
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.request_schema import request_schema
from kepler_servers.offline_trainer.settings import Settings, StateFolder
from kepler_servers.offline_trainer.spool import SpooledBody, disk_full_error
from kepler_servers.offline_trainer.training_pool import TrainingPool
from kepler_servers.offline_trainer.warm_worker import stopping_error

MAX_BODY_BYTES = 64 * 1024
"""Maximum size of the body of all requests except `POST /train`. These requests do not need a body."""
MAX_UPLOADS = 16
"""Maximum number of training requests whose bodies are received at the same time."""

JOB_HEADER = "X-Kepler-Job"
PIPELINE_HEADER = "X-Kepler-Pipeline"

_KEY_PATTERN = "[!-~]{1,200}"
_JSON = "application/json"
JOB_PARAMETER = {"job": "Id of the job."}


class TrainQuery(msgspec.Struct, frozen=True):
    """Query parameters of `POST /train`."""

    respond_async: Annotated[
        bool, Meta(description="Answer at once with the queued job, and do not wait for its end.")
    ] = msgspec.field(default=False, name="async")


class TrainHeaders(msgspec.Struct, frozen=True):
    """Request headers of `POST /train`."""

    prefer: Annotated[
        str, Meta(examples=["respond-async"], description="respond-async has the effect of the parameter async=1.")
    ] = msgspec.field(default="", name="Prefer")
    idempotency_key: (
        Annotated[
            str,
            Meta(
                pattern=f"^{_KEY_PATTERN}$",
                description="If a request is repeated with the same key, no second job is created.",
            ),
        ]
        | None
    ) = msgspec.field(default=None, name="Idempotency-Key")


class JobsQuery(msgspec.Struct, frozen=True):
    """Query parameters of `GET /jobs`."""

    state: Annotated[State, Meta(description="State of the jobs.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of listed jobs.")] = 100
    offset: Annotated[int, Meta(ge=0, le=10**9, description="Number of jobs to skip.")] = 0


class OfflineTrainer:
    """The HTTP endpoints, which use the job queue and the training pool."""

    def __init__(
        self,
        settings: Settings,
        folder: StateFolder,
        jobs: Jobs,
        pool: TrainingPool,
        metrics: TrainerMetrics,
        *,
        token: bytes | None,
    ) -> None:
        """If `token` is not None, all requests must contain it, except those for `/healthz`, `/readyz` and
        `/openapi.json`."""
        self._settings = settings
        self._folder = folder
        self._jobs = jobs
        self._pool = pool
        self._metrics = metrics
        self._token = token
        self._uploads = threading.BoundedSemaphore(MAX_UPLOADS)
        self.app = App(
            "offline trainer",
            [*self._job_routes(), *self._server_routes(), *self._pages()],
            observe=metrics.observe,
            description="Trains power models from recordings and publishes them to a model store. "
            "Each training is a job in a queue on disk.",
            error=JobError,
            check=self._check_host,
        )

    def _job_routes(self) -> list[Route]:
        archive = Returns(
            {"application/zip": bytes},
            description="The trained pipeline.",
            headers={JOB_HEADER: "The job's id.", PIPELINE_HEADER: "Name and version of the pipeline in the store."},
        )
        queued = Returns(
            {_JSON: JobSummary}, status=202, description="The queued job.", headers={"Location": "The job's URL."}
        )
        return [
            Route(
                "POST", "/train", "train", self.train, guard=self._check_token,
                summary="Train a pipeline. The answer is a zip of the pipeline or, with respond-async, the queued job.",
                query=TrainQuery, headers=TrainHeaders, body=request_schema(), body_description="Plain or gzipped.",
                upload=self.begin_upload, returns=[archive, queued],
                errors=(400, 401, 403, 408, 409, 410, 413, 415, 422, 500, 503, 507),
            ),
            Route(
                "GET", "/jobs", "jobs", self.list_jobs, guard=self._check_token,
                summary="List the jobs, the newest job first.", query=JobsQuery, returns=JobPage, errors=(401, 403),
            ),
            Route(
                "GET", "/jobs/<job>", "job", self.job, guard=self._check_token, parameters=JOB_PARAMETER,
                summary="Return a job and the history of its training.", returns=JobDetails, errors=(401, 403, 404),
            ),
            Route(
                "DELETE", "/jobs/<job>", "cancel", self.cancel, guard=self._check_token, parameters=JOB_PARAMETER,
                summary="Cancel a job.", returns=JobSummary, errors=(401, 403, 404, 409),
            ),
            Route(
                "GET", "/jobs/<job>/result", "result", self.result, guard=self._check_token, parameters=JOB_PARAMETER,
                summary="Return a zip of the pipeline that a job trained, or the error of a job that failed.",
                returns=[archive], errors=(400, 401, 403, 404, 409, 410, 422, 500, 503, 507),
            ),
        ]  # fmt: skip

    def _server_routes(self) -> list[Route]:
        health = Returns({_JSON: Health})
        stopping = Returns({_JSON: Health}, status=503, description="The server is stopping.")
        return [
            Route(
                "GET", "/metrics", "metrics", self.metrics, guard=self._check_token,
                summary="Return Prometheus metrics of jobs and requests.", returns=[Returns({"text/plain": str})],
                errors=(401, 403),
            ),
            Route(
                "GET", "/healthz", "healthz", self.health,
                summary="Return the number of jobs in each state.", returns=[health], errors=(403,), quick=True,
            ),
            Route(
                "GET", "/readyz", "readyz", self.ready,
                summary="Return whether the server accepts training requests.",
                returns=[health, stopping], errors=(403,), quick=True,
            ),
        ]  # fmt: skip

    def _pages(self) -> list[Route]:
        return JobPages(
            counts=lambda: self._jobs.counts,
            page=lambda state, limit, offset: self.list_jobs(JobsQuery(state, limit, offset)),
            details=self.job,
            result=self.result,
            document=lambda: self.app.document,
            guard=self._check_page_token,
            has_token=self._token is not None,
        ).routes()

    def _check_host(self, environ: Environ) -> None:
        if self._settings.allowed_hosts is not None:
            check_host(environ, self._settings.allowed_hosts)

    def _check_token(self, request: bottle.BaseRequest) -> None:
        if self._token is None:
            return
        scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            token.strip().encode("latin-1", "replace"), self._token
        ):
            message = "a token is needed: Authorization: Bearer …" if not token else "the token is wrong"
            raise HttpError(401, message, {"WWW-Authenticate": "Bearer"})

    def _check_page_token(self, request: bottle.BaseRequest) -> None:
        """Check the token of a request for a page. The browser asks the user for the token, and sends it as a password.

        The endpoints that change something do not accept `Basic` authentication, because a browser also sends the
        password with requests that pages of other hosts make.
        """
        name_and_password = request.auth if self._token is not None else None
        if self._token is None or (
            name_and_password is not None
            and hmac.compare_digest((name_and_password[1] or "").encode("utf-8", "replace"), self._token)
        ):
            return
        try:
            self._check_token(request)
        except HttpError:
            message = "a token is needed: enter it as the password, with any user name"
            raise HttpError(401, message, {"WWW-Authenticate": 'Basic realm="Kepler Core", charset="UTF-8"'}) from None

    # --- POST /train ---

    def begin_upload(self, request: bottle.BaseRequest, length: int | None) -> SpooledBody:
        """Check the headers of a training request, and return the object that receives the body."""
        self._check_host(request.environ)
        self._check_token(request)
        read_query(TrainQuery, request)
        _check_key(read_headers(TrainHeaders, request))
        encoding = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise HttpError(415, f"Content-Encoding {quoted(encoding)} is not known; known: gzip, identity")
        if self._pool.stopping:
            raise stopping_error()
        if not self._uploads.acquire(blocking=False):
            raise HttpError(503, f"{MAX_UPLOADS} training requests are being received already", RETRY_LATER)
        try:
            body = SpooledBody(
                self._folder.incoming,
                max_bytes=self._settings.max_body,
                length=length,
                must_be_gzip="gzip" in encoding,
                on_close=self._uploads.release,
            )
        except BaseException:
            self._uploads.release()
            raise
        self._pool.prepare()
        return body

    def train(self, query: TrainQuery, headers: TrainHeaders, upload: SpooledBody) -> Answer | Deferred:
        """Queue the request as a job. Return the queued job at once, or the result of the job when it has ended."""
        try:
            job = self._queue(headers.idempotency_key, upload)
        except sqlite3.Error as error:
            if is_disk_full(error):
                raise disk_full_error("this request was not stored") from error
            raise
        prefers_async = _prefers_async(headers.prefer)
        if not (query.respond_async or prefers_async):
            return Deferred(self._jobs.completion(job.id), lambda: self.result(job.id))
        preference = {"Preference-Applied": "respond-async"} if prefers_async else {}
        return json_answer(self._summary(job), 202, {"Location": f"/jobs/{job.id}", JOB_HEADER: job.id, **preference})

    def _queue(self, key: str | None, body: SpooledBody) -> Job:
        """Queue a new job and return it; if an earlier request had the same key, return the job of that request."""
        digest = body.finish()
        self._metrics.received.inc(body.size)
        if key is not None and (existing := self._jobs.by_key(key)) is not None:
            return _same_request(existing, digest)
        pipeline = self._pool.check(body.path)
        if self._pool.stopping:
            raise stopping_error()
        job_id = new_id()
        # The input file is stored before the job is queued, so that each queued job has an input file.
        body.keep(self._folder.input(job_id))
        try:
            job = self._jobs.add(job_id, pipeline=pipeline, digest=digest, size=body.size, key=key)
        except BaseException as error:
            self._folder.input(job_id).unlink(missing_ok=True)
            if isinstance(error, QueueFullError):
                message = f"{self._settings.max_queue} jobs are queued already"
                raise HttpError(503, message, {"Retry-After": "60"}) from None
            raise
        if job.id != job_id:  # another request with the same key was queued first
            self._folder.input(job_id).unlink(missing_ok=True)
            return _same_request(job, digest)
        return job

    # --- jobs ---

    def list_jobs(self, query: JobsQuery) -> JobPage:
        total, jobs = self._jobs.page(query.state, query.limit, query.offset)
        return JobPage(total, [self._summary(job) for job in jobs])

    def job(self, job: str) -> JobDetails:
        current = self._get(job)
        return details_of(current, self._jobs.count_models(current.id), self._jobs.history(current.id))

    def cancel(self, job: str) -> JobSummary:
        self._get(job)
        current = self._pool.cancel(job)
        if current is None:
            raise HttpError(404, f"no job {quoted(job)}")
        if current.state == CANCELLED:
            return self._summary(current)
        reason = (
            f"is {current.state} already" if current.is_final else "is being published: it is too late to cancel it"
        )
        raise HttpError(409, f"job {job} {reason}")

    def result(self, job: str) -> Answer:
        """Return the zip that a job trained, or raise the error with which the job ended."""
        current = self._get(job)
        headers = {JOB_HEADER: current.id, "Content-Location": f"/jobs/{current.id}/result"}
        if current.state != DONE:
            self._raise_without_result(current, headers)
        path = self._folder.result(current.id)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            message = f"the zip of job {current.id} was removed, or could not be written; the pipeline is in the store"
            raise HttpError(410, message, headers, job=current.id) from None
        headers |= {
            "Content-Type": "application/zip",
            "Content-Disposition": attachment(f"{current.pipeline}.zip"),
            "Content-Length": str(size),
            PIPELINE_HEADER: f"{current.pipeline}; version={current.version}",
        }
        return Answer(200, headers, path)

    def _raise_without_result(self, job: Job, headers: dict[str, str]) -> NoReturn:
        """Raise the HTTP error for a job without a result: it failed, was cancelled, or has not ended yet."""
        if job.state == FAILED:
            assert job.status is not None
            assert job.error is not None
            if job.status == 503:  # the training failed because the model store could not be used
                headers |= RETRY_LATER
            raise http_error(job.status, msgspec.json.decode(job.error), headers, job=job.id)
        if job.state == CANCELLED:
            raise HttpError(410, f"job {job.id} was cancelled", headers, job=job.id)
        if self._pool.stopping:
            message = f"the server is stopping; job {job.id} continues after the next start of the server"
            raise HttpError(503, message, headers | RETRY_LATER, job=job.id)
        raise HttpError(409, f"job {job.id} is {job.state}", headers, job=job.id)

    def _get(self, job: str) -> Job:
        if (current := self._jobs.get(job[:100])) is None:
            raise HttpError(404, f"no job {quoted(job)}; GET /jobs lists them")
        return current

    def _summary(self, job: Job) -> JobSummary:
        return summary_of(job, self._jobs.count_models(job.id))

    # --- metrics and health of the server ---

    def metrics(self) -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE}, self._metrics.exposition())

    def health(self) -> Health:
        # The event loop calls this method. Therefore the method must not wait for the disk or for a lock.
        return Health(
            status="stopping" if self._pool.stopping else "ok",
            version=__version__,
            store=shown_location(self._settings.store),
            jobs=self._jobs.counts,
        )

    def ready(self) -> Answer:
        return json_answer(self.health(), 503 if self._pool.stopping else 200)


def _same_request(job: Job, digest: str) -> Job:
    """Return the job with the client's idempotency key; raise `HttpError` if the job is for a different request."""
    if job.digest != digest:
        message = f"Idempotency-Key: this key belongs to job {job.id}, which has a different request"
        raise HttpError(422, message, key="Idempotency-Key")
    return job


def _check_key(headers: TrainHeaders) -> None:
    key = headers.idempotency_key
    if key is not None and not re.fullmatch(_KEY_PATTERN, key):
        raise RequestError("Idempotency-Key", "not 1 to 200 visible ASCII characters")


def _prefers_async(prefer: str) -> bool:
    """Return whether the request header Prefer contains respond-async."""
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in prefer.lower().split(","))
