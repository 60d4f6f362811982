"""Check the headers Host and Origin, to protect a server on a loopback address from web pages.

A web page in a browser on this machine can send requests to the server in two ways:

- It sends a cross-site request. The header Origin then contains the host of the page.
- It uses DNS rebinding: the host name of the page is resolved to the loopback address. The header Host then contains
  the host name of the page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from kepler_core.messages import quoted
from kepler_core.urls import is_loopback
from kepler_servers.http.answer import HttpError


def check_host(environ: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Check that the headers Host and Origin name a loopback address or an allowed host. Otherwise, raise `HttpError`
    403.

    Origin may be missing. A request without Host is accepted, because browsers always send Host.
    """
    for header, prefix in (("Host", "//"), ("Origin", "")):
        value = environ.get(f"HTTP_{header.upper()}")
        if value is not None and not _is_allowed(prefix + value, allowed):
            message = f"{header} {quoted(value)} is not allowed; start the server with --allow-host to allow a host"
            raise HttpError(HTTPStatus.FORBIDDEN, message)


def _is_allowed(url: str, allowed: Collection[str]) -> bool:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host is not None and (is_loopback(host) or host in allowed)
