"""What a handler returns or raises: an answer, an answer that follows later, an HTTP error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import msgspec

RETRY_LATER = {"Retry-After": "10"}
"""Headers of an answer with status 503."""


@attrs.frozen
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Path
    """The content, or the file that holds it: files are sent from the disk."""


@attrs.frozen
class Deferred:
    """An answer that follows when a future is done. No thread waits for it."""

    future: Future[Any]
    then: Callable[[], Answer | Deferred]
    """Called in a thread after the future is done. It may raise what a handler may raise."""


class HttpError(Exception):
    """An error that the client sees: a status and a JSON object with `msg` and further fields."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.fields = fields

    def answer(self) -> Answer:
        """Return the answer that reports this error."""
        return json_answer({"msg": self.message, **self.fields}, self.status, self.headers)


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with the content as JSON; msgspec must be able to encode it."""
    return Answer(status, {"Content-Type": "application/json", **(headers or {})}, msgspec.json.encode(content))
