"""Make the routes of web pages, for servers that serve an `App`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import bottle
import msgspec

from kepler_servers.browser import assets
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route

ENDPOINT = "pages"
"""Name of the endpoint in the metrics, for all pages together."""


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of every page."""

    lang: Literal["en", "de", "zh"] | None = None


def page_route(
    site: Site,
    path: str,
    handler: Callable[..., Answer],
    *,
    query: type[PageQuery] = PageQuery,
    guard: Callable[[bottle.BaseRequest], None] | None = None,
) -> Route:
    """Return the route of a page.

    The handler gets the `View` of the request, the query parameters as `query`, and the parameters of the path as
    keyword arguments. An error is also shown as a page.
    """

    def handle(**arguments: Any) -> Answer:
        return handler(View.of(site, bottle.request.environ), **arguments)

    return Route(
        "GET", path, ENDPOINT, handle, summary="A web page.",
        query=query, guard=guard, listed=False, error_page=site.error_page,
    )  # fmt: skip


def asset_route(site: Site) -> Route:
    """Return the route of the files that pages load."""
    return Route(
        "GET", f"{assets.PATH}/<name>", "assets", assets.asset, summary="A file that pages load.",
        listed=False, error_page=site.error_page,
    )  # fmt: skip
