"""URLs of stores, pipelines, models and servers: recognise them, split them, and show them without secrets.

Users write passwords and tokens into URLs. Every log line, error, status, metric and report shows URLs as
`shown_url` returns them, and error messages of libraries as `without_secrets` returns them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from kepler_core.errors import StoreError

MIN_SECRET_CHARACTERS = 4
"""Minimum length of a secret that is searched for in texts. Shorter secrets would occur in most texts by chance."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_SCHEME = re.compile(r"(?:.*?[A-Za-z0-9+.-]:)?/{2,}|[A-Za-z][A-Za-z0-9+.-]*:/|")
_QUERY = re.compile(r"[?#]")
_HIDDEN = "***"


def is_url(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return _URL.match(location) is not None


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address, which other machines cannot reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_file_url(location: str) -> bool:
    """Return whether a location is a URL of a local file or folder."""
    return location[:7].lower() == "file://"


def file_path(url: str) -> str:
    """Return the path in a file URL. Raises `StoreError` if the URL is malformed."""
    return unquote(split_url(url).path)


def location_parts(location: str) -> list[str]:
    """Return the names between the slashes of a path or of a URL's path; the last one is the name of the file."""
    path = unquote(split_url(location).path) if is_url(location) else location
    return path.split("/")


def beside(location: str, name: str, *, up: int = 0) -> str:
    """Return the location of the file `name` in the folder of the file `location`, or `up` levels above this folder."""
    url = split_url(location) if is_url(location) else None
    folders = (location if url is None else url.path).split("/")[: -1 - up]
    path = "/".join([*folders, name if url is None else quote(name)])
    return path if url is None else url._replace(path=path).geturl()


def shown_url(url: str) -> str:
    """Return a URL for messages, without the parts that may be secret: user, password, query and fragment.

    A password with an unquoted `/`, `?` or `#` is left out, too.
    """
    scheme, _, rest = _split_userinfo(url)
    return scheme + _QUERY.split(rest, maxsplit=1)[0]


def shown_location(location: str) -> str:
    """Return a location for messages: a URL without its secrets, or a path unchanged."""
    return shown_url(location) if is_url(location) else location


def secrets_of(url: str) -> list[str]:
    """Return the texts in a URL that may be secret: user, password, query, and the values in the query."""
    _, userinfo, rest = _split_userinfo(url)
    user, _, password = userinfo.partition(":")
    query = rest[len(_QUERY.split(rest, maxsplit=1)[0]) + 1 :]
    values = [value for _, value in parse_qsl(query)]
    return [text for text in (userinfo, user, password, unquote(user), unquote(password), query, *values) if text]


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text from a library or server without secrets: they become ***, and URLs are changed by `shown_url`."""
    text = _URL_IN_TEXT.sub(lambda match: shown_url(match[0]), text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARACTERS:
            text = text.replace(secret, _HIDDEN)
    return text


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL, or raise `StoreError` if the URL is malformed."""
    try:
        return urlsplit(url)
    except ValueError as error:
        # The error's text is left out, because it may contain the user and the password.
        raise StoreError(f"{shown_url(url)}: not a URL") from error


def _split_userinfo(url: str) -> tuple[str, str, str]:
    """Split a URL into three parts: the scheme with its slashes, the user and password, and the remaining text."""
    match = _SCHEME.match(url)
    scheme = match[0] if match is not None else ""
    rest = url[len(scheme) :]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        userinfo = host.rpartition("@")[0]
    elif "@" in rest and re.search(r":(?!\d*$)", host):  # in me:a/b@server, a/b is the password
        userinfo = rest.rpartition("@")[0]
    else:
        return scheme, "", rest
    return scheme, userinfo, rest[len(userinfo) + 1 :]
