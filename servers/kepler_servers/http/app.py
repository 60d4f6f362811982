"""What the HTTP servers have in common: handlers that return an `Answer`, errors as JSON, each request counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import attrs
import bottle
import msgspec

from kepler_core.errors import KeplerError, RequestError

log = logging.getLogger(__name__)

RETRY_LATER = {"Retry-After": "10"}
"""Comes with status 503."""


@attrs.frozen
class Answer:
    """A body, or an open file that is sent from the disk, and what to say about it."""

    body: bytes | BinaryIO
    content_type: str
    headers: Mapping[str, str] = attrs.field(factory=dict)
    status: int = 200

    def header_list(self) -> list[tuple[str, str]]:
        """All that is said about the body."""
        return [("Content-Type", self.content_type), *self.headers.items()]


class AnswerError(Exception):
    """Raised by a handler: the answer is a status other than 200 with this content."""

    def __init__(self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content.get("msg", ""))
        self.status = status
        self.content = content
        self.headers = headers or {}


class NotFoundError(AnswerError):
    """There is nothing under that path."""

    def __init__(self, message: str) -> None:
        super().__init__(404, {"msg": message})


Handler = Callable[..., Answer]
Observe = Callable[[str, int, float], None]
"""Is told the endpoint, status and seconds of each answer."""


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Anything that msgspec can encode, as JSON."""
    return Answer(msgspec.json.encode(content), "application/json", headers or {}, status)


class Endpoints:
    """A bottle application (`app`) of handlers.

    A subclass says with `answer_to` what its own errors mean.
    """

    where_paths_are = "GET /openapi.json lists them"
    """What is said of a path that is none."""

    def __init__(self, what: str, observe: Observe) -> None:
        """`what` it is, for messages: "the model server"."""
        self._what = what
        self._observe = observe
        self.app = bottle.Bottle()
        self.app.config["catchall"] = False
        for status in (404, 405):
            self.app.error_handler[status] = self._json_error

    def route(self, method: str, path: str, name: str, handler: Handler) -> None:
        """Answer a path; `name` is the endpoint's in metrics."""
        self.app.route(path, method, self._counted(name, handler))

    def answer_to(self, error: KeplerError) -> Answer | None:
        """The answer that an error of this server means; None: none that the client caused."""
        return None

    def _counted(self, endpoint: str, handler: Handler) -> Callable[..., bytes | BinaryIO]:
        def handle(**arguments: str) -> bytes | BinaryIO:
            started = time.perf_counter()
            answer = self._guarded(endpoint, handler, arguments)
            response = bottle.response
            response.status = answer.status
            for name, value in answer.header_list():
                response.set_header(name, value)
            self._observe(endpoint, answer.status, time.perf_counter() - started)
            return answer.body

        return handle

    def _guarded(self, endpoint: str, handler: Handler, arguments: dict[str, str]) -> Answer:
        try:
            return handler(**arguments)
        except AnswerError as error:
            return json_answer(error.content, error.status, error.headers)
        except RequestError as error:
            return json_answer({"msg": str(error), "key": error.key}, 400)
        except KeplerError as error:
            if (answer := self.answer_to(error)) is not None:
                return answer
            # nothing that the client sent: the store is damaged or gone
            log.error("%s failed: %s", endpoint, error)
            return json_answer({"msg": str(error)}, 503, RETRY_LATER)
        except Exception:
            log.exception("%s failed; this is a defect of %s", endpoint, self._what)
            return json_answer({"msg": f"a defect of {self._what}; its log says more"}, 500)

    def _json_error(self, error: bottle.HTTPError) -> bytes:
        """bottle's own errors: no such path, no such method."""
        request = bottle.request
        bottle.response.content_type = "application/json"
        self._observe("other", error.status_code, 0.0)
        if error.status_code == 405:
            allowed = error.headers.get("Allow")
            text = f"{request.method[:20]} is not a method of {request.path[:200]}; allowed: {allowed}"
        else:
            text = f"no such path {request.path[:200]!r}; {self.where_paths_are}"
        return msgspec.json.encode({"msg": text})


def query(*known: str, of: Any = None) -> dict[str, str | None]:
    """The query's parameters (of the current request, or of the bottle request given); `RequestError` for
    one that is not known, not text, or there twice."""
    found = (bottle.request if of is None else of).query
    for key in found:
        if key not in known:
            raise RequestError(key[:60], f"unknown parameter; known: {', '.join(known)}")
        if len(found.getall(key)) > 1:
            raise RequestError(key, "given twice")
    return {key: found.get(key) or None for key in known}


def flag(parameters: Mapping[str, str | None], name: str) -> bool:
    """Whether a parameter is 1 or true; `RequestError` if it is neither that nor 0 or false."""
    value = parameters[name]
    if value not in (None, "0", "1", "false", "true"):
        raise RequestError(name, f"{value[:60]!r} is not 1 or 0")
    return value in ("1", "true")


def whole(parameters: Mapping[str, str | None], key: str, lowest: int, highest: int) -> int | None:
    """A parameter that is a whole number; `RequestError` for anything else."""
    value = parameters[key]
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and lowest <= int(value) <= highest):
        raise RequestError(key, f"{value[:60]!r} is not a whole number between {lowest} and {highest}")
    return int(value)
