"""URLs of stores and pipelines: recognise them, split them, and show them without secrets."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from kepler_core.errors import StoreError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return _URL.match(location) is not None


def shown_url(url: str) -> str:
    """Return a URL for messages, without the parts that may be secret: user, password and query."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url)[0])


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL; `StoreError` if it is malformed."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise StoreError(f"{shown_url(url)}: not a URL: {error}") from error
