"""Routes as a bottle application: it encodes typed answers and errors as JSON, and counts each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import bottle
import msgspec

from kepler_core.errors import KeplerError, RequestError
from kepler_servers.http.answer import RETRY_LATER, Answer, Deferred, HttpError, json_answer
from kepler_servers.http.openapi import document
from kepler_servers.http.params import read_headers, read_query
from kepler_servers.http.route import Route
from kepler_servers.http.uploads import Upload

log = logging.getLogger(__name__)

Environ = dict[str, Any]
Observe = Callable[[str, int, float], None]
"""Called with the endpoint, the status and the seconds of each answer."""

UPLOAD = "kepler.upload"
"""Key of the request's `Upload` in the WSGI environment."""
DEFERRED = "kepler.deferred"
"""Key of the WSGI environment for a `Deferred`. A server that can wait for it without a thread sets the key to None
before it calls the application."""

OTHER_ENDPOINT = "other"
"""The endpoint, in metrics, of requests that reach no handler."""


class Error(msgspec.Struct, omit_defaults=True):
    """The JSON body of an answer with a status other than 2xx."""

    msg: str
    """One line: what is wrong and what would be right."""
    key: str | msgspec.UnsetType = msgspec.UNSET
    """The part of the request that is wrong."""


class App:
    """A WSGI application of routes. bottle finds the route; this class calls its handler."""

    def __init__(
        self,
        name: str,
        routes: Iterable[Route],
        *,
        observe: Observe,
        description: str = "",
        error: type[msgspec.Struct] = Error,
        http_error: Callable[[KeplerError], HttpError | None] = lambda error: None,
        openapi: bool = True,
    ) -> None:
        """`name` is the name of the server, e.g. "model server". `error` is the type of an error's body, for the
        OpenAPI document. `http_error` translates a `KeplerError` for the client; None stands for status 503.
        `openapi`: serve the document under `/openapi.json`."""
        self.name = name
        self.observe = observe
        self._description = description
        self._error = error
        self._http_error = http_error
        self.routes: Sequence[Route] = [*routes, *([self._openapi_route()] if openapi else ())]
        self.wsgi = bottle.Bottle()
        self.wsgi.config["catchall"] = False
        for route in self.routes:
            self.wsgi.route(route.path, route.method, self._callback(route))
        for status in (404, 405):
            self.wsgi.error_handler[status] = self._no_route

    def http_error(self, error: Exception, what: str) -> HttpError:
        """Translate an exception for the client, and log it if the client cannot mend it. `what` has failed."""
        if isinstance(error, HttpError):
            return error
        if isinstance(error, RequestError):
            return HttpError(400, str(error), key=error.key)
        if isinstance(error, KeplerError):
            if (client_error := self._http_error(error)) is not None:
                return client_error
            # e.g. the store is damaged or missing
            log.error("%s failed: %s", what, error)
            return HttpError(503, str(error), RETRY_LATER)
        log.error("%s failed; this is a defect of the %s", what, self.name, exc_info=error)
        return HttpError(500, f"a defect of the {self.name}; its log says more")

    def _callback(self, route: Route) -> Callable[..., bytes | BinaryIO]:
        """Return what bottle calls for a route."""

        def callback(**path_parameters: str) -> bytes | BinaryIO:
            started = time.perf_counter()
            environ = bottle.request.environ
            answer = self._answer(route, lambda: route.handler(**path_parameters, **_arguments(route)), started)
            if isinstance(answer, Deferred) and DEFERRED in environ:
                environ[DEFERRED] = answer
                return b""
            while isinstance(answer, Deferred):
                wait([answer.future])
                answer = answer.then()
            return _send(answer)

        return callback

    def _answer(self, route: Route, call: Callable[[], Any], started: float) -> Answer | Deferred:
        try:
            answer = _complete(call())
        except Exception as error:
            answer = self.http_error(error, route.name).answer()
        if isinstance(answer, Deferred):
            then = answer.then
            return Deferred(answer.future, lambda: self._answer(route, then, started))
        self.observe(route.name, answer.status, time.perf_counter() - started)
        return answer

    def _no_route(self, error: bottle.HTTPError) -> bytes | BinaryIO:
        """Answer what bottle raises for an unknown path and for a method that the path does not have."""
        request = bottle.request
        self.observe(OTHER_ENDPOINT, error.status_code, 0.0)
        if error.status_code == 405:
            allowed = error.headers.get("Allow")
            message = f"{request.method[:20]} is not a method of {request.path[:200]}; allowed: {allowed}"
        else:
            message = f"no such path {request.path[:200]!r}; {self._where_paths_are}"
        return _send(HttpError(error.status_code, message).answer())

    @cached_property
    def _where_paths_are(self) -> str:
        """The hint at the end of 404 messages."""
        paths = [route.path for route in self.routes]
        if "/openapi.json" in paths:
            return "GET /openapi.json lists them"
        return f"there are {' and '.join(paths)}"

    def _openapi_route(self) -> Route:
        summary = "Return this document."
        return Route("GET", "/openapi.json", "openapi", self._openapi, summary=summary, returns=dict[str, Any])

    def _openapi(self) -> Answer:
        return self._document

    @cached_property
    def _document(self) -> Answer:
        return json_answer(document(f"Kepler Core {self.name}", self._description, self.routes, self._error))


def _arguments(route: Route) -> dict[str, Any]:
    """Return the handler's arguments besides the path's parameters."""
    request = bottle.request
    if route.guard is not None:
        route.guard(request)
    arguments: dict[str, Any] = {}
    if route.query is not None:
        arguments["query"] = read_query(route.query, request)
    if route.headers is not None:
        arguments["headers"] = read_headers(route.headers, request)
    if route.upload is not None:
        arguments["upload"] = _upload(route, request.environ)
    elif route.body is not None:
        arguments["body"] = request.environ["wsgi.input"].read(int(request.environ.get("CONTENT_LENGTH") or 0))
    return arguments


def _send(answer: Answer) -> bytes | BinaryIO:
    """Hand an answer to bottle, which sends what this returns."""
    response = bottle.response
    response.status = answer.status
    for name, value in answer.headers.items():
        response.set_header(name, value)
    return answer.body.open("rb") if isinstance(answer.body, Path) else answer.body


def _upload(route: Route, environ: Environ) -> Upload:
    if UPLOAD not in environ:  # bottle decodes %xx in paths, the adapter compares them undecoded
        raise HttpError(404, f"no such path; {route.method} {route.path}")
    upload: Upload = environ[UPLOAD]
    return upload


def _complete(content: Any) -> Answer | Deferred:
    if not isinstance(content, Answer):
        return content if isinstance(content, Deferred) else json_answer(content)
    if isinstance(content.body, Path) and "Content-Length" not in content.headers:
        headers = {**content.headers, "Content-Length": str(content.body.stat().st_size)}
        return attrs.evolve(content, headers=headers)
    return content
