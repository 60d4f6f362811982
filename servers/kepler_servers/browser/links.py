"""URLs of the endpoints of a server."""

from __future__ import annotations

from urllib.parse import quote


def endpoint(*parts: str) -> str:
    """Return the URL of an endpoint without parameters.

    The first part is a path. The further parts are names, in which every special character is encoded.
    """
    return "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])
