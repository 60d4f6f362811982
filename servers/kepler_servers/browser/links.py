"""URLs of the endpoints of a server."""

from __future__ import annotations

from urllib.parse import quote


def endpoint(*parts: str) -> str:
    """Return the URL path of an endpoint, without query parameters.

    The first part is a path. All further parts are names, whose special characters are encoded as %xx.
    """
    return "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])
