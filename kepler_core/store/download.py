"""Download the archive of a pipeline or a model from an http(s) URL."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any

from kepler_core.errors import StoreError
from kepler_core.messages import reason_of
from kepler_core.store.safe_zip import read_archive_file
from kepler_core.store.urls import shown_url, split_url

SOCKET_TIMEOUT_SECONDS = 30
"""Longest wait for the next bytes."""
DOWNLOAD_TIMEOUT_SECONDS = 900
"""Longest time for a whole download."""

_REASON_CHARACTERS = 200


def download(url: str) -> bytes:
    """Return the content at an http(s) URL; `StoreError` if it cannot be downloaded completely."""
    where = shown_url(url)
    if "@" in split_url(url).netloc:
        raise StoreError(f"{where}: user and password in a URL are not supported")
    try:
        with _opener().open(url, timeout=SOCKET_TIMEOUT_SECONDS) as response:
            content = read_archive_file(response, where, DOWNLOAD_TIMEOUT_SECONDS)
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) != len(content):
                raise StoreError(f"{where}: {len(content)} of {length} bytes came")
            return content
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise StoreError(f"{where}: redirects in a circle, or to a URL that is not http(s)") from error
        reason = reason_of(error.reason, _REASON_CHARACTERS)
        raise StoreError(f"{where}: the server answers {error.code} {reason}") from error
    except urllib.error.URLError as error:
        raise StoreError(f"{where}: {reason_of(error.reason, _REASON_CHARACTERS)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StoreError(f"{where}: {reason_of(error, _REASON_CHARACTERS)}") from error


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects to http(s) only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if split_url(newurl).scheme.lower() not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, "not http(s)", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener with the handlers for http(s) only: urllib's default opener also reads local files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpRedirects(),
    ):
        opener.add_handler(handler)
    return opener
