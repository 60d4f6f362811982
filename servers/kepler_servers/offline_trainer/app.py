"""The endpoints."""

from __future__ import annotations

import datetime
import hmac
import re
import sqlite3
import threading
from typing import Any

import bottle
import msgspec

from kepler_core import __version__
from kepler_core.errors import RequestError, close_matches
from kepler_core.store.urls import is_url, shown_url
from kepler_servers.http.adapter import ANNOUNCED, LATER, UPLOAD, Environ, RefusedError
from kepler_servers.http.app import (
    RETRY_LATER,
    Answer,
    AnswerError,
    Endpoints,
    Handler,
    NotFoundError,
    flag,
    json_answer,
    query,
    whole,
)
from kepler_servers.http.metrics import CONTENT_TYPE
from kepler_servers.offline_trainer.crew import Crew, stopping_answer
from kepler_servers.offline_trainer.jobs import CANCELLED, DONE, FAILED, STATES, Job, Jobs, QueueFullError, new_id
from kepler_servers.offline_trainer.metrics import TrainerMetrics
from kepler_servers.offline_trainer.openapi import document
from kepler_servers.offline_trainer.settings import Settings, StateFolder
from kepler_servers.offline_trainer.spool import SpooledBody, disk_full

MAX_BODY = 64 * 1024
"""Bytes of any other request's body: none needs one."""
MAX_PAGE = 1000
MAX_UPLOADS = 16
"""Bodies that may be on their way at a time."""

JOB_HEADER = "X-Kepler-Job"

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_SQLITE_FULL = 13


class OfflineTrainer(Endpoints):
    """The bottle application (`app`) over the queue."""

    def __init__(
        self,
        settings: Settings,
        folder: StateFolder,
        jobs: Jobs,
        crew: Crew,
        metrics: TrainerMetrics,
        *,
        token: bytes | None,
    ) -> None:
        """`token`: without it in the header `Authorization: Bearer`, nothing but health is told."""
        super().__init__("the offline trainer", metrics.observe)
        self._settings = settings
        self._folder = folder
        self._jobs = jobs
        self._crew = crew
        self._metrics = metrics
        self._token = token
        self._uploads = 0
        self._counting = threading.Lock()
        self._openapi = msgspec.json.encode(document())
        closed = self._closed
        self.route("POST", "/train", "train", closed(self.train))
        self.route("GET", "/jobs", "jobs", closed(self.list_jobs))
        self.route("GET", "/jobs/<job>", "job", closed(self.job))
        self.route("DELETE", "/jobs/<job>", "cancel", closed(self.cancel))
        self.route("GET", "/jobs/<job>/result", "result", closed(self.result))
        self.route("GET", "/metrics", "metrics", closed(self.exposition))
        self.route("GET", "/healthz", "healthz", self.health)
        self.route("GET", "/readyz", "readyz", self.ready)
        self.route("GET", "/openapi.json", "openapi", self.openapi)

    def _closed(self, handler: Handler) -> Handler:
        def with_token(**arguments: str) -> Answer:
            self._check_token(bottle.request.environ)
            return handler(**arguments)

        return with_token

    def _check_token(self, environ: Environ) -> None:
        if self._token is None:
            return
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("latin-1", "replace"), self._token
        ):
            message = "a token is needed: Authorization: Bearer …" if not given else "the token is wrong"
            raise AnswerError(401, {"msg": message}, {"WWW-Authenticate": "Bearer"})

    # --- POST /train ---

    def begin_upload(self, environ: Environ) -> SpooledBody:
        """Where the body of a `POST /train` goes; `RefusedError` for one that is not even to be read."""
        try:
            self._check_token(environ)
            _wants_async(environ)
            _idempotency_key(environ)
        except AnswerError as error:
            raise RefusedError(error.status, str(error), error.headers) from error
        except RequestError as error:
            raise RefusedError(400, str(error), key=error.key) from error
        encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise RefusedError(415, f"Content-Encoding {encoding[:60]!r} is not known; known: gzip, identity")
        if self._crew.stopping:
            raise RefusedError(503, "the server is stopping", RETRY_LATER)
        self._count_upload(1)
        length = environ.get(ANNOUNCED, "")
        try:
            body = SpooledBody(
                self._folder.incoming,
                max_bytes=self._settings.max_body,
                announced=int(length) if length.isdecimal() else None,
                must_be_gzip="gzip" in encoding,
                closed=lambda: self._count_upload(-1),
            )
        except BaseException:
            self._count_upload(-1)
            raise
        self._crew.warm_up()
        return body

    def _count_upload(self, more: int) -> None:
        with self._counting:
            if more > 0 and self._uploads >= MAX_UPLOADS:
                raise RefusedError(503, f"{MAX_UPLOADS} requests are on their way already", RETRY_LATER)
            self._uploads += more

    def train(self) -> Answer:
        environ = bottle.request.environ
        if UPLOAD not in environ:  # the path was spelled in another way
            raise NotFoundError("no such path; POST /train")
        try:
            return self._train(environ, environ[UPLOAD])
        except RefusedError as error:
            raise AnswerError(error.status, error.content, error.headers) from error
        except sqlite3.Error as error:
            if error.sqlite_errorcode != _SQLITE_FULL:
                raise
            refused = disk_full("nothing of this request is kept")
            raise AnswerError(refused.status, refused.content) from error

    def _train(self, environ: Environ, body: SpooledBody) -> Answer:
        key = _idempotency_key(environ)
        digest = body.finish()
        self._metrics.received.inc(body.size)
        if key is not None and (known := self._jobs.by_key(key)) is not None:
            return self._same_job(environ, known, digest)
        pipeline = self._crew.check(body.path)
        if self._crew.stopping:
            raise stopping_answer()
        wanted = new_id()
        # on the disk before it is in the queue: of a job there is always the input
        body.keep(self._folder.input(wanted))
        try:
            job = self._jobs.add(wanted, pipeline=pipeline, digest=digest, size=body.size, key=key)
        except BaseException as error:
            self._folder.input(wanted).unlink(missing_ok=True)
            if isinstance(error, QueueFullError):
                message = f"{self._settings.max_queue} jobs wait already"
                raise AnswerError(503, {"msg": message}, {"Retry-After": "60"}) from None
            raise
        if job.id != wanted:  # the same request came twice at once
            self._folder.input(wanted).unlink(missing_ok=True)
            return self._same_job(environ, job, digest)
        return self._accepted(environ, job)

    def _same_job(self, environ: Environ, job: Job, digest: str) -> Answer:
        if job.digest != digest:
            message = f"Idempotency-Key: this key is that of job {job.id}, whose request was another"
            raise AnswerError(422, {"msg": message, "key": "Idempotency-Key"})
        return self._accepted(environ, job)

    def _accepted(self, environ: Environ, job: Job) -> Answer:
        if not _wants_async(environ):
            # the answer is that of the result, when it is there
            environ[LATER].done = self._jobs.over(job.id)
            environ[LATER].path = f"/jobs/{job.id}/result"
        headers = {"Location": f"/jobs/{job.id}", JOB_HEADER: job.id}
        if "respond-async" in environ.get("HTTP_PREFER", "").lower():
            headers["Preference-Applied"] = "respond-async"
        return json_answer(self._described(job), 202, headers)

    # --- jobs ---

    def list_jobs(self) -> Answer:
        given = query("state", "limit", "offset")
        state = given["state"]
        if state is not None and state not in STATES:
            raise RequestError("state", f"unknown state {state[:60]!r}; {close_matches(state[:60], STATES)}")
        limit = whole(given, "limit", 1, MAX_PAGE) or 100
        total, jobs = self._jobs.page(state, limit, whole(given, "offset", 0, 10**9) or 0)
        return json_answer({"total": total, "jobs": [self._described(job) for job in jobs]})

    def job(self, job: str) -> Answer:
        found = self._find(job)
        progress = self._jobs.progress(found.id)
        return json_answer(
            {
                **self._described(found),
                "stages": [{"stage": name, "started": _time(at)} for name, at in progress.stages],
                "models": progress.models,
                "log": [{"time": _time(at), "level": level, "text": text} for at, level, text in progress.log],
                "report": None if found.report is None else msgspec.json.decode(found.report),
            }
        )

    def cancel(self, job: str) -> Answer:
        self._find(job)
        found = self._crew.cancel(job)
        if found is None:
            raise NotFoundError(f"no job {job[:60]!r}")
        if found.state == CANCELLED:
            return json_answer(self._described(found))
        what = f"is {found.state} already" if found.over else "is being published: it is too late to cancel it"
        raise AnswerError(409, {"msg": f"job {job} {what}"})

    def result(self, job: str) -> Answer:
        """What a client that waited gets: the zip, or why there is none."""
        found = self._find(job)
        headers = {JOB_HEADER: found.id, "Content-Location": f"/jobs/{found.id}/result"}
        if found.state == FAILED:
            assert found.status is not None
            assert found.error is not None
            if found.status == 503:  # the store was away; it can be sent again
                headers |= RETRY_LATER
            raise AnswerError(found.status, {**msgspec.json.decode(found.error), "job": found.id}, headers)
        if found.state == CANCELLED:
            raise AnswerError(410, {"msg": f"job {found.id} was cancelled", "job": found.id}, headers)
        if found.state != DONE:
            if self._crew.stopping:
                message = f"the server is stopping; job {found.id} goes on when it is started again"
                raise AnswerError(503, {"msg": message, "job": found.id}, headers | RETRY_LATER)
            raise AnswerError(409, {"msg": f"job {found.id} is {found.state}", "job": found.id}, headers)
        try:
            file = self._folder.result(found.id).open("rb")
        except FileNotFoundError:
            message = f"the zip of job {found.id} was removed, or had no room; the pipeline is in the store"
            raise AnswerError(410, {"msg": message, "job": found.id}, headers) from None
        headers |= {
            "Content-Disposition": f'attachment; filename="{found.pipeline}.zip"',
            "Content-Length": str(file.seek(0, 2)),
            "X-Kepler-Pipeline": f"{found.pipeline}; version={found.version}",
        }
        file.seek(0)
        return Answer(file, "application/zip", headers)

    def _find(self, job: str) -> Job:
        if (found := self._jobs.get(job[:100])) is None:
            raise NotFoundError(f"no job {job[:60]!r}; GET /jobs lists them")
        return found

    def _described(self, job: Job) -> dict[str, Any]:
        total, failed = self._jobs.counted_models(job.id)
        return {
            "id": job.id,
            "url": f"/jobs/{job.id}",
            "pipeline": job.pipeline,
            "state": job.state,
            "stage": job.stage,
            "submitted": _time(job.submitted),
            "started": _time(job.started),
            "finished": _time(job.finished),
            "attempts": job.attempts,
            "progress": {"models": job.expected, "trained": total - failed, "failed": failed},
            "version": job.version,
            "result": f"/jobs/{job.id}/result" if job.state == DONE else None,
            "error": None if job.error is None else {"status": job.status, **msgspec.json.decode(job.error)},
        }

    # --- the server itself ---

    def exposition(self) -> Answer:
        return Answer(self._metrics.exposition(), CONTENT_TYPE)

    def health(self) -> Answer:
        return json_answer(self._health())

    def ready(self) -> Answer:
        if self._crew.stopping:
            raise AnswerError(503, self._health())
        return json_answer(self._health())

    def openapi(self) -> Answer:
        return Answer(self._openapi, "application/json")

    def _health(self) -> dict[str, Any]:
        # nothing here may wait: the event loop itself answers
        return {
            "status": "stopping" if self._crew.stopping else "ok",
            "version": __version__,
            "store": shown_url(self._settings.store) if is_url(self._settings.store) else self._settings.store,
            "jobs": self._jobs.counts,
        }


def _wants_async(environ: Environ) -> bool:
    wanted = flag(query("async", of=bottle.BaseRequest(environ)), "async")
    preferences = environ.get("HTTP_PREFER", "").lower().split(",")
    return wanted or any(preference.partition(";")[0].strip() == "respond-async" for preference in preferences)


def _idempotency_key(environ: Environ) -> str | None:
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not _KEY.fullmatch(key):
        raise RequestError("Idempotency-Key", "not 1 to 200 visible ASCII characters")
    return key


def _time(seconds: float | None) -> str | None:
    """RFC 3339, in UTC."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
