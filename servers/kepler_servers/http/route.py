"""An endpoint: its path, its handler, and the types that describe it in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import bottle
import msgspec

from kepler_servers.http.uploads import Upload

BeginUpload = Callable[[bottle.BaseRequest, int | None], Upload]
"""Returns the `Upload` for a request and its Content-Length, which is None for a body of unknown length. It may raise
what a handler may raise: then the body is not read."""


@attrs.frozen
class JsonSchema:
    """A JSON Schema for a body that msgspec has no type for."""

    schema: Mapping[str, Any]
    components: Mapping[str, Any] = attrs.field(factory=dict)
    """The schemas that it references as `#/components/schemas/<name>`, by name."""


@attrs.frozen
class Returns:
    """One kind of answer of an endpoint, as the OpenAPI document describes it."""

    content: Mapping[str, Any]
    """Media type -> type of the content. `bytes` stands for any content."""
    status: int = 200
    description: str = "The answer."
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """Name -> description."""


@attrs.frozen
class Route:
    """An endpoint.

    The handler gets the path's parameters by their names, and `query`, `headers`, `body` and `upload` if the route
    has them. It returns an `Answer`, a `Deferred`, or a value that becomes the JSON body of an answer with status
    200. It raises `HttpError` or a `KeplerError`.
    """

    method: str
    path: str
    """As bottle writes it: `/jobs/<job>`."""
    name: str
    """The endpoint's name in metrics."""
    handler: Callable[..., Any]
    summary: str = attrs.field(kw_only=True)
    """One sentence for the OpenAPI document."""
    guard: Callable[[bottle.BaseRequest], None] | None = attrs.field(default=None, kw_only=True)
    """Called before anything of the request is read. Rejects the request by raising what a handler may raise."""
    query: type[msgspec.Struct] | None = attrs.field(default=None, kw_only=True)
    """Parameters of the query string; see `params`."""
    headers: type[msgspec.Struct] | None = attrs.field(default=None, kw_only=True)
    """Headers that the handler reads; see `params`."""
    body: Any = attrs.field(default=None, kw_only=True)
    """Type of the JSON body, or a `JsonSchema`. The handler gets the undecoded bytes."""
    body_description: str | None = attrs.field(default=None, kw_only=True)
    upload: BeginUpload | None = attrs.field(default=None, kw_only=True)
    """Set for a large body: it goes into an `Upload` while it arrives, and the handler gets the `Upload`."""
    returns: Any = attrs.field(default=None, kw_only=True)
    """Type of the JSON body of an answer with status 200, or a sequence of `Returns`."""
    errors: Sequence[int] = attrs.field(default=(), kw_only=True)
    """Statuses other than 2xx. 400 is added for a route with `query`."""
    quick: bool = attrs.field(default=False, kw_only=True)
    """Let the event loop call the handler. This is for handlers that take microseconds and never wait, on paths without
    parameters."""
