"""The web page about the health of the model server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.urls import shown_location
from kepler_servers.browser.page_routes import PageQuery, page_route
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route
from kepler_servers.live_catalogue import LiveCatalogue

MAX_SHOWN_PIPELINES = 200


class HealthPage:
    """The page about the server's health."""

    def __init__(self, site: Site, live: LiveCatalogue, health: Callable[[], msgspec.Struct]) -> None:
        """`health` returns the JSON object of `GET /healthz`."""
        self._site = site
        self._live = live
        self._health = health
        self._started = time.time()

    def routes(self) -> list[Route]:
        """Return the route of the page about the server's health."""
        return [page_route(self._site, "/ui/health", self.health)]

    def health(self, view: View, query: PageQuery) -> Answer:
        """Answer a request for the page with the state of the server, its store and its pipelines."""
        health: dict[str, Any] = msgspec.to_builtins(self._health())
        live = self._live
        return view.answer(
            "health.html.j2", health=health, store=shown_location(live.store.location), looked_at=live.looked_at,
            changed_at=live.changed_at, started=self._started, memory=_resident_bytes() / 2**20,
            pipelines=list(health["pipelines"].items())[:MAX_SHOWN_PIPELINES],
        )  # fmt: skip


def _resident_bytes() -> int:
    """Return the resident memory of this process in bytes, from /proc (VmRSS in proc(5)); 0 if it is unknown."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0
