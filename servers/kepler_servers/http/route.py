"""An endpoint: its path, its handler, and the types that describe it in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import bottle
import msgspec

from kepler_servers.http.answer import Answer, HttpError
from kepler_servers.http.uploads import Upload

BeginUpload = Callable[[bottle.BaseRequest, int | None], Upload]
"""Function that returns the `Upload` for a request. Its second argument is the Content-Length, or None if the length of
the body is unknown. Like a handler, the function may refuse the body by raising `HttpError` or `KeplerError`."""


@attrs.frozen
class JsonSchema:
    """A JSON Schema for a body whose type cannot be declared with msgspec."""

    schema: Mapping[str, Any]
    components: Mapping[str, Any] = attrs.field(factory=dict)
    """The schemas that `schema` references as `#/components/schemas/<name>`, by name."""


@attrs.frozen
class Returns:
    """One kind of answer of an endpoint, as the OpenAPI document describes it."""

    content: Mapping[str, Any]
    """Python type of the content, by media type. The type `bytes` stands for any content."""
    status: int = 200
    description: str = "The answer."
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """Descriptions of the response headers, by name."""


@attrs.frozen
class Route:
    """An HTTP endpoint and its handler.

    The handler gets the parameters of the path as keyword arguments. It also gets the arguments `query`, `headers`,
    `body` and `upload` if these attributes of the route are set. It returns an `Answer`, a `Deferred`, or another
    value, which becomes the JSON body of an answer with status 200. For errors it raises `HttpError` or `KeplerError`.
    """

    method: str
    path: str
    """Path of the endpoint in bottle's syntax, e.g. `/jobs/<job>`."""
    name: str
    """Name of the endpoint in metrics."""
    handler: Callable[..., Any]
    summary: str = attrs.field(kw_only=True)
    """One sentence that describes the endpoint in the OpenAPI document."""
    guard: Callable[[bottle.BaseRequest], None] | None = attrs.field(default=None, kw_only=True)
    """Function that is called before the parameters and the body of a request are decoded. It rejects the request by
    raising `HttpError` or `KeplerError`."""
    query: type[msgspec.Struct] | None = attrs.field(default=None, kw_only=True)
    """Struct whose fields declare the parameters of the query string; see the module `params`."""
    parameters: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    """Descriptions of the parameters in the path, by name, for the OpenAPI document."""
    headers: type[msgspec.Struct] | None = attrs.field(default=None, kw_only=True)
    """Struct whose fields declare the headers that the handler reads; see the module `params`."""
    body: Any = attrs.field(default=None, kw_only=True)
    """Type or `JsonSchema` of the JSON body, for the OpenAPI document. The handler gets the body as undecoded bytes."""
    body_description: str | None = attrs.field(default=None, kw_only=True)
    upload: BeginUpload | None = attrs.field(default=None, kw_only=True)
    """Function that begins an `Upload`, for endpoints with large bodies. The body is written into the `Upload` while it
    arrives. When the body is complete, the handler gets the `Upload`."""
    returns: Any = attrs.field(default=None, kw_only=True)
    """Type of the JSON body of an answer with status 200, or a sequence of `Returns`; for the OpenAPI document."""
    errors: Sequence[int] = attrs.field(default=(), kw_only=True)
    """Statuses of error answers, for the OpenAPI document. Status 400 is added if the route has query parameters."""
    quick: bool = attrs.field(default=False, kw_only=True)
    """Whether the event loop itself calls the handler, instead of a thread. Set `quick` only if the handler takes
    microseconds and never waits, and if the path has no parameters."""
    listed: bool = attrs.field(default=True, kw_only=True)
    """Whether the OpenAPI document describes the endpoint. The value is False for web pages."""
    error_page: Callable[[HttpError, Mapping[str, Any]], Answer] | None = attrs.field(default=None, kw_only=True)
    """Function that makes the answer to a request that failed. It gets the error and the WSGI environment of the
    request. If it is None, the answer is a JSON object."""
