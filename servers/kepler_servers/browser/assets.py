"""The style sheet, the script and the icon of the pages."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from kepler_core.messages import quoted
from kepler_servers.browser.headers import SECURITY_HEADERS
from kepler_servers.http.answer import Answer, HttpError

PATH = "/ui/assets"
_TYPES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


@cache
def _content(name: str) -> bytes:
    return files(__package__).joinpath("assets", name).read_bytes()


@cache
def asset_url(name: str) -> str:
    """Return the URL of an asset.

    The URL changes with the content of the asset, so that browsers may cache the asset.
    """
    return f"{PATH}/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:12]}"


def asset(name: str) -> Answer:
    """Return the answer with an asset. Raises `HttpError` 404 if there is no asset with this name."""
    if name not in _TYPES:
        raise HttpError(404, f"no asset {quoted(name)}; the assets are {', '.join(_TYPES)}")
    headers = {
        "Content-Type": f"{_TYPES[name]}; charset=utf-8",
        "Cache-Control": "public, max-age=31536000, immutable",
        **SECURITY_HEADERS,
    }
    return Answer(200, headers, _content(name))
