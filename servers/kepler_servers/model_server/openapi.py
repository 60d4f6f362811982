"""The description of the endpoints (`GET /openapi.json`)."""

from __future__ import annotations

from typing import Any

import msgspec

from kepler_core import __version__
from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.wire import ModelRequestBody

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}


def document(model_path: str) -> dict[str, Any]:
    """The OpenAPI document; `model_path` is where models are asked for."""
    (body,), schemas = msgspec.json.schema_components([ModelRequestBody], ref_template="#/components/schemas/{name}")
    # the decoder takes any text, to answer with the close matches
    schemas["ModelRequestBody"]["properties"]["output_type"] = {"enum": list(OUTPUT_TYPES)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kepler Core model server",
            "version": __version__,
            "description": "Gives the power model that fits a machine best, and says why.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            model_path: {"post": _ask(body)},
            "/best-models": {
                "get": _get(
                    "The model with the lowest error per output type and feature group.",
                    {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": _TEXT}},
                    _filters(),
                )
            },
            "/models": {
                "get": _get(
                    "The models that are served, lowest error first.",
                    {
                        "type": "object",
                        "required": ["total", "models"],
                        "properties": {
                            "total": _NUMBER,
                            "models": {"type": "array", "items": {"$ref": "#/components/schemas/StoredModel"}},
                        },
                    },
                    [
                        _parameter("pipeline", _TEXT),
                        _parameter("trainer", _TEXT),
                        *_filters(),
                        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
                        _parameter("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}),
                    ],
                )
            },
            "/models/{pipeline}/{source}/{output_type}/{feature_group}/{name}": {
                "get": {
                    "summary": "A model's metadata; with .json at the end its weights, with .zip its archive.",
                    "parameters": [
                        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                        for name in ("pipeline", "source", "output_type", "feature_group", "name")
                    ],
                    "responses": {
                        "200": {
                            "description": "The model.",
                            "content": {
                                "application/json": {"schema": {"type": "object"}},
                                "application/zip": {"schema": {}},
                            },
                        },
                        **_errors(404, 503),
                    },
                }
            },
            "/node-types": {"get": _get("The kinds of machines of each pipeline.", {"type": "object"})},
            "/metrics": {
                "get": {
                    "summary": "Prometheus metrics: weights and errors of the models, requests and latencies.",
                    "responses": {
                        "200": {"description": "Metrics.", "content": {"text/plain": {"schema": _TEXT}}},
                    },
                }
            },
            "/healthz": {"get": _get("What is served and what is broken.", {"$ref": "#/components/schemas/Health"})},
            "/readyz": {
                "get": _get(
                    "Whether the store has been read.",
                    {"$ref": "#/components/schemas/Health"},
                    more={
                        "503": {
                            "description": "Not yet.",
                            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}},
                        }
                    },
                )
            },
            "/openapi.json": {"get": _get("This document.", {"type": "object"})},
        },
        "components": {"schemas": {**schemas, **_SCHEMAS}},
    }


_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["msg"],
        "properties": {
            "msg": {**_TEXT, "description": "One line: what is wrong and what would be right."},
            "key": {**_TEXT, "description": "The part of the request that is wrong."},
            "selection": {"type": "object", "description": "What was considered and why it was dropped."},
        },
    },
    "Selection": {
        "type": "object",
        "description": "Why this model.",
        "required": ["pipeline", "model", "trainer", "features", "error", "node_type", "candidates"],
        "properties": {
            "pipeline": _TEXT,
            "version": {"type": ["integer", "null"]},
            "model": _TEXT,
            "trainer": _TEXT,
            "features": {"type": "array", "items": _TEXT},
            "error": {"type": "object"},
            "node_type": {
                "type": "object",
                "required": ["match", "number", "machine_spec"],
                "properties": {
                    "match": {"enum": ["given", "exact", "nearest", "unknown", "any"]},
                    "number": _NUMBER,
                    "machine_spec": {"type": "object"},
                    "similarity": {"type": "number", "minimum": 0, "maximum": 1},
                    "looseness": {"type": "number"},
                    "uncertainty": {"type": "number"},
                    "attributes": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
                },
            },
            "candidates": {
                "type": "object",
                "required": ["considered", "dropped"],
                "properties": {
                    "considered": _NUMBER,
                    "dropped": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["by", "count", "why"],
                            "properties": {"by": _TEXT, "count": _NUMBER, "why": _TEXT},
                        },
                    },
                },
            },
            "runner_up": {"type": "object"},
        },
    },
    "Weights": {
        "type": "object",
        "description": "Weights per component as Kepler evaluates them; with explain=1 only the selection.",
        "required": ["selection"],
        "properties": {
            "model_name": _TEXT,
            "machine_spec": {"type": "object"},
            "selection": {"$ref": "#/components/schemas/Selection"},
        },
    },
    "StoredModel": {
        "type": "object",
        "required": ["pipeline", "path", "model_name", "source", "output_type", "feature_group", "trainer", "features"],
        "properties": {
            "pipeline": _TEXT,
            "version": {"type": ["integer", "null"]},
            "path": _TEXT,
            "model_name": _TEXT,
            "source": _TEXT,
            "output_type": {"enum": list(OUTPUT_TYPES)},
            "feature_group": _TEXT,
            "trainer": _TEXT,
            "node_type": _NUMBER,
            "features": {"type": "array", "items": _TEXT},
            "portable": {"type": "boolean"},
            "weights": {"type": "boolean"},
            "no_weights": {"type": ["string", "null"]},
            "errors": {"type": "object"},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status", "models", "pipelines", "broken"],
        "properties": {
            "status": {"enum": ["ok", "degraded"]},
            "version": _TEXT,
            "store": _TEXT,
            "store_problem": {"type": ["string", "null"]},
            "models": _NUMBER,
            "pipelines": {"type": "object"},
            "broken": {"type": "object", "additionalProperties": _TEXT},
        },
    },
}


def _ask(body: Any) -> dict[str, Any]:
    return {
        "summary": "The model that fits best: weights as JSON, or the model as a zip.",
        "parameters": [_parameter("explain", {"enum": ["0", "1", "true", "false"]})],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The model.",
                "headers": {
                    "X-Kepler-Model": {"schema": _TEXT, "description": "Pipeline and path of the model."},
                    "X-Kepler-Selection": {"schema": _TEXT, "description": "For a zip: the selection as JSON."},
                },
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Weights"}},
                    "application/zip": {"schema": {}},
                },
            },
            **_errors(400, 404, 408, 413, 503),
        },
    }


def _get(
    summary: str,
    schema: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "As asked.", "content": {"application/json": {"schema": schema}}},
            **(more or {}),
        },
    }
    if parameters:
        found["parameters"] = parameters
        found["responses"] |= _errors(400)
    return found


def _filters() -> list[dict[str, Any]]:
    return [
        _parameter("energy-source", _TEXT),
        _parameter("output-type", {"enum": list(OUTPUT_TYPES)}),
        _parameter("feature-group", _TEXT),
        _parameter("node-type", {"type": "integer", "minimum": 0, "maximum": 2**31}),
        _parameter("filter", {**_TEXT, "example": "mae:5;package_mape:10"}),
    ]


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


_WHY = {
    400: "Something in the request cannot be right.",
    404: "Nothing fits; the answer says what came closest.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    503: "The store cannot be read.",
}


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {
            "description": _WHY[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status in statuses
    }
