"""The WSGI application that serves routes. It uses bottle for routing, and encodes answers and errors as JSON."""

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
"""Function that is called for each answer, with the endpoint, the status and the duration in seconds."""

UPLOAD = "kepler.upload"
"""Key of the WSGI environment that holds the `Upload` of a request with a large body."""
DEFERRED = "kepler.deferred"
"""Key of the WSGI environment. A server that can wait for a `Deferred` without a thread sets the key to None before it
calls the application. The application may then store a `Deferred` under the key."""

OTHER_ENDPOINT = "other"
"""Value of the metrics' label `endpoint` for requests that reach no handler."""


class Error(msgspec.Struct, omit_defaults=True):
    """The JSON body of an answer with a status other than 2xx."""

    msg: str
    """One line that states what is wrong and how to correct it."""
    key: str | msgspec.UnsetType = msgspec.UNSET
    """The wrong part of the request: the path of a key in the JSON body, or the name of a parameter or header."""


class App:
    """A WSGI application that serves routes.

    bottle finds the route of a request, and `App` calls the handler of the route.
    """

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
        check: Callable[[Environ], None] | None = None,
    ) -> None:
        """`name` is the name of the server, e.g. "model server". `error` is the type of the JSON body of an error
        answer, for the OpenAPI document. `http_error` returns the HTTP error for a `KeplerError`; if it returns None,
        the client gets status 503. `openapi` tells whether the OpenAPI document is served under `/openapi.json`.
        `check`, if it is given, is called before each handler, and may raise `HttpError`."""
        self._check = check
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
        """Return the HTTP error for an exception. Log the exception unless the client has caused it.

        `what` names the operation that has failed, for the log.
        """
        if isinstance(error, HttpError):
            return error
        if isinstance(error, RequestError):
            return HttpError(400, str(error), key=error.key)
        if isinstance(error, KeplerError):
            if (client_error := self._http_error(error)) is not None:
                return client_error
            # The client has not caused the error: for example, the store is damaged or missing.
            log.error("%s failed: %s", what, error)
            return HttpError(503, str(error), RETRY_LATER)
        log.error("%s failed; this is a defect of the %s", what, self.name, exc_info=error)
        return HttpError(500, f"a defect of the {self.name}; its log says more")

    def can_call(self, route: Route) -> bool:
        """Return whether the method `call` can answer requests to a route."""
        parts = (route.guard, route.headers, route.upload, route.error_page)
        return "<" not in route.path and all(part is None for part in parts) and self._check is None

    def call(self, route: Route, body: bytes) -> Answer | Deferred:
        """Answer a request without bottle and WSGI. The request must have no query, and exactly the path of the route.

        bottle takes a third of the time of a short request.
        """
        started = time.perf_counter()
        arguments: dict[str, Any] = {}
        if route.query is not None:
            arguments["query"] = route.query()
        if route.body is not None:
            arguments["body"] = body
        answer = self._answer(route, lambda: route.handler(**arguments), started, {})
        if isinstance(answer, Answer) and isinstance(answer.body, bytes):
            return attrs.evolve(answer, headers={**answer.headers, "Content-Length": str(len(answer.body))})
        return answer

    def _callback(self, route: Route) -> Callable[..., bytes | BinaryIO]:
        """Return the function that bottle calls for each request to a route."""

        def callback(**path_parameters: str) -> bytes | BinaryIO:
            started = time.perf_counter()
            environ = bottle.request.environ

            def handle() -> Any:
                if self._check is not None:
                    self._check(environ)
                return route.handler(**path_parameters, **_arguments(route))

            answer = self._answer(route, handle, started, environ)
            if isinstance(answer, Deferred) and DEFERRED in environ:
                environ[DEFERRED] = answer
                return b""
            while isinstance(answer, Deferred):
                wait([answer.future])
                answer = answer.then()
            return _send(answer)

        return callback

    def _answer(self, route: Route, call: Callable[[], Any], started: float, environ: Environ) -> Answer | Deferred:
        try:
            answer = _complete(call())
        except Exception as error:
            http_error = self.http_error(error, route.name)
            answer = http_error.answer() if route.error_page is None else route.error_page(http_error, environ)
        if isinstance(answer, Deferred):
            then = answer.then
            return Deferred(answer.future, lambda: self._answer(route, then, started, environ))
        self.observe(route.name, answer.status, time.perf_counter() - started)
        return answer

    def _no_route(self, error: bottle.HTTPError) -> bytes | BinaryIO:
        """Answer a request whose path is unknown (404), or whose method the path does not support (405)."""
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
        """Hint at the end of 404 messages: the valid paths, or the path of the document that lists them."""
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
        return json_answer(self.document)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document of the server."""
        return document(f"Kepler Core {self.name}", self._description, self.routes, self._error)


def _arguments(route: Route) -> dict[str, Any]:
    """Check a request with `route.guard`, and return the arguments for the handler, except the path parameters."""
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
    """Set the status and the headers of bottle's response. Return the body, which bottle then sends."""
    response = bottle.response
    response.status = answer.status
    for name, value in answer.headers.items():
        response.set_header(name, value)
    return answer.body.open("rb") if isinstance(answer.body, Path) else answer.body


def _upload(route: Route, environ: Environ) -> Upload:
    # The adapter begins an upload if the path is exactly the route's path. bottle also accepts a path in which
    # characters are encoded as %xx. For such a path, there is no upload.
    if UPLOAD not in environ:
        raise HttpError(404, f"no such path; there is {route.method} {route.path}")
    upload: Upload = environ[UPLOAD]
    return upload


def _complete(content: Any) -> Answer | Deferred:
    if not isinstance(content, Answer):
        return content if isinstance(content, Deferred) else json_answer(content)
    if isinstance(content.body, Path) and "Content-Length" not in content.headers:
        headers = {**content.headers, "Content-Length": str(content.body.stat().st_size)}
        return attrs.evolve(content, headers=headers)
    return content
