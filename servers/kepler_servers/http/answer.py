"""The types that a handler returns or raises: a complete answer, a deferred answer, or an HTTP error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import msgspec

_HEADER_CHARACTERS = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")

RETRY_LATER = {"Retry-After": "10"}
"""Headers of an answer with status 503: the client should retry after 10 seconds."""


@attrs.frozen
class Answer:
    """A complete answer to an HTTP request."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Path
    """The content as bytes, or the path of a file that contains it. The server sends a file directly from the disk."""


@attrs.frozen
class Deferred:
    """An answer that will be made when a future is done. No thread waits for the future."""

    future: Future[Any]
    then: Callable[[], Answer | Deferred]
    """Function that makes the answer. It is called in a thread after the future is done, and may raise `HttpError` or
    `KeplerError`, like a handler."""


class HttpError(Exception):
    """An error that is sent to the client: a status, and a JSON object with the key `msg` and further keys."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.fields = fields

    def answer(self) -> Answer:
        """Return the HTTP answer that reports this error."""
        return json_answer({"msg": self.message, **self.fields}, self.status, self.headers)


def attachment(name: str) -> str:
    """Return the header Content-Disposition for a file name: RFC 6266, with the encoding of RFC 8187 if necessary."""
    if re.fullmatch(r"[A-Za-z0-9._-]+", name):
        return f'attachment; filename="{name}"'
    ascii_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"


def header_text(text: str) -> str:
    """Return a text as a header value: only printable ASCII characters stay, all others and "%" are encoded as %xx."""
    return quote(text, safe=_HEADER_CHARACTERS)


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer whose body is the content as JSON. The content must be of a type that msgspec can encode."""
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, msgspec.json.encode(content))
