"""Read an exporter over HTTP, within limits of time and size."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence

import attrs

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError
from kepler_core.errors import KeplerError, UsageError
from kepler_core.messages import reason_of
from kepler_core.scrape.exposition import MAX_BYTES, ExpositionError, ScrapedSample, parse_exposition
from kepler_core.store.http_exchange import exchange
from kepler_core.urls import shown_url, split_url

TIMEOUT_SECONDS = 10.0
_OK = 200


class ScrapeError(KeplerError):
    """An exporter cannot be read."""


@attrs.frozen(eq=False)
class Scrape:
    """One reading of an exporter."""

    time: float
    """Unix seconds at which the answer arrived."""
    samples: Sequence[ScrapedSample]


class Scraper:
    """Reads one exporter."""

    def __init__(self, url: str, wanted: Callable[[str], bool], *, stop: threading.Event | None = None) -> None:
        """`url` may lack the path /metrics. `wanted` chooses metrics by name. Setting `stop` ends a running request.

        Raises `UsageError` if the URL is not an http(s) URL.
        """
        parts = split_url(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{shown_url(url)}: expected a URL such as http://host:28282/metrics")
        if parts.username is not None:
            raise UsageError(f"{shown_url(url)}: user names in URLs are not supported")
        self._url = url if parts.path.strip("/") else url.rstrip("/") + "/metrics"
        self.instance = parts.netloc
        self._wanted = wanted
        self._stop = stop or threading.Event()

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return shown_url(self._url)

    def scrape(self) -> Scrape:
        """Read all wanted metrics. Raises `ScrapeError`, or `DeadlineError` if the reading was stopped."""
        accepted = {"Accept": "text/plain; version=0.0.4; charset=utf-8"}
        request = urllib.request.Request(self._url, headers=accepted)  # noqa: S310 - `__init__` checks the scheme
        deadline = Deadline(TIMEOUT_SECONDS, stop=self._stop)
        try:
            answer = exchange(request, deadline, max_bytes=MAX_BYTES, socket_timeout=TIMEOUT_SECONDS)
        except DeadlineError as error:
            if error.stopped:
                raise
            raise ScrapeError(f"no complete answer within {TIMEOUT_SECONDS:g} s", document=self.shown) from error
        except TooLargeError as error:
            raise ScrapeError(error.message, document=self.shown) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ScrapeError(f"cannot be read: {reason_of(reason, 200)}", document=self.shown) from error
        arrived = time.time()
        if answer.status != _OK:
            raise ScrapeError(f"HTTP status {answer.status}, not 200", document=self.shown)
        try:
            return Scrape(arrived, parse_exposition(answer.body, self._wanted))
        except ExpositionError as error:
            message = f"not the metrics of an exporter: {error.message}"
            raise ScrapeError(message, document=self.shown) from error
