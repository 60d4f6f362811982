"""The web pages of the offline trainer: the queue of jobs, and one job with its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import attrs
import bottle
from msgspec import Meta

from kepler_servers.browser.page_routes import PageQuery, asset_route, page_route
from kepler_servers.browser.pages.api_page import ApiPage
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route
from kepler_servers.offline_trainer.answers import JobDetails, JobPage, State
from kepler_servers.offline_trainer.job import FINAL_STATES, RUNNING, STATES

SITE = Site("offline_trainer", (("jobs", "/"), ("api", "/docs")))

PAGE_JOBS = 50
"""Number of jobs on a page of the list."""
BUSY_POLL_SECONDS = 2
"""Interval in seconds at which a page reloads its content while a job runs."""
IDLE_POLL_SECONDS = 10
"""Interval in seconds at which the list of jobs reloads its content while no job runs."""
MAX_SHOWN_MODELS = 300

_WITHOUT_TOKEN = ("/healthz", "/readyz", "/openapi.json")


class ListQuery(PageQuery, frozen=True, kw_only=True):
    """Query parameters of the list of jobs."""

    state: State | None = None
    offset: Annotated[int, Meta(ge=0, le=10**9)] = 0


@attrs.frozen
class JobPages:
    """The handlers of the pages. They get their data from the handlers of the JSON endpoints."""

    counts: Callable[[], Mapping[str, int]]
    """Function that returns the number of jobs in each state."""
    page: Callable[[State | None, int, int], JobPage]
    """Function with the arguments state (None means all states), limit and offset. It returns a page of the list of
    jobs."""
    details: Callable[[str], JobDetails]
    result: Callable[[str], Answer]
    document: Callable[[], Mapping[str, Any]]
    """Function that returns the OpenAPI document of the offline trainer."""
    guard: Callable[[bottle.BaseRequest], None]
    """Function that rejects requests without the server's token, if the server has a token."""
    has_token: bool

    def routes(self) -> list[Route]:
        """Return the routes of the pages, and of the files that the pages load."""
        api = ApiPage(
            SITE,
            self.document,
            examples={},
            needs_token=lambda path: self.has_token and path not in _WITHOUT_TOKEN,
        )
        return [
            page_route(SITE, "/", self.jobs, query=ListQuery, guard=self.guard),
            page_route(SITE, "/ui/jobs/<job>", self.job, guard=self.guard),
            page_route(SITE, "/ui/jobs/<job>/result", self.download, guard=self.guard),
            *api.routes(),
            asset_route(SITE),
        ]

    def jobs(self, view: View, query: ListQuery) -> Answer:
        """Answer with the queue of jobs, the newest job first."""
        counts = self.counts()
        page = self.page(query.state, PAGE_JOBS, query.offset)
        return view.answer(
            "jobs.html.j2", counts=counts, states=STATES, state=query.state, page=page, offset=query.offset,
            step=PAGE_JOBS, seconds=BUSY_POLL_SECONDS if counts.get(RUNNING) else IDLE_POLL_SECONDS,
        )  # fmt: skip

    def job(self, view: View, query: PageQuery, job: str) -> Answer:
        """Answer with a job: its stages, models, log and errors."""
        details = self.details(job)
        return view.answer(
            "job.html.j2", job=details, models=details.models[:MAX_SHOWN_MODELS],
            seconds=0 if details.state in FINAL_STATES else BUSY_POLL_SECONDS,
        )  # fmt: skip

    def download(self, view: View, query: PageQuery, job: str) -> Answer:
        """Answer with the zip of the pipeline that a job trained."""
        return self.result(job)
