"""The page that describes the endpoints of a server, from the server's OpenAPI document."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from kepler_servers.browser.page_routes import PageQuery, page_route
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route
from kepler_servers.http.text_values import FLAGS

PATH = "/docs"
_MAX_DEPTH = 6


@attrs.frozen
class Member:
    """A parameter of an endpoint, or a key of a JSON object."""

    name: str
    type: str
    required: bool
    description: str
    place: str = ""
    """Place of a parameter: path, query or header; empty for a key of a JSON object."""


@attrs.frozen
class Response:
    """One kind of answer of an endpoint."""

    status: str
    description: str
    content: list[tuple[str, str]]
    """The forms that the answer may have: pairs of media type and type of the content."""
    headers: Mapping[str, str]


@attrs.frozen
class Endpoint:
    """An endpoint (a method and a path), as the page shows it."""

    method: str
    path: str
    summary: str
    members: list[Member]
    body: str
    """Type of the request's body; empty if the endpoint takes no body."""
    body_description: str
    responses: list[Response]
    command: str
    """A shell command that sends a request to the endpoint."""

    @property
    def anchor(self) -> str:
        """The fragment that identifies the endpoint in the URL of the page."""
        return "-".join([self.method.lower(), *(part.strip("{}.") for part in self.path.split("/") if part)])


@attrs.frozen
class ObjectType:
    """A JSON object that endpoints take or return."""

    name: str
    description: str
    members: list[Member]


class ApiPage:
    """The page with the endpoints of a server."""

    def __init__(
        self,
        site: Site,
        document: Callable[[], Mapping[str, Any]],
        *,
        examples: Mapping[str, Mapping[str, Any]],
        needs_token: Callable[[str], bool] = lambda path: False,
    ) -> None:
        """`document` returns the OpenAPI document. `examples` maps paths to example bodies. `needs_token` returns
        whether a request to a path must contain the server's token."""
        self._site = site
        self._document = document
        self._examples = examples
        self._needs_token = needs_token

    def routes(self) -> list[Route]:
        """Return the route of the page that describes the endpoints."""
        return [page_route(self._site, PATH, self.api)]

    def api(self, view: View, query: PageQuery) -> Answer:
        """Answer a request for the page with all endpoints and types."""
        document = self._document()
        return view.answer(
            "api.html.j2",
            title=document["info"]["title"],
            version=document["info"]["version"],
            description=document["info"]["description"],
            endpoints=list(self._endpoints(document, view.origin)),
            types=list(_object_types(document)),
        )

    def _endpoints(self, document: Mapping[str, Any], origin: str) -> Iterator[Endpoint]:
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                body = operation.get("requestBody", {})
                schemas = [content["schema"] for content in body.get("content", {}).values()]
                yield Endpoint(
                    method.upper(),
                    path,
                    operation["summary"],
                    [_parameter(parameter) for parameter in operation.get("parameters", ())],
                    _type_text(schemas[0]) if schemas else "",
                    body.get("description", ""),
                    [_response(status, response) for status, response in operation["responses"].items()],
                    self._command(method.upper(), path, origin, has_body=bool(schemas)),
                )

    def _command(self, method: str, path: str, origin: str, *, has_body: bool) -> str:
        words = ["curl"]
        if method not in ("GET", "POST") or (method == "POST" and not has_body):
            words += ["-X", method]
        if self._needs_token(path):
            words += ["-H", '"Authorization: Bearer $TOKEN"']
        if has_body:
            example = self._examples.get(path)
            words += ["-d", "@request.json" if example is None else shlex.quote(json.dumps(example))]
        url = origin + path
        for name, value in (("{job}", "$JOB"), ("{", ""), ("}", "")):
            url = url.replace(name, value)
        return " ".join([*words, url if shlex.quote(url) == url else f'"{url}"' if "$" in url else shlex.quote(url)])


def _parameter(parameter: Mapping[str, Any]) -> Member:
    return Member(
        parameter["name"],
        _type_text(parameter["schema"]),
        parameter.get("required", False),
        parameter.get("description", ""),
        parameter["in"],
    )


def _response(status: str, response: Mapping[str, Any]) -> Response:
    return Response(
        status,
        response["description"],
        [(media, _type_text(content["schema"])) for media, content in response.get("content", {}).items()],
        {name: header.get("description", "") for name, header in response.get("headers", {}).items()},
    )


def _object_types(document: Mapping[str, Any]) -> Iterator[ObjectType]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        required = schema.get("required", ())
        members = [
            Member(key, _type_text(inner), key in required, inner.get("description", ""))
            for key, inner in schema.get("properties", {}).items()
        ]
        if not members:
            members = [Member("", _type_text({k: v for k, v in schema.items() if k != "description"}), False, "")]
        yield ObjectType(name, schema.get("description", ""), members)


def _type_text(schema: Mapping[str, Any], depth: int = 0) -> str:
    """Return a short text for the type that a JSON Schema describes."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if depth > _MAX_DEPTH:
        return "…"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type_text(inner, depth + 1) for inner in schema[key]))
    if "enum" in schema:
        if set(FLAGS) <= set(schema["enum"]):
            return "true | false"  # docs/model-server.md lists the other texts for true and false
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(map(str, kind))
    if kind == "array":
        items = schema.get("items")
        return f"[{_type_text(items, depth + 1)}]" if isinstance(items, Mapping) and items else "[…]"
    if kind == "object" or "additionalProperties" in schema:
        inner = schema.get("additionalProperties")
        return f"{{name: {_type_text(inner, depth + 1)}}}" if isinstance(inner, Mapping) and inner else "object"
    if kind is None:
        return "any"
    return str(kind) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    words: Sequence[tuple[str, str]] = (
        ("minimum", "≥ {}"), ("exclusiveMinimum", "> {}"), ("maximum", "≤ {}"), ("exclusiveMaximum", "< {}"),
        ("minLength", "≥ {} characters"), ("maxLength", "≤ {} characters"), ("format", "{}"),
    )  # fmt: skip
    stated = [word.format(f"{schema[key]:g}" if isinstance(schema[key], float) else schema[key])
              for key, word in words if key in schema]  # fmt: skip
    return f" ({', '.join(stated)})" if stated else ""
