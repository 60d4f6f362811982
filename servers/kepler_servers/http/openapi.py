"""Parts of the documents that describe the servers' endpoints (`GET /openapi.json`)."""

from __future__ import annotations

from typing import Any

from kepler_core import __version__

TEXT = {"type": "string"}
NUMBER = {"type": "integer", "minimum": 0}


def described(title: str, description: str, paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document of a server; `schemas` has at least `Error`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": __version__,
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def error_schema(**more: Any) -> dict[str, Any]:
    """What a status other than 2xx comes with."""
    return {
        "type": "object",
        "required": ["msg"],
        "properties": {
            "msg": {**TEXT, "description": "One line: what is wrong and what would be right."},
            "key": {**TEXT, "description": "The part of the request that is wrong."},
            **more,
        },
    }


def metrics(what: str) -> dict[str, Any]:
    """`GET /metrics`."""
    return {
        "get": {
            "summary": f"Prometheus metrics: {what}.",
            "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {"schema": TEXT}}}},
        }
    }


def get(
    summary: str,
    schema: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A GET that answers with JSON of this schema; `more` are other answers."""
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "As asked.", "content": {"application/json": {"schema": schema}}},
            **(more or {}),
        },
    }
    if parameters:
        found["parameters"] = parameters
        found["responses"] |= errors(400)
    return found


def parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter of the query."""
    return {"name": name, "in": "query", "schema": schema}


_WHY = {
    400: "Something in the request cannot be right.",
    401: "The token is missing or wrong.",
    404: "Nothing is there, or nothing fits; the answer says what came closest.",
    408: "The body did not come in time.",
    409: "It is too late, or too early, for that.",
    410: "It was there, and was removed.",
    413: "The body is too large.",
    415: "The body is encoded in a way that is not known.",
    422: "The request is right, but nothing can be made of it.",
    500: "A defect of the server; its log says more.",
    503: "Not now: too much to do, stopping, or the store cannot be used.",
    507: "The disk is full.",
}


def errors(*statuses: int) -> dict[str, Any]:
    """Answers of these statuses, each with an `Error`."""
    return {
        str(status): {
            "description": _WHY[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in statuses
    }
