"""Download the archive of a pipeline or a model from an http(s) URL."""

from __future__ import annotations

import http.client

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError
from kepler_core.errors import StoreError
from kepler_core.messages import reason_of, shortened
from kepler_core.store import safe_zip
from kepler_core.store.http_exchange import exchange
from kepler_core.urls import secrets_of, shown_url, split_url, without_secrets

SOCKET_TIMEOUT_SECONDS = 30
"""Maximum time to wait for the next bytes of a response."""
DOWNLOAD_TIMEOUT_SECONDS = 900
"""Maximum time for a whole download."""

_REASON_CHARACTERS = 200


def download(url: str, *, seconds: float | None = None, max_bytes: int | None = None) -> bytes:
    """Return the content at an http(s) URL, or raise `StoreError` if it cannot be downloaded completely.

    `seconds` is the time limit of the whole download, by default `DOWNLOAD_TIMEOUT_SECONDS`. `max_bytes` is
    the maximum size of the content, by default `safe_zip.MAX_ARCHIVE_BYTES`.
    """
    where = shown_url(url)
    if "@" in split_url(url).netloc:
        raise StoreError(f"{where}: user and password in a URL are not supported")
    deadline = Deadline(DOWNLOAD_TIMEOUT_SECONDS if seconds is None else seconds)
    limit = safe_zip.MAX_ARCHIVE_BYTES if max_bytes is None else max_bytes
    try:
        answer = exchange(url, deadline, max_bytes=limit, socket_timeout=SOCKET_TIMEOUT_SECONDS)
    except DeadlineError as error:
        raise StoreError(f"{where}: the download is {error.message}") from error
    except TooLargeError as error:
        raise StoreError(f"{where}: larger than {limit} bytes") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StoreError(f"{where}: {_reason(getattr(error, 'reason', error), url)}") from error
    if 300 <= answer.status < 400:
        raise StoreError(f"{where}: the server redirects in a circle, or to a URL that is not http(s)")
    if answer.status >= 400:
        raise StoreError(f"{where}: the server answers {answer.status} {_reason(answer.reason, url)}")
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != len(answer.body):
        raise StoreError(f"{where}: {len(answer.body)} of {length} bytes arrived")
    return answer.body


def _reason(error: object, url: str) -> str:
    return shortened(without_secrets(reason_of(error), secrets_of(url)), _REASON_CHARACTERS)
