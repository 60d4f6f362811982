"""All pages of the model server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kepler_servers.browser.page_routes import asset_route
from kepler_servers.browser.pages.api_page import ApiPage
from kepler_servers.browser.pages.health_page import HealthPage
from kepler_servers.browser.pages.machine_page import MachinePage
from kepler_servers.browser.pages.model_pages import ModelPages
from kepler_servers.browser.pages.selection_page import SelectionPage
from kepler_servers.browser.view import Site
from kepler_servers.http.route import Route
from kepler_servers.live_catalogue import LiveCatalogue

SITE = Site(
    "model_server",
    (
        ("pipelines", "/"),
        ("models", "/ui/models"),
        ("select", "/ui/select"),
        ("machines", "/ui/machines"),
        ("health", "/ui/health"),
        ("api", "/docs"),
    ),
)

_EXAMPLE = {
    "metrics": ["bpf_cpu_time_ms", "bpf_page_cache_hit"], "output_type": "AbsPower",
    "machine_spec": {"processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2, "memory": 381},
}  # fmt: skip


def model_browser(
    live: LiveCatalogue,
    *,
    model_path: str,
    health: Callable[[], msgspec.Struct],
    document: Callable[[], Mapping[str, Any]],
) -> list[Route]:
    """Return the routes of all pages of the model server, and of the files that the pages load.

    `model_path` is the path of the endpoint for models. `health` returns the JSON object of `GET /healthz`, and
    `document` returns the OpenAPI document.
    """
    return [
        *ModelPages(SITE, live).routes(),
        *SelectionPage(SITE, live, model_path).routes(),
        *MachinePage(SITE, live).routes(),
        *HealthPage(SITE, live, health).routes(),
        *ApiPage(SITE, document, examples={model_path: _EXAMPLE}).routes(),
        asset_route(SITE),
    ]
