"""The OpenAPI document of a server, generated from its routes and their types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from kepler_core import __version__
from kepler_servers.http.params import parameters
from kepler_servers.http.route import JsonSchema, Returns, Route
from kepler_servers.http.text_values import FLAGS

_REFERENCE = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"<(\w+)>")
_JSON = "application/json"

_ERRORS = {
    400: "The request is invalid; the message names the wrong part.",
    401: "The token is missing or wrong.",
    403: "The header Host or Origin names a host that is not allowed.",
    404: "The path or object does not exist, or nothing fits the request; the message gives the reason.",
    408: "The body did not arrive in time.",
    409: "The current state does not allow the request: the request comes too late, or too early.",
    410: "The requested object existed, but was removed.",
    413: "The body is too large.",
    415: "The body has an unknown encoding.",
    422: "The request is well formed, but cannot be carried out.",
    500: "A defect of the server; its log has the details.",
    503: "Temporarily unavailable: too much work, shutting down, or the store cannot be used.",
    507: "The disk is full.",
}


def document(title: str, description: str, routes: Sequence[Route], error: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the OpenAPI document that describes all routes whose attribute `listed` is true.

    `error` is the type of the JSON body of answers with a status other than 2xx.
    """
    routes = [route for route in routes if route.listed]
    schemas = _Schemas([error, *(kind for route in routes for kind in _types(route))])
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas, schemas[error])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


class _Schemas:
    """The JSON Schemas of the types that the routes use.

    `components` contains the schemas that other schemas reference by name.
    """

    def __init__(self, kinds: Sequence[Any]) -> None:
        types = [kind for kind in kinds if not isinstance(kind, JsonSchema)]
        schemas, self.components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        self._schemas = list(zip(types, schemas, strict=True))
        for kind in kinds:
            if isinstance(kind, JsonSchema):
                self.components |= kind.components

    def __getitem__(self, kind: Any) -> Mapping[str, Any]:
        if isinstance(kind, JsonSchema):
            return kind.schema
        return {} if kind is bytes else next(schema for of, schema in self._schemas if of == kind)


def _returns(route: Route) -> Sequence[Returns]:
    if isinstance(route.returns, Sequence):
        return route.returns
    return [Returns({_JSON: route.returns})]


def _types(route: Route) -> Iterator[Any]:
    for returns in _returns(route):
        yield from (kind for kind in returns.content.values() if kind is not bytes)
    if route.body is not None:
        yield route.body


def _operation(route: Route, schemas: _Schemas, error: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary}
    if described := [
        *_path_parameters(route),
        *_parameters(route.query, "query"),
        *_parameters(route.headers, "header"),
    ]:
        operation["parameters"] = described
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[route.body]}}}
        if route.body_description is not None:
            operation["requestBody"]["description"] = route.body_description
    errors = {*route.errors, *((400,) if route.query is not None else ())}
    operation["responses"] = {
        **{str(returns.status): _response(returns, schemas) for returns in _returns(route)},
        **{
            str(status): {"description": _ERRORS[status], "content": {_JSON: {"schema": error}}}
            for status in sorted(errors)
        },
    }
    return operation


def _response(returns: Returns, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": returns.description,
        "content": {media_type: {"schema": schemas[kind]} for media_type, kind in returns.content.items()},
    }
    if returns.headers:
        response["headers"] = {
            name: {"schema": {"type": "string"}, "description": description}
            for name, description in returns.headers.items()
        }
    return response


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _PATH_PARAMETER.findall(route.path):
        described: dict[str, Any] = {"name": name, "in": "path", "required": True}
        if name in route.parameters:
            described["description"] = route.parameters[name]
        yield described | {"schema": {"type": "string", "minLength": 1}}


def _parameters(kind: type[msgspec.Struct] | None, place: str) -> Iterator[dict[str, Any]]:
    if kind is None:
        return
    _, components = msgspec.json.schema_components([kind])
    properties = components[kind.__name__]["properties"]
    for parameter in parameters(kind):
        schema = _without_null(properties[parameter.name])
        text = schema.pop("description", None)
        if isinstance(parameter.kind, inspect.BoolType):
            schema = {"enum": list(FLAGS)}
        if "enum" in schema and not parameter.required:
            schema["enum"] = [*schema["enum"], ""]  # the empty text is allowed, and counts as an absent parameter
        described: dict[str, Any] = {"name": parameter.name, "in": place, "schema": schema}
        if parameter.required:
            described["required"] = True
        if text is not None:
            described["description"] = text
        yield described


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter without the type null, because a parameter can be absent, but cannot be null."""
    own = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            own |= choice
    if schema.get("default") is not None:
        own["default"] = schema["default"]
    return own
